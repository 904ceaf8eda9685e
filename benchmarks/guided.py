"""Completions of CIFAR-10 by a circuit, by one normal over whole images, and by the circuit that the
normal guides (`guided`), on all masks of the package.

    PCDISTILL_DATA=… python benchmarks/guided.py        # one core, about half an hour

The circuit: normals on 8×8 RGB patches, 64 labels by k-means × 8 scales, a Chow-Liu latent prior
counted from the components of 20,000 images; no teacher, no fine-tuning. The normal: `fit_one_normal`
on all training images. The weight is chosen on --valid validation images, left and centre hidden, by
log p̂(hidden | seen). On the first --images test images, for every mask (random90: one mask for all):
  bits   −log2 density of the hidden values given the seen, per value; dequantised: an upper bound on
         what the density's integers cost
  psnr   of the mean, pooled over images: of the circuit and the normal their posterior mean, of the
         product the mean of each patch as if it were asked first
  seam   of draws: mean absolute step between neighbours across borders of 8×8 patches over that
         inside patches, both ends hidden; `images`: of the images themselves
  spread standard deviation between two draws, grey levels
  seconds of all of it, for all images
Results: nbs/experiments/results/guided-cifar10.json, after every mask, and two pictures of the first
eight images; models in --runs.
"""
import argparse, json, math, time
from pathlib import Path
import torch
from PIL import Image as Picture
from chain import COMMIT, RESULTS
from pcdistill.clusters import assign, kmeans
from pcdistill.colour import RGB
from pcdistill.core import cholesky, rng
from pcdistill.data import images
from pcdistill.either import SquaresConfig
from pcdistill.emission import Labelled, family
from pcdistill.evaluate import fit_one_normal
from pcdistill.guided import Guided, choose_weight
from pcdistill.image import Image, load_image, save_image
from pcdistill.inpainting import MASKS
from pcdistill.latent_prior import fit_latent_prior
from pcdistill.normals import Mixture
from pcdistill.patches import to_patches
from pcdistill.runs import save_json
from pcdistill.show import strip

SIDE, LABELS, SCALES = 8, 64, 8

def circuit(x) -> Image:
    "Normals under k-means labels, and a counted prior."
    gen, y_bnd = rng(0), to_patches(x, SIDE)
    mean_kf = kmeans(y_bnd.float().flatten(0, 1), LABELS, gen, n_fit=60_000, steps=12)
    y_xd, z_x = y_bnd.long().flatten(0, 1), assign(y_bnd.float(), mean_kf).flatten().long()
    config = SquaresConfig(epochs=4, scales=SCALES)
    rows = Labelled(y_xd, z_x[:, None], 256, LABELS, SIDE)
    e, _ = family('normals').fit(rows, config, gen, progress=False)
    heads_bn = e.label(y_xd, z_x).view(len(x), -1)
    return Image(e, fit_latent_prior(heads_bn, e.n_heads), RGB, SIDE, tuple(x.shape[1:]))

def made(file:Path, make) -> Image:
    "A model from its file, made if it is not there."
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        save_image(make(), file)
    return load_image(file)

def psnr(mean, x, hidden_hw) -> float:
    return float(10*torch.log10(255**2/(mean.clamp(0, 255) - x.float())[:, :, hidden_hw].square().mean()))

def seam(x, hidden_hw) -> float:
    "Steps across borders of patches over steps inside, both ends hidden."
    across, inside = [], []
    for x, hidden in ((x.float(), hidden_hw), (x.float().mT, hidden_hw.T)):
        step, both = (x[..., 1:] - x[..., :-1]).abs(), hidden[:, 1:] & hidden[:, :-1]
        border = torch.arange(1, x.shape[-1]) % SIDE==0
        across.append(step[..., both & border].flatten())
        inside.append(step[..., both & ~border].flatten())
    return float(torch.cat(across).mean()/torch.cat(inside).mean())

@torch.no_grad()
def normal_alone(guided:Guided, x, seen_hw, gen) -> tuple:
    "Mean, two draws and log-density of the hidden values under the one normal."
    image = guided.image
    x_bd, seen_d = image.rows(x).double(), image.mask_rows(seen_hw[None])[0]
    h, v = (~seen_d).nonzero().flatten(), seen_d.nonzero().flatten()
    m_bh, C_hh = guided.whole.given(h, v, x_bd)
    R_hh = cholesky(torch.cholesky_inverse(cholesky(C_hh)))
    told = Mixture(m_bh.new_zeros(len(x), 1), m_bh[None], R_hh[None])
    nats_b = told.log_prob(x_bd[:, h] + torch.rand(m_bh.shape, generator=gen) - .5)
    def whole(value_bh):
        row_bd = x_bd.clone()
        row_bd[:, h] = value_bh
        return image.pixels(row_bd)
    draws = [whole(told.draw(gen)) for _ in range(2)]
    return whole(m_bh), [d.round().clamp(0, 255).byte() for d in draws], nats_b

def guided_by(guided:Guided, x, seen_hw, gen) -> tuple:
    "The same under a guided circuit."
    parts = x.split(25)
    def every(f):
        return torch.cat([f(part) for part in parts])
    draws = [every(lambda part: guided.draw(part, seen_hw, gen)) for _ in range(2)]
    mean = every(lambda part: guided.mean(part, seen_hw))
    return mean, draws, every(lambda part: guided.log_prob(part, seen_hw, gen))

@torch.no_grad()
def circuit_alone(guided:Guided, x, seen_hw, gen) -> tuple:
    "The same under the circuit."
    image, seen = guided.image, seen_hw.expand(len(x), -1, -1)
    rows_bd, hidden_bd = image.rows(x), ~image.mask_rows(seen)
    u_bd = (torch.rand(rows_bd.shape, generator=gen) - .5)*hidden_bd
    full_b, seen_b = (image.tiles(rows_bd + u_bd, m, None, True)[:, 0] for m in (None, ~hidden_bd))
    draws = [image.draw(x, seen, gen) for _ in range(2)]
    return image.moments(x, seen).mean_bchw, draws, (full_b - seen_b).double()

MODELS = dict(circuit=circuit_alone, normal=normal_alone, guided=guided_by)

def picture(guided:Guided, x, seen_hw, file:Path):
    "The same images completed by every model."
    rows = dict(image=x, seen=torch.where(seen_hw, x, 128))
    for name, ask in MODELS.items():
        mean, draws, _ = ask(guided, x, seen_hw, rng(2))
        rows |= {f'{name}, draw': draws[0], f'{name}, mean': mean.clamp(0, 255)/255}
    strip(rows).savefig(file, dpi=90, bbox_inches='tight')
    Picture.open(file).convert('RGB').quantize(128).save(file, optimize=True)

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--images', type=int, default=100)
    p.add_argument('--valid', type=int, default=40)
    p.add_argument('--out', type=Path, default=RESULTS/'guided-cifar10.json')
    p.add_argument('--runs', type=Path, default=Path('runs/guided-cifar10'))
    a = p.parse_args()
    torch.set_num_threads(1)
    train, valid = images('cifar10', 'train'), images('cifar10', 'valid', 1000)
    whole = made(a.runs/'whole.safetensors', lambda: fit_one_normal(train, valid))
    image = made(a.runs/'circuit.safetensors', lambda: circuit(train[:20_000]))
    masks = {name: f(32, 32, rng(0)) for name, f in MASKS.items()}
    done = json.loads(a.out.read_text()) if a.out.is_file() else {}
    if 'weight' not in done:
        best = choose_weight(image, whole, valid[:a.valid], [masks[n] for n in ('left', 'centre')])
        done = dict(data='cifar10', n_images=a.images, weight=best.weight, commit=COMMIT, masks={})
        save_json(a.out, done)
    x = images('cifar10', 'test', a.images)
    guided = Guided(image, whole, done['weight'])
    for name, seen_hw in masks.items():
        if name in done['masks']:
            continue
        rows, n = dict(images=dict(seam=seam(x, ~seen_hw))), int((~seen_hw).sum())*3
        for model, ask in MODELS.items():
            start = time.monotonic()
            mean, draws, nats_b = ask(guided, x, seen_hw, rng(1))
            spread = torch.stack(draws).float().std(0)[:, :, ~seen_hw].mean()
            rows[model] = dict(psnr=psnr(mean, x, ~seen_hw), bits=-float(nats_b.mean())/n/math.log(2),
                               seam=seam(draws[0], ~seen_hw), spread=float(spread),
                               seconds=round(time.monotonic() - start, 1))
            print(name, model, rows[model], flush=True)
        done['masks'][name] = rows
        save_json(a.out, done)
    for name in ('left', 'centre'):
        file = a.out.with_name(f'{a.out.stem}-{name}.png')
        if not file.is_file():
            picture(guided, x[:8], masks[name], file)

if __name__=='__main__':
    main()
