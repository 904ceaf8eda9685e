"""From labels of patches to exact bits/dim of whole images: the student that teachers.py and limits.py train, with the processor seconds of every step."""
import math, subprocess, time
from pathlib import Path
import torch
from einops import rearrange
from pcdistill.colour import COLOURS
from pcdistill.emission import Labelled, family
from pcdistill.evaluate import bits, score
from pcdistill.image import Image, finetune
from pcdistill.normals import Normals
from pcdistill.patches import to_patches
from pcdistill.latent_prior import fit_latent_prior

RESULTS = Path(__file__).parents[1]/'nbs/experiments/results'

COMMIT = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True, cwd=Path(__file__).parent).stdout.strip()   # of the code that runs: read at the start

def timed(f, *args, **kwargs):
    "What f returns, and the seconds of processor time it took: other processes on the machine do not count."
    start = time.process_time(); out = f(*args, **kwargs)
    return out, round(time.process_time() - start, 1)

def size(m) -> int:
    "Numbers a module is free to choose, up to normalisation: a normal's triangular factors count once."
    upper = sum(b.shapes*b.n_vars*(b.n_vars+1)//2 for b in m.modules() if isinstance(b, Normals))
    return sum(p.numel() for p in m.parameters()) - upper

def values(colour:str) -> int: return max(COLOURS[colour].levels(3))

@torch.no_grad()
def two_ways(image:Image, mass_k, x) -> dict:
    "Bits/dim of images: patches independent, and under the latent prior."
    alone, whole = [], []
    for part in x.split(100):
        lp_bnk = image.evidence(part)
        alone.append((lp_bnk + mass_k.log()).logsumexp(2).double().sum(1)); whole.append(image.prior(lp_bnk)[:, 0].double())
    return dict(alone=bits(torch.cat(alone), x[0].numel()), top=bits(torch.cat(whole), x[0].numel()))

def labels_of_squares(z_bn, across:int, u:int):
    "Labels of the u×u smallest squares in each patch, as the pieces of pieces come: quarter by quarter."
    if u==1: return z_bn.flatten()[:, None]
    halves = [2]*int(math.log2(u))
    names = [f'{a}{i}' for a in 'ij' for i in range(len(halves))]
    rows, cols = names[:len(halves)], names[len(halves):]
    inner = ' '.join(f'{r} {c}' for r, c in zip(rows, cols))
    return rearrange(z_bn, f"b (h {' '.join(rows)} w {' '.join(cols)}) -> (b h w) ({inner})", w=across, **dict.fromkeys(names, 2))

def student(x, valid, test, z_bn, K:int, name:str, config, patch:int, colour:str, gen, epochs:int=0) -> dict:
    "Emission from labels, counted latent prior, fine-tuning; exact bits/dim of validation and test images after each step. Nothing is chosen on test."
    seconds, space = {}, COLOURS[colour]
    u = getattr(config, 'across', 1); z_xq = labels_of_squares(z_bn, x.shape[3]//(u*patch), u); patch *= u
    y_xd = to_patches(space.forward(x).long(), patch).flatten(0, 1)
    (e, _), seconds['emission'] = timed(family(name).fit, Labelled(y_xd, z_xq.long(), values(colour), K, patch), config, gen, progress=False)
    z_bn = e.label(y_xd, z_xq[:, 0].long()).view(len(x), -1); K = e.n_heads
    prior, seconds['prior'] = timed(fit_latent_prior, z_bn, K)
    mass_k = (torch.bincount(z_bn.flatten(), minlength=K) + 1/K)/(z_bn.numel() + 1)
    image = Image(e, prior, space, patch, tuple(x.shape[1:]))
    out = {split: two_ways(image, mass_k, part) for split, part in (('valid', valid), ('test', test))}
    if epochs:
        _, seconds['fine-tuning'] = timed(finetune, image, x, gen, valid[:200], epochs=epochs, batch=1000, progress=False)
        for split, part in (('valid', valid), ('test', test)): out[split]['tuned'] = bits(score(image, part, 64, False), x[0].numel())
    flat = {way: dict(valid=out['valid'][way].bits, test=e.bits, stderr=e.stderr) for way, e in out['test'].items()}
    return dict(flat, latent_values=K, parameters=dict(emission=size(e), prior=size(prior)), seconds=seconds)
