"""What limits a tractable image model: family of emission, size of patches, components, colour map, scales, halves and quarters, shrinkage, top circuit, fine-tuning, each alone and together.

    PCDISTILL_DATA=… python benchmarks/limits.py            # one core, about 40 minutes when it is quiet

CIFAR-10, whole images, exact RGB bits/dim (YCoCg-R is reversible). Labels are k-means of the patches' own pixels: no teacher. Every row: the emission, scored with independent
patches ('alone') and under a Chow-Liu latent prior counted from the labels ('top'); with --epochs passes of EM on log p(x) where the row says so ('tuned', best epoch on 200 validation images).
Rows whose names begin with 'no circuit' are the switching autoregression of `extra/switching`, whose pixels cannot be summed out in any order.
Results: nbs/experiments/results/limits-cifar10.json, after every row; rows that are there are not run again. Seconds are processor time of one core. E05 shows them.
"""
import argparse, json, time
from pathlib import Path
from typing import NamedTuple
import torch
from chain import RESULTS, COMMIT, student, timed
from pcdistill.clusters import assign, kmeans
from pcdistill.core import rng
from pcdistill.data import images
from pcdistill.either import SquaresConfig
from pcdistill.evaluate import bits, fit_one_normal, mean_bits, png_bits, score, webp_bits
from pcdistill.extra.predicted import PredictedConfig
from pcdistill.patches import to_patches
from pcdistill.runs import save_json
from pcdistill.extra.switching import SwitchingAR, SwitchingConfig
from pcdistill.trees import TreesConfig

class Row(NamedTuple):
    "A model to train."
    family:str
    patch:int
    labels:int
    colour:str='rgb'
    scales:int=1        # components a label
    shrink:float=200.
    tune:bool=False     # also fine-tuned
    quarters:int=0      # components of a quarter, where a patch may be four of them
    halves:int=0        # components of a half, where it may be two of them
    joined:int=0        # components of a half of four patches together
    own:bool=False      # a tree for each label
    logistic:bool=False # discretised logistics for inputs

    @property
    def name(self):
        more = [f'{self.scales} scales']*(self.scales > 1) + [f'shrink {self.shrink:g}']*(self.shrink!=200) + [f'{n} {what}' for n, what in ((self.quarters, 'quarters'), (self.halves, 'halves'), (self.joined, 'joined')) if n] + ['a tree each']*self.own + ['logistic inputs']*self.logistic
        return ', '.join([self.family, f'{self.patch}×{self.patch}', f'K = {self.labels}', self.colour, *more])

G, H, R = 'normals', 'trees', 'residuals'
ROWS = [Row(H, 4, 32, 'ycocg_r', tune=True), Row(H, 4, 32, 'rgb'), Row(H, 4, 128, 'ycocg_r', tune=True), Row(G, 8, 32, tune=True), Row(G, 4, 32, tune=True),
        Row(G, 8, 128, tune=True), Row(G, 8, 32, scales=4, tune=True), Row(G, 8, 32, quarters=128), Row(G, 8, 32, scales=4, quarters=128), Row(G, 8, 32, halves=128), Row(G, 8, 32, scales=4, halves=128), Row(G, 8, 32, scales=4, halves=128, joined=128),
        Row(G, 8, 128, shrink=2000.), Row(H, 8, 32, 'ycocg_r'), Row(G, 4, 128), Row(G, 4, 32, scales=4),
        Row(G, 8, 128, shrink=20.), Row(G, 16, 8), Row(H, 4, 512, 'ycocg_r'), Row(G, 4, 512), Row(G, 8, 512), Row(H, 8, 128, 'ycocg_r'), Row(R, 4, 32), Row(R, 8, 32), Row(R, 8, 128), Row(R, 16, 32), Row(H, 4, 32, 'ycocg_r', own=True), Row(H, 4, 32, 'ycocg_r', own=True, logistic=True), Row(R, 8, 32, logistic=True), Row(R, 8, 32, own=True, logistic=True),
        Row(G, 4, 128, scales=4), Row(G, 8, 128, scales=4)]

def train(row:Row, x, valid, test, epochs:int, tuning:int) -> dict:
    "Train and score one row."
    y_bnd, gen = to_patches(x, row.patch).float(), rng(0)
    mu_kf, s = timed(kmeans, y_bnd.flatten(0, 1), row.labels, gen, n_fit=60_000, steps=12)
    z_bn = assign(y_bnd, mu_kf); del y_bnd
    trees = dict(states=48, own=row.own, inputs='logistic' if row.logistic else 'categorical')
    squares = dict(scales=row.scales, quarters=row.quarters, halves=row.halves, joined=(row.joined,) if row.joined else (), shrink=row.shrink)
    config = {H: lambda: TreesConfig(epochs=epochs, **trees), R: lambda: PredictedConfig(epochs=epochs, batch=2048, shrink=row.shrink, **trees), G: lambda: SquaresConfig(epochs=epochs, **squares)}[row.family]()
    out = student(x, valid, test, z_bn, row.labels, row.family, config, row.patch, row.colour, gen, tuning if row.tune else 0)
    return dict(row._asdict(), name=row.name, **out | dict(seconds=dict(labels=s, **out['seconds'])))

def reference(patch:int, K:int, n:int, x, valid, test) -> dict:
    "The switching autoregression with a tree of latents: exact, but no circuit."
    model, s = timed(SwitchingAR.fit, x[:n], SwitchingConfig(patch, K, passes=6), rng(0), progress=False)
    exact = {name: bits(torch.cat([model.log_prob(p).double() for p in part.split(50)]), x[0].numel()) for name, part in (('valid', valid), ('test', test))}
    return dict(name=f'no circuit: switching autoregression, {patch}×{patch}, K = {K}, {n} images', family='switching', patch=patch, labels=K, latent_values=K,
                top=dict(valid=exact['valid'].bits, test=exact['test'].bits, stderr=exact['test'].stderr), parameters=dict(emission=sum(t.numel() for n, t in model.state_dict().items() if not n.startswith('prior')), prior=sum(t.numel() for t in model.prior.state_dict().values())), seconds=dict(emission=s))

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--images', type=int, default=5000); p.add_argument('--test', type=int, default=1000); p.add_argument('--valid', type=int, default=500)
    p.add_argument('--epochs', type=int, default=4, help='passes of EM on the emission'); p.add_argument('--tuning', type=int, default=3, help='passes of EM on log p(x)')
    p.add_argument('--minutes', type=float, default=1e9, help='no row begins after that'); p.add_argument('--only', nargs='+', help='only rows whose names begin so'); p.add_argument('--out', type=Path, default=RESULTS/'limits-cifar10.json')
    a = p.parse_args(); torch.set_num_threads(1); start = time.monotonic()
    x, valid, test = (images('cifar10', split, n) for split, n in (('train', a.images), ('valid', a.valid), ('test', a.test)))
    done = json.loads(a.out.read_text()) if a.out.exists() else dict(data='cifar10', images=dict(train=len(x), valid=len(valid), test=len(test)), epochs=a.epochs, tuning=a.tuning, device='CPU, 1 thread', seconds='processor time', files={}, rows=[])
    if not done['files']:
        normal, s = timed(fit_one_normal, x, valid)
        done['files'] = {n: mean_bits(b)._asdict() for n, b in (('WebP', webp_bits(test)), ('PNG', png_bits(test)))} | {'one normal': bits(score(normal, test, 50, False), test[0].numel())._asdict()} | dict(seconds=s); save_json(a.out, done)
    jobs = [(r.name, lambda r=r: train(r, x, valid, test, a.epochs, a.tuning)) for r in ROWS]
    for at, patch, K, n in ((5, 4, 32, a.images), (16, 2, 32, min(3000, a.images))): jobs.insert(at, (f'no circuit: switching autoregression, {patch}×{patch}, K = {K}, {n} images', lambda patch=patch, K=K, n=n: reference(patch, K, n, x, valid, test)))
    for name, job in jobs:
        if any(r['name']==name for r in done['rows']) or (a.only and not name.startswith(tuple(a.only))) or time.monotonic()-start > 60*a.minutes: continue
        row = job() | dict(commit=COMMIT); done['rows'].append(row); save_json(a.out, done)
        print(f"{name:60} {row['parameters']['emission']/1e6:6.2f} + {row['parameters']['prior']/1e6:5.2f} M  " + '  '.join(f"{w} {row[w]['test']:.3f}" for w in ('alone', 'top', 'tuned') if w in row) + f"  {sum(row['seconds'].values()):.0f} s", flush=True)

if __name__=='__main__': main()
