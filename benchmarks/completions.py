"""Completions on all masks of the package, by everything that can be asked, on the same test images.

    PCDISTILL_DATA=… python benchmarks/completions.py --data cifar10        # one core, about an hour
    … --data fashion_mnist
    … --data tiny_imagenet_64 --halve     # at 32×32

The network takes most of the time; it goes on where it was when it is stopped. On a GPU, a larger one:

    … --data cifar10 --network paper --device cuda --models   # makes models, asks nothing; here or
    …                                                         # elsewhere, then without --models

`--models` tells how many images a second it trains on before it starts, and what that makes in all.
`paper` is 10 million images alone and 2.5 million through the circuit (`NETWORKS`).

Asked are
  nearest      the mean of the k training images nearest on the seen pixels, k chosen on validation
               images for each mask; no distribution
  plain HCLT   one hidden Chow-Liu tree over all values, random start, 2 M parameters
  circuit      normals on patches, a quarter of the image's side (64 labels by k-means × 8 scales), a
               Chow-Liu latent prior counted from the components of 20,000 images; no teacher
  normal       one normal over whole images, its ridge chosen on validation images
  innovations  a circuit over the innovations of such a normal (mirrored images too where they are as
               likely: not in Fashion-MNIST)
  network      the same model, a network of `masked` saying what to expect (400,000 images alone,
               then 100,000 through the circuit; mirrored ones as above)
For every mask (random90: one mask for all images):
  psnr     of the mean on hidden values, pooled over images, dB
  saved    mean squared error that `network` saves against this one, image by image, with its
           standard error (`stderr`); `saved_innovations`: that `innovations` saves
  bits     −log2 p(hidden | seen) per hidden value, exact probabilities of integers (the circuit has
           them of whole patches only)
  density  the same of the density, dequantised: an upper bound on what its integers cost
  seam     of draws: mean absolute step between neighbours across borders of squares over that inside
           squares, both ends hidden; squares of the circuit's patches, and of the cells; `images`:
           of the images themselves
  spread   standard deviation between two draws, grey levels
  frechet  of first draws: Fréchet distance between normals of 64 features of a small classifier, of
           the draws and of the true images (Heusel et al., GANs Trained by a Two Time-Scale Update
           Rule, arXiv 1706.08500); `images`: of the true images and as many other test images. It
           falls with the number of images: compare equal numbers only (`few`). Draws share their
           seen part with the true images, so they can lie nearer than other images do
  seconds  of all of it
The first --images test images; the plain HCLT and the circuit the first --few of them, and the
others on those too where they are compared (`few`).
Results: nbs/experiments/results/completions-DATA.json, after every row, and pictures of the first
eight images (not of tiny_imagenet's, which are not ours to show); models in --runs, by the command
that is in the file. The classifier's accuracy on all test images is there too; it learns from the
labels in PCDISTILL_DATA/DATA.
"""
import argparse, copy, json, math, os, time
from dataclasses import replace
from pathlib import Path
import pyarrow.parquet as pq
import torch
from PIL import Image as Picture
from torch import nn
from chain import COMMIT, RESULTS
from pcdistill.clusters import assign, kmeans
from pcdistill.colour import COLOURS, RGB
from pcdistill.core import device, rng
from pcdistill.data import images, open_split
from pcdistill.either import SquaresConfig
from pcdistill.emission import Labelled, family
from pcdistill.evaluate import fit_one_normal, fit_plain_hclt
from pcdistill.image import Image, image_state, load_image
from pcdistill.extra.innovations import (Asked, Innovations, InnovationsConfig, dequantised,
                                         fit_innovations, fit_network, normal_of)
from pcdistill.extra.masked import MaskedConfig, MaskedNet
from pcdistill.inpainting import MASKS, load_completer
from pcdistill.latent_prior import fit_latent_prior
from pcdistill.patches import to_patches
from pcdistill.runs import load, save, save_json
from pcdistill.show import strip

LABELS, SCALES, CELL = 64, 8, 4
NETWORKS = dict(tiny=MaskedConfig(width=16, batch=64, lr=4e-3), small=MaskedConfig(), paper=MaskedConfig(
    width=128, epochs=200, per_epoch=50_000, batch=256, lr=1e-3, through=50))

def split(data, name, n, halve):
    x = images(data, name, n)
    if halve:
        x = torch.nn.functional.avg_pool2d(x.float(), 2).round().byte()
    return x

def circuit_of(x) -> Image:
    "Normals under k-means labels, and a counted prior."
    side, gen = x.shape[-1]//4, rng(0)
    y_bnd = to_patches(x, side)
    mean_kf = kmeans(y_bnd.float().flatten(0, 1), LABELS, gen, n_fit=60_000, steps=12)
    y_xd, z_x = y_bnd.long().flatten(0, 1), assign(y_bnd.float(), mean_kf).flatten().long()
    rows = Labelled(y_xd, z_x[:, None], 256, LABELS, side)
    e, _ = family('normals').fit(rows, SquaresConfig(epochs=4, scales=SCALES), gen, progress=False)
    heads_bn = e.label(y_xd, z_x).view(len(x), -1)
    return Image(e, fit_latent_prior(heads_bn, e.n_heads), RGB, side, tuple(x.shape[1:]))

def made(file:Path, make, load, state):
    "A model from its file, made if it is not there."
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        save(file, *state(make()))
        print(f'{file.name}: {time.monotonic() - start:.0f} s', flush=True)
    return load(file)

def planned(model, x_bchw, config) -> str:
    "What training a network will take, from two batches of each of its two parts."
    per_image, dev = [], x_bchw.device
    for through in (0, 2):
        start = time.monotonic()
        some = replace(config, epochs=2, through=through, per_epoch=len(x_bchw))
        fit_network(copy.deepcopy(model), x_bchw, some, rng(0, dev), progress=False)
        per_image.append((time.monotonic() - start)/2/len(x_bchw))
    alone, both = per_image
    minutes = (config.epochs*alone + config.through*max(0, both - alone))*config.per_epoch/60
    return f'{1/alone:.0f} images a second alone; all of the training, about {minutes:.0f} minutes'

def models(train, valid, a) -> dict:
    "Name → what is asked."
    def one(name, make, load=load_image, state=image_state):
        return made(a.runs/f'{a.data}-{name}.safetensors', make, load, state)
    normal = one('normal', lambda: fit_one_normal(train, valid))
    config = InnovationsConfig(cell=CELL, K=a.K, n_fit=45_000, mirror=a.data!='fashion_mnist')
    def innovations():
        ckpt = a.runs/f'{a.data}-innovations.ckpt'
        return fit_innovations(train, valid, config, rng(0), ckpt)
    told = one('innovations', innovations, load_completer, Innovations.state)
    better = copy.deepcopy(told)
    dev, preset = device(a.device), '' if a.network=='small' else f'-{a.network}'
    masked = replace(NETWORKS[a.network], mirror=config.mirror)
    def net():
        better.to(dev)
        print(planned(better, train[:masked.batch].to(dev), masked), flush=True)
        ckpt = a.runs/f'{a.data}-masked{preset}.ckpt'
        fit_network(better, train.to(dev), masked, rng(0, dev), ckpt)
        return better.to('cpu').network
    better.network = one(f'network{preset}', net, lambda file: MaskedNet.from_state(*load(file)),
                         MaskedNet.state)
    plain = one('plain', lambda: fit_plain_hclt(train[:20_000], COLOURS['rgb'], 2_000_000, rng(0)))
    return {'plain HCLT': plain, 'circuit': one('circuit', lambda: circuit_of(train[:20_000])),
            'normal': Innovations(*normal_of(normal), tuple(train.shape[1:]), CELL, 1),
            'innovations': told, 'network': better}

@torch.no_grad()
def ask(model, x, seen_hw, gen) -> tuple:
    "Mean, two draws, log-density and log-probability of the hidden values, if there is one."
    if isinstance(model, Innovations):
        asked = Asked(model, x, seen_hw)
        nats_b = asked.log_prob(dequantised(asked.x_bd, gen))
        draws = [asked.draw(gen) for _ in range(2)]
        return asked.images(asked.mean_bh).float(), draws, nats_b, asked.log_mass()
    seen = seen_hw.expand(len(x), -1, -1)
    exact, rows_bd, seen_bd = bool(model.exact(seen).all()), model.rows(x), model.mask_rows(seen)
    def nats(rows_bd, density):
        full_b, seen_b = (model.tiles(rows_bd, m, None, density)[:, 0] for m in (None, seen_bd))
        return (full_b - seen_b).double()
    mass_b = nats(rows_bd, False) if exact else torch.full((len(x),), math.nan)
    smooth = model.patch is not None # else the plain HCLT, whose two meanings are one
    u_bd = (torch.rand(rows_bd.shape, generator=gen) - .5)*~seen_bd
    nats_b = nats(rows_bd + u_bd, True) if smooth else mass_b
    draws = [model.draw(x, seen, gen) for _ in range(2)]
    return model.moments(x, seen).mean_bchw, draws, nats_b, mass_b

def answers(model, x, seen_hw, gen) -> tuple:
    mean, draws, *nats = zip(*(ask(model, part, seen_hw, gen) for part in x.split(50)))
    return torch.cat(mean), [torch.cat(d) for d in zip(*draws)], *map(torch.cat, nats)

def classes(data, name) -> torch.Tensor:
    "The label of each image of a split."
    found = open_split(data, name)
    file = Path(os.environ['PCDISTILL_DATA'])/data/f'{found.part}.parquet'
    labels = pq.read_table(file, columns=['label'])['label'].to_numpy()
    return torch.tensor(labels[list(found.rows)])

def network(c, n) -> nn.Sequential:
    "Images of c channels → 64 features → scores of n classes."
    layers = [nn.BatchNorm2d(c)]
    for i, o in ((c, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(i, o, 3, 2, 1), nn.ReLU(), nn.BatchNorm2d(o)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, n))

def fit_classifier(x, y_b, epochs=3, batch=100) -> nn.Sequential:
    torch.manual_seed(0)
    net, gen = network(x.shape[1], int(y_b.max()) + 1), rng(0)
    opt = torch.optim.AdamW(net.parameters(), weight_decay=.01)
    plan = torch.optim.lr_scheduler.OneCycleLR(opt, 3e-3, epochs*(len(x)//batch))
    for _ in range(epochs):
        for at in torch.randperm(len(x), generator=gen).split(batch)[:len(x)//batch]:
            opt.zero_grad()
            nn.functional.cross_entropy(net(x[at].float()), y_b[at]).backward()
            opt.step()
            plan.step()
    return net

def classifier_state(net) -> tuple[dict, dict]:
    return net.state_dict(), dict(sizes=[net[0].num_features, net[-1].out_features])

def load_classifier(file) -> nn.Sequential:
    tensors, meta = load(file)
    net = network(*meta['sizes'])
    net.load_state_dict(tensors)
    return net.eval()

@torch.no_grad()
def outputs(net, x) -> torch.Tensor:
    return torch.cat([net(part.float()).double() for part in x.split(500)])

def frechet(f_xf, g_xf) -> float:
    "Between the normals that have the moments of two sets of features."
    f, g = torch.cov(f_xf.T), torch.cov(g_xf.T)
    root = torch.linalg.eigvals(f @ g).real.clamp_min(0).sqrt().sum()
    return float((f_xf.mean(0) - g_xf.mean(0)).square().sum() + f.trace() + g.trace() - 2*root)

class Judge:
    "How far images are from the true ones, in the features of a classifier."
    def __init__(self, net, x, few):
        self.net, self.few = net[:-1], few
        self.true_xf = outputs(self.net, x)

    def __call__(self, x) -> dict:
        f_xf, g_xf, few = outputs(self.net, x), self.true_xf[:len(x)], self.few
        return dict(frechet=frechet(f_xf, g_xf), frechet_few=frechet(f_xf[:few], g_xf[:few]))

def nearest(train, x, seen_hw, k) -> torch.Tensor:
    "Mean of the k training images nearest on the seen pixels."
    m, t = seen_hw.expand(x.shape[1:]).flatten(), train.flatten(1)
    t_seen = t[:, m].float() - 128
    size, out = t_seen.square().sum(1), []
    for part in x.split(100):
        near = (size - 2*(part.flatten(1)[:, m].float() - 128) @ t_seen.T).topk(k, largest=False)
        out.append(torch.stack([t[i].float().mean(0) for i in near.indices]).view(part.shape))
    return torch.cat(out)

def errors(mean, x, seen_hw) -> torch.Tensor:
    "Mean squared error of each image where hidden."
    off = (mean.clamp(0, 255) - x.float())[:, :, ~seen_hw]
    return off.square().flatten(1).mean(1).double()

def seam(x, hidden_hw, side) -> float:
    "Steps across borders of squares over steps inside, both ends hidden."
    across, inside = [], []
    for x, hidden in ((x.float(), hidden_hw), (x.float().mT, hidden_hw.T)):
        step, both = (x[..., 1:] - x[..., :-1]).abs(), hidden[:, 1:] & hidden[:, :-1]
        border = torch.arange(1, x.shape[-1]) % side==0
        across.append(step[..., both & border].flatten())
        inside.append(step[..., both & ~border].flatten())
    return float(torch.cat(across).mean()/torch.cat(inside).mean())

def seams(x, hidden_hw) -> dict:
    return dict(seam_patch=seam(x, hidden_hw, x.shape[-1]//4), seam_cell=seam(x, hidden_hw, CELL))

def row(se_b, few) -> dict:
    return dict(n_images=len(se_b), psnr=10*math.log10(255**2/float(se_b.mean())),
                few=10*math.log10(255**2/float(se_b[:few].mean())))

def asked_of(model, x, seen_hw, few, judge) -> tuple[dict, torch.Tensor]:
    start, n = time.monotonic(), int((~seen_hw).sum())*x.shape[1]
    mean, draws, *nats = answers(model, x, seen_hw, rng(1))
    se_b, spread = errors(mean, x, seen_hw), torch.stack(draws).float().std(0)[:, :, ~seen_hw].mean()
    more = dict(spread=float(spread), seconds=round(time.monotonic() - start, 1))
    for name, nats_b in zip(('density', 'bits'), nats):
        bits_b = -nats_b.double()/n/math.log(2)
        if not bits_b.isnan().any():
            more |= {name: float(bits_b.mean()), f'{name}_few': float(bits_b[:few].mean())}
    return row(se_b, few) | more | seams(draws[0], ~seen_hw) | judge(draws[0]), se_b

def picture(asked, x, seen_hw, file:Path):
    "The same images completed by every model."
    rows = dict(image=x, seen=torch.where(seen_hw, x, 128))
    for name, model in asked.items():
        mean, draws, *_ = ask(model, x, seen_hw, rng(2))
        if name!='plain HCLT':
            rows |= {f'{name}, draw': draws[0]}
        rows |= {f'{name}, mean': mean.clamp(0, 255)/255}
    rows |= {'network, another': draws[1]}
    strip(rows).savefig(file, dpi=90, bbox_inches='tight')
    Picture.open(file).convert('RGB').quantize(64).save(file, optimize=True)

def mask_rows(asked, splits, seen_hw, few, judge) -> dict:
    "Everything about one mask."
    train, valid, x, others = splits
    told, se = dict(images=seams(x, ~seen_hw) | judge(others)), {}
    k = min((1, 3, 10, 30, 100), key=lambda k: float(
        errors(nearest(train, valid[:200], seen_hw, k), valid[:200], seen_hw).mean()))
    se['nearest'] = errors(nearest(train, x, seen_hw, k), x, seen_hw)
    told['nearest'] = dict(k=k, **row(se['nearest'], few))
    for name, model in asked.items():
        some = x if isinstance(model, Innovations) else x[:few]
        told[name], se[name] = asked_of(model, some, seen_hw, few, judge)
        print(name, {k: round(v, 3) for k, v in told[name].items()}, flush=True)
    for name, se_b in se.items():
        for best, more in (('network', ''), ('innovations', '_innovations')):
            saved_b = se_b - se[best][:len(se_b)]
            told[name] |= {f'saved{more}': float(saved_b.mean()),
                           f'stderr{more}': float(saved_b.std()/len(se_b)**.5)}
    return told

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--data', default='cifar10')
    p.add_argument('--halve', action='store_true', help='images at half their size')
    p.add_argument('--images', type=int, default=500)
    p.add_argument('--few', type=int, default=100)
    p.add_argument('--K', type=int, default=128, help='normals of a cell')
    p.add_argument('--network', choices=NETWORKS, default='small')
    p.add_argument('--device', default='cpu', help='where the network is trained')
    p.add_argument('--models', action='store_true', help='make the models, ask nothing')
    p.add_argument('--runs', type=Path, default=Path('runs/completions'))
    p.add_argument('--masks', nargs='+', choices=MASKS, default=list(MASKS))
    p.add_argument('--out', type=Path, default=RESULTS, help='folder')
    a = p.parse_args()
    torch.set_num_threads(1)
    train, valid, test = (split(a.data, s, n, a.halve)
                          for s, n in (('train', None), ('valid', 1000), ('test', None)))
    x, others = test[:a.images], test[a.images:2*a.images]
    asked, out = models(train, valid, a), a.out/f'completions-{a.data}.json'
    if a.models:
        return
    if a.network!='small':
        out = out.with_stem(f'{out.stem}-{a.network}')
    net = made(a.runs/f'{a.data}-classifier.safetensors',
               lambda: fit_classifier(train, classes(a.data, 'train')), load_classifier,
               classifier_state)
    judge = Judge(net, x, a.few)
    done = json.loads(out.read_text()) if out.is_file() else dict(
        data=a.data, shape=list(x.shape[1:]), few=a.few, K=a.K, commit=COMMIT, masks={})
    if 'whole' not in done:
        nothing = torch.zeros(x.shape[2:], dtype=torch.bool)
        told = {n: asked_of(asked[n], x, nothing, a.few, judge)[0]
                for n in ('normal', 'innovations')}
        done['whole'] = {n: {k: told[n][k] for k in ('bits', 'density', 'frechet')} for n in told}
    if 'classifier' not in done:
        right = outputs(net, test).argmax(1)==classes(a.data, 'test')
        done['classifier'] = dict(accuracy=float(right.double().mean()), n=len(test),
                                  classes=net[-1].out_features)
    for name in a.masks:
        if name in done['masks']:
            continue
        seen_hw = MASKS[name](*x.shape[2:], rng(0))
        print(name, flush=True)
        done['masks'][name] = mask_rows(asked, (train, valid, x, others), seen_hw, a.few,
                                        judge)
        save_json(out, done)
        if name in ('left', 'centre') and a.data!='tiny_imagenet_64': # for research, not to be shown
            picture(asked, x[:8], seen_hw, out.with_name(f'{out.stem}-{name}.png'))

if __name__=='__main__':
    main()
