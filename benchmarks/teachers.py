"""Which latents serve best: one student from the labels of many teachers, its bits and completions.

    PCDISTILL_DATA=… python benchmarks/teachers.py        # one core; goes on where it stopped

CIFAR-10 in RGB, 4×4 patches. Labels come from a teacher, with 16, 64 and, some of them, 256 values:
  noise         a hash of the image; knows nothing
  colour        k-means of a patch's mean colour
  around        k-means of the mean colours of the 3×3 patches around: neighbours share most of it
  pixels, pca   k-means of the patch itself, or of its first 8 principal components
  vq codes      bottom codes of a VQ-VAE-2 that decodes patch by patch
  vq vectors    k-means of its two codebook vectors; `vq + colour`: mean colour appended
  conv vectors  the same of a VQ-VAE-2 with a convolutional decoder
  mae           k-means of tokens of a masked auto-encoder; `mae + colour`: mean colour appended
  switching     patch latents of the switching autoregression
The student is latent variable distillation as it stands: one normal for each label, its moments
those of the patches with that label, and a Chow-Liu latent prior counted from the labels (start);
then passes of EM on log p(x) (tuned). All numbers are of validation images:
  given, own    I(z; z_neighbour) in bits, of the teacher's labels and of the student's latents
                after tuning: what a table of pairs side by side (one for beside, one for below),
                counted from training images, saves on validation images (pseudocount of a row: the
                best of four there). Many values look informative where they are counted; here
                labels without information have 0 or less
  entropy       of a label, bits, pooled over patches
  bits          exact bits/dim of whole images; `hidden`: bits of a hidden value given the seen
  psnr          of the posterior mean on hidden values, dB; masks hide whole patches
  ceiling       the same, were the latents inferred from the whole image, the hidden part included
`apart` is the paired difference to `pixels` of the same number of values and seed, image by image,
with its standard error; in dB it is that of the squared error, relative to the mean one of
`pixels`. A seed draws the training images, disjoint ones, the teacher, the student.
Results: nbs/experiments/results/teachers-cifar10.json, after every row; what is there is not run
again. Seconds are processor time. E02 shows them.
"""
import argparse, json, math, sys, time
from pathlib import Path
import torch
from einops import rearrange, reduce
from torch.nn import functional as F
from cells import EXTRA, definitions
from chain import COMMIT, RESULTS, timed
from pcdistill.circuit import soft_posterior
from pcdistill.clusters import assign, kmeans
from pcdistill.colour import RGB
from pcdistill.core import bpd, rng
from pcdistill.data import images
from pcdistill.emission import moments_of_rows
from pcdistill.evaluate import bits, mean_bits
from pcdistill.image import Image, finetune
from pcdistill.inpainting import MASKS
from pcdistill.inputs import one_hot_evidence
from pcdistill.latent_prior import fit_latent_prior
from pcdistill.latents import TEACHERS as KINDS, extract, features, load_teacher
from pcdistill.extra.mae import MAE, MAEConfig
from pcdistill.normals import Normals, start_
from pcdistill.patches import from_patches, to_patches
from pcdistill.priors import choose_prior, simple_priors
from pcdistill.runs import save, save_json
from pcdistill.teacher import ControlConfig, PixelTeacher, bound
from pcdistill.vqvae import VQConfig, VQVAE2

PATCH, SIDE, KS, ASKED = 4, 8, (64, 16, 256), ('left', 'centre', 'strips')
N = SIDE**2                                        # patches of an image

# teachers of notebooks: from their code, and known by name, so that their files can be read
controls, conv, switching = (definitions(EXTRA/f'{name}.ipynb')
                             for name in ('controls', 'conv', 'switching'))
sys.modules |= dict(controls=controls, conv=conv, switching=switching)
KINDS |= dict(noise='controls:NoiseTeacher', pca='controls:PCATeacher',
              vqconv='conv:ConvVQVAE2', switching='switching:SwitchingAR')

def vq(kind):
    def fit(x, K, gen):
        return kind.fit(x, VQConfig.tiny(PATCH, K_bottom=K, epochs=30), gen, progress=False)
    return fit

TEACHERS = dict(
    noise=lambda x, K, gen: controls.fit_noise(x, PATCH, K, gen),
    pixels=lambda x, K, gen: PixelTeacher.fit(x, ControlConfig(PATCH, K), gen),
    pca=lambda x, K, gen: controls.fit_pca(x, PATCH, K, gen),
    vq=vq(VQVAE2), conv=vq(conv.ConvVQVAE2),
    mae=lambda x, K, gen: MAE.fit(x, MAEConfig.tiny(PATCH, K=K), gen, progress=False),
    switching=lambda x, K, gen: switching.SwitchingAR.fit(
        x, switching.SwitchingConfig(PATCH, K, passes=4, n_fit=1000), gen, progress=False))

def colour(x):
    "Mean colour of each patch."
    return reduce(x.float(), 'b c (h p) (w q) -> b (h w) c', 'mean', p=PATCH, q=PATCH)

def around(x):
    "Mean colours of the 3×3 patches around each."
    f_bchw = F.pad(rearrange(colour(x), 'b (h w) c -> b c h w', h=SIDE), (1,)*4, 'replicate')
    return rearrange(F.unfold(f_bchw, 3), 'b f n -> b n f')

def with_colour(f_bnf, x):
    "Features and mean colour, both with variance 1 in all."
    both = f_bnf, colour(x)
    return torch.cat([f/f.flatten(0, 1).var(0).sum().sqrt() for f in both], -1)

# labels → teacher, and features for k-means; None: the teacher's own codes
LABELS = {'pixels': ('pixels', None), 'noise': ('noise', None), 'pca': ('pca', None),
          'colour': (None, lambda t, x: colour(x)), 'around': (None, lambda t, x: around(x)),
          'mae': ('mae', features),
          'mae + colour': ('mae', lambda t, x: with_colour(features(t, x), x)),
          'vq codes': ('vq', None), 'vq vectors': ('vq', features),
          'vq + colour': ('vq', lambda t, x: with_colour(features(t, x), x)),
          'conv vectors': ('conv', features), 'switching': ('switching', None)}
FEW = {'vq codes': (64,)} | {name: (64, 16) for name in       # the others are slow
       ('pca', 'mae + colour', 'vq + colour', 'conv vectors', 'switching')}

def teacher_of(kind, K, seed, splits, folder, done):
    "A teacher from its file, or trained; with 64 values its bound on validation images is stored."
    train, valid, file = *splits, folder/f'{kind}-{K}-{seed}-{len(splits[0])}.safetensors'
    told = dict(teacher=kind, K=K, seed=seed)
    if any(told.items() <= t.items() for t in done['teachers']) and file.is_file():
        return load_teacher(file)
    made, seconds = timed(TEACHERS[kind], train, K, rng(seed))
    save(file, *made.state())
    told |= dict(seconds=seconds, commit=COMMIT)
    if made.has_likelihood and K==64:
        priors = simple_priors(extract(made, train), made.n_codes)
        prior = choose_prior(priors, extract(made, valid))
        L = bound(made, prior.prior, valid)
        told |= dict(prior=prior.name)
        told |= dict(bound=bits(L.conditional_b + L.codes_prior_b, valid[0].numel())._asdict())
    done['teachers'].append(told)
    return made

def labels(name, K, teacher, splits, gen) -> list:
    "The latent value of each patch, of training and validation images."
    way = LABELS[name][1]
    if way is None:
        return [extract(teacher, x)[:, :N].long() for x in splits]
    f = [way(teacher, x) for x in splits]
    mean_kf = kmeans(f[0].flatten(0, 1), K, gen, n_fit=60_000, steps=20)
    return [assign(f_bnf, mean_kf) for f_bnf in f]

def shares(train_z, valid_z, K) -> float:
    "I(z; z_neighbour) in bits, counted on training images, measured on validation images."
    saved = []
    for way in ('b h w -> b h w', 'b h w -> b w h'):      # beside, below
        at, to = (rearrange(rearrange(z, 'b (h w) -> b h w', h=SIDE), way)
                  for z in (train_z, valid_z))
        pair_kk = torch.zeros(K*K).index_add_(0, (at[:, :, :-1]*K + at[:, :, 1:]).flatten(),
                                              torch.ones(at[:, :, 1:].numel())).view(K, K)
        own_k = (pair_kk.sum(0) + .5)/(pair_kk.sum() + .5*K)
        best = []
        for a in (1., 10., 100., 1000.):                  # pseudocounts of a row
            p_kk = (pair_kk + a*own_k)/(pair_kk.sum(1, keepdim=True) + a)
            best.append(float((p_kk/own_k).log2()[to[:, :, :-1], to[:, :, 1:]].mean()))
        saved.append(max(best))
    return sum(saved)/2

def entropy(z, K) -> float:
    p_k = torch.bincount(z.flatten(), minlength=K)/z.numel()
    return float(torch.special.entr(p_k).sum()/math.log(2))

def student(x, z_bn, K) -> Image:
    "Moments of each label's patches, and a counted prior."
    y_xd = to_patches(x, PATCH).flatten(0, 1)
    e = Normals(K, PATCH**2*3, 256, K, shrink=200.)
    start_(e, y_xd, z_bn.flatten())
    return Image(e, fit_latent_prior(z_bn, K), RGB, PATCH, tuple(x.shape[1:]))

def own(image, x) -> torch.Tensor:
    "The likeliest latent of each patch by its own pixels."
    y_xd = to_patches(x, PATCH).long().flatten(0, 1)
    return image.emission.label(y_xd).view(len(x), -1)

@torch.no_grad()
def answers(image, x, K) -> dict:
    """Of every image: bits/dim, and for each mask bits of hidden values and squared errors of the
    mean, with the latents inferred and with them known. Masks hide whole patches, so evidence and
    the means of heads are asked once."""
    e_bnk = torch.cat([image.evidence(part) for part in x.split(100)])
    whole_b, d = image.prior(e_bnk)[:, 0].double(), x[0].numel()
    nothing_kd = torch.zeros(K, PATCH**2*3, dtype=torch.long)
    mean_kd = moments_of_rows(image.emission, nothing_kd, nothing_kd > 0, torch.eye(K)).mean_xd
    sure_bnk, out = soft_posterior(image.prior, e_bnk), dict(bits=bpd(whole_b, d))
    for name in ASKED:
        seen_hw = MASKS[name](*x.shape[2:], rng(0))
        seen_n = to_patches(seen_hw[None, None].byte(), PATCH)[0].bool()
        assert bool((seen_n==seen_n[:, :1]).all()), 'wanted masks of whole patches'
        lp_bnk = e_bnk.where(seen_n[:, :1], 0.)
        w_bnk, n = soft_posterior(image.prior, lp_bnk), int((~seen_hw).sum())*3
        out[f'hidden {name}'] = bpd(whole_b - image.prior(lp_bnk)[:, 0].double(), n)
        for what, w in (('psnr', w_bnk), ('ceiling', sure_bnk)):
            off = from_patches(w @ mean_kd, PATCH, *x.shape[1:]).clamp(0, 255) - x.float()
            out[f'{what} {name}'] = off[:, :, ~seen_hw].square().flatten(1).mean(1).double()
    for what in ('hidden', 'psnr', 'ceiling'):
        out[what] = torch.stack([out[f'{what} {name}'] for name in ASKED]).mean(0)
    return out

def told_of(answer, against) -> dict:
    "Means of what was answered image by image, and paired differences to another's."
    def number(name, v_b):
        squared = name.split()[0] in ('psnr', 'ceiling')
        return 10*math.log10(255**2/float(v_b.mean())) if squared else float(v_b.mean())
    out = {name: number(name, v_b) for name, v_b in answer.items()}
    apart = {name: mean_bits(answer[name] - against[name]) for name in ('bits', 'hidden')}
    # decibels of the mean error: differences of errors, on its scale at the other's mean
    scale = 10/math.log(10)/float(against['psnr'].mean())
    lost = mean_bits(answer['psnr'] - against['psnr'])
    apart['psnr'] = lost._replace(bits=out['psnr'] - number('psnr', against['psnr']),
                                  stderr=lost.stderr*scale)
    return out | dict(apart={name: dict(mean=e.bits, stderr=e.stderr) for name, e in apart.items()})

def row(name, K, teacher, splits, a, seed, file) -> dict:
    "A student of these labels; its answers go into a file, for comparisons."
    train, valid = splits
    z, s = timed(labels, name, K, teacher, splits, rng(seed + 100))
    out = dict(given=shares(*z, K), entropy=entropy(z[1], K))
    image, made = timed(student, train, z[0], K)
    answer = dict(start=answers(image, valid, K))
    _, tuned = timed(finetune, image, train, rng(seed + 200), epochs=a.tuning, batch=500,
                     progress=False)
    answer['tuned'] = answers(image, valid, K)
    torch.save(answer, file(name))
    others = torch.load(file('pixels'))
    out |= {when: told_of(answer[when], others[when]) for when in answer}
    z_bn = own(image, valid)
    return out | dict(own=shares(own(image, train), own(image, valid), K),
                      seconds=dict(labels=s, student=made, tuning=tuned), commit=COMMIT)

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--images', type=int, default=2000)
    p.add_argument('--valid', type=int, default=200)
    p.add_argument('--seeds', type=int, default=1)
    p.add_argument('--tuning', type=int, default=1, help='passes of EM on log p(x)')
    p.add_argument('--minutes', type=float, default=1e9, help='no row begins after that')
    p.add_argument('--runs', type=Path, default=Path('runs/teachers'))
    p.add_argument('--out', type=Path, default=RESULTS/'teachers-cifar10.json')
    a = p.parse_args()
    torch.set_num_threads(1)
    begun, valid = time.monotonic(), images('cifar10', 'valid', a.valid)
    a.runs.mkdir(parents=True, exist_ok=True)
    done = json.loads(a.out.read_text()) if a.out.exists() else dict(
        data='cifar10', patch=PATCH, images=dict(train=a.images, valid=len(valid)),
        tuning=a.tuning, masks=ASKED, teachers=[], rows=[])
    wanted = [(s, K, n) for s in range(a.seeds) for n in LABELS for K in FEW.get(n, KS)]
    for seed, K, name in sorted(wanted, key=lambda w: w[1]==256):   # the slow ones last
        told = dict(labels=name, K=K, seed=seed)
        if any(told.items() <= r.items() for r in done['rows']):
            continue
        if time.monotonic() - begun > 60*a.minutes:
            break
        train = images('cifar10', 'train', a.images*(seed+1))[a.images*seed:]
        kind, way = LABELS[name]
        teacher = kind and teacher_of(kind, K if way is None else 64, seed, (train, valid),
                                      a.runs, done)
        def file(name):
            return a.runs/f'answers-{name}-{K}-{seed}-{a.images}.pt'
        told |= dict(teacher=kind) | row(name, K, teacher, (train, valid), a, seed, file)
        done['rows'].append(told)
        save_json(a.out, done)
        print(seed, f'{name:12} {K:4}', '  '.join(f'{k} {told[k]:.2f}' for k in
              ('given', 'own')), '  '.join(
              f"{when} {told[when]['bits']:.4f} {told[when]['psnr']:.2f} dB"
              for when in ('start', 'tuned')), f"ceiling {told['tuned']['ceiling']:.2f}",
              f"{sum(told['seconds'].values()):.0f} s", flush=True)

if __name__=='__main__':
    main()
