"""From labels of patches to exact bits/dim of whole images: the student that teachers.py and limits.py train, with the processor seconds of every step."""
import math, subprocess, time
from pathlib import Path
import torch
from pcdistill.blocks import GaussianBlock
from pcdistill.colour import COLOURS
from pcdistill.cuts import fit_any, of_squares
from pcdistill.evaluate import bits, score
from pcdistill.joint import Joint, finetune
from pcdistill.leaf import LeafConfig, relabel
from pcdistill.patches import to_patches
from pcdistill.top import fit_top

RESULTS = Path(__file__).parents[1]/'nbs/experiments/results'

COMMIT = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True, cwd=Path(__file__).parent).stdout.strip()   # of the code that runs: read at the start

def timed(f, *args, **kwargs):
    "What f returns, and the seconds of processor time it took: other processes on the machine do not count."
    start = time.process_time(); out = f(*args, **kwargs)
    return out, round(time.process_time() - start, 1)

def size(m) -> int:
    "Numbers a module is free to choose, up to normalisation: a Gaussian's triangular factors count once."
    upper = sum(b.bodies*b.n_vars*(b.n_vars+1)//2 for b in m.modules() if isinstance(b, GaussianBlock))
    return sum(p.numel() for p in m.parameters()) - upper

def values(colour:str) -> int: return max(COLOURS[colour].levels(3))

@torch.no_grad()
def two_ways(leaf, top, mass_k, x, patch:int, colour) -> dict:
    "Bits/dim of images under a leaf: patches independent, and under a top circuit."
    alone, joint = [], []
    for part in x.split(100):
        y_bnd = to_patches(colour.forward(part).long(), patch)
        lp_bnk = leaf(y_bnd.flatten(0, 1)).view(*y_bnd.shape[:2], -1)
        alone.append((lp_bnk + mass_k.log()).logsumexp(2).double().sum(1)); joint.append(top(lp_bnk)[:, 0].double())
    return dict(alone=bits(torch.cat(alone), x[0].numel()), top=bits(torch.cat(joint), x[0].numel()))

def student(x, valid, test, z_bn, K:int, config:LeafConfig, patch:int, colour:str, gen, epochs:int=0) -> dict:
    "Leaf from labels, closed-form top, fine-tuning; exact bits/dim of validation and test images after each step. Nothing is chosen on test."
    seconds, space = {}, COLOURS[colour]
    u = config.across; z_sq = of_squares(z_bn, x.shape[3]//(u*patch), u); patch *= u
    y_xd = to_patches(space.forward(x).long(), patch).flatten(0, 1)
    (leaf, _), seconds['leaf'] = timed(fit_any, y_xd, z_sq, values(colour), K, config, patch, gen, progress=False)
    z_bn = relabel(leaf, y_xd, z_sq[:, 0].long()).view(len(x), -1); K = leaf.n_heads
    top, seconds['top'] = timed(fit_top, z_bn, K)
    mass_k = leaf.mass_k.clamp_min(1e-9) if hasattr(leaf, 'mass_k') else (torch.bincount(z_bn.flatten(), minlength=K) + 1/K)/(z_bn.numel() + 1)
    out = {name: two_ways(leaf, top, mass_k, part, patch, space) for name, part in (('valid', valid), ('test', test))}
    if epochs:
        joint = Joint(leaf, top, space, patch, tuple(x.shape[1:])); few = valid[:200]
        _, seconds['fine-tuning'] = timed(finetune, joint, x, gen, epochs, 1000, 64, (.5, .05), .1, None, False, few)
        for name, part in (('valid', valid), ('test', test)): out[name]['tuned'] = bits(score(joint, part, 64, False), x[0].numel())
    flat = {way: dict(valid=out['valid'][way].bits, test=e.bits, stderr=e.stderr) for way, e in out['test'].items()}
    return dict(flat, latent_values=K, parameters=dict(leaf=size(leaf), top=size(top)), seconds=seconds)
