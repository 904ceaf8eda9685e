"""From labels of patches to exact bits/dim of whole images: the student that limits.py trains, with
the processor seconds of every step."""
import subprocess, time
from pathlib import Path
import torch
from pcdistill.chain import square_labels
from pcdistill.colour import COLOURS
from pcdistill.emission import Labelled, family
from pcdistill.evaluate import bits, score
from pcdistill.image import Image, finetune
from pcdistill.latent_prior import fit_latent_prior
from pcdistill.normals import Normals
from pcdistill.patches import to_patches

HERE = Path(__file__).parent
RESULTS = HERE.parent/'nbs/experiments/results'
ASK = ['git', 'rev-parse', '--short', 'HEAD']
COMMIT = subprocess.run(ASK, capture_output=True, text=True, cwd=HERE).stdout.strip()

def timed(f, *args, **kwargs):
    "What f returns, and the seconds of processor time it took; other processes do not count."
    start = time.process_time()
    out = f(*args, **kwargs)
    return out, round(time.process_time() - start, 1)

def size(m) -> int:
    "Numbers a module is free to choose: a normal's triangular factors count once."
    upper = sum(b.shapes*b.n_vars*(b.n_vars+1)//2 for b in m.modules() if isinstance(b, Normals))
    return sum(p.numel() for p in m.parameters()) - upper

@torch.no_grad()
def two_ways(image:Image, mass_k, x) -> dict:
    "Bits/dim of images: patches independent, and under the latent prior."
    alone, top = [], []
    for part in x.split(100):
        lp_bnk = image.evidence(part)
        alone.append((lp_bnk + mass_k.log()).logsumexp(2).double().sum(1))
        top.append(image.prior(lp_bnk)[:, 0].double())
    both = dict(alone=torch.cat(alone), top=torch.cat(top))
    return {way: bits(nats, x[0].numel()) for way, nats in both.items()}

def start(x, z_bn, K:int, name:str, config, patch:int, colour:str, gen):
    "An image model from labels, the share of each head, and the seconds of its two steps."
    space, side, seconds = COLOURS[colour], patch*config.across, {}
    y_xd = to_patches(space.forward(x).long(), side).flatten(0, 1)
    z_xq = square_labels(z_bn, x.shape[3]//patch, config.across)
    rows = Labelled(y_xd, z_xq, space.levels(3), K, side)
    fitted, seconds['emission'] = timed(family(name).fit, rows, config, gen, progress=False)
    emission = fitted[0]
    z_bn = emission.label(y_xd, z_xq[:, 0]).view(len(x), -1)
    K = emission.n_heads
    prior, seconds['prior'] = timed(fit_latent_prior, z_bn, K)
    mass_k = (torch.bincount(z_bn.flatten(), minlength=K) + 1/K)/(z_bn.numel() + 1)
    return Image(emission, prior, space, side, tuple(x.shape[1:])), mass_k, seconds

def student(x, valid, test, z_bn, K:int, name:str, config, patch:int, colour:str, gen,
            epochs:int=0) -> dict:
    """Emission from labels, counted latent prior, fine-tuning; bits/dim of validation and test
    images after each step. Nothing is chosen on test."""
    image, mass_k, seconds = start(x, z_bn, K, name, config, patch, colour, gen)
    parts = dict(valid=valid, test=test)
    out = {split: two_ways(image, mass_k, part) for split, part in parts.items()}
    if epochs:
        steps = dict(epochs=epochs, batch=1000, progress=False)
        _, seconds['fine-tuning'] = timed(finetune, image, x, gen, valid[:200], **steps)
        for split, part in parts.items():
            out[split]['tuned'] = bits(score(image, part, 64, False), x[0].numel())
    flat = {way: dict(valid=out['valid'][way].bits, test=e.bits, stderr=e.stderr)
            for way, e in out['test'].items()}
    parameters = dict(emission=size(image.emission), prior=size(image.prior))
    return dict(flat, latent_values=image.emission.n_heads, parameters=parameters, seconds=seconds)
