"""What limits a tractable image model? Family of emission, side of patches, components, colour map,
scales, halves and quarters, shrinkage, latent prior, fine-tuning, each alone and together.

    PCDISTILL_DATA=… python benchmarks/limits.py   # one core, about 40 minutes when it is quiet

CIFAR-10, whole images, exact RGB bits/dim (YCoCg-R is reversible). Labels are k-means of the
patches' own pixels: no teacher. Every row: the emission, scored with independent patches ('alone')
and under a Chow-Liu latent prior counted from the labels ('top'); with --tuning passes of EM on
log p(x) where the row says so ('tuned', best epoch on 200 validation images). Rows whose names
begin with 'no circuit' are the switching autoregression of `extra/switching`, whose pixels cannot
be summed out in any order.
Results: nbs/experiments/results/limits-cifar10.json, after every row; rows that are there are not
run again. Seconds are processor time of one core. E05 shows them.
"""
import argparse, json, time
from pathlib import Path
from typing import NamedTuple
import torch
from cells import EXTRA, definitions
from chain import RESULTS, COMMIT, student, timed
from pcdistill.clusters import assign, kmeans
from pcdistill.core import rng
from pcdistill.data import images
from pcdistill.either import SquaresConfig
from pcdistill.evaluate import bits, fit_one_normal, mean_bits, png_bits, score, webp_bits
from pcdistill.patches import to_patches
from pcdistill.runs import save_json
from pcdistill.trees import TreesConfig

PREDICTED = definitions(EXTRA/'predicted.ipynb') # makes the family of residuals known
definitions(EXTRA/'logistic.ipynb') # and logistic inputs

class Row(NamedTuple):
    "A circuit to train."
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
        more = {f'{self.scales} scales': self.scales > 1,
                f'shrink {self.shrink:g}': self.shrink!=200,
                f'{self.quarters} quarters': self.quarters,
                f'{self.halves} halves': self.halves,
                f'{self.joined} joined': self.joined,
                'a tree each': self.own,
                'logistic inputs': self.logistic}
        about = [self.family, f'{self.patch}×{self.patch}', f'K = {self.labels}', self.colour]
        return ', '.join(about + [said for said, holds in more.items() if holds])

class Switching(NamedTuple):
    "A mark that is no circuit."
    patch:int
    labels:int
    images:int

    @property
    def name(self):
        return (f'no circuit: switching autoregression, {self.patch}×{self.patch}, '
                f'K = {self.labels}, {self.images} images')

G, H, R = 'normals', 'trees', 'residuals'
ROWS = [
    Row(H, 4, 32, 'ycocg_r', tune=True), Row(H, 4, 32, 'rgb'),
    Row(H, 4, 128, 'ycocg_r', tune=True), Row(G, 8, 32, tune=True), Row(G, 4, 32, tune=True),
    Row(G, 8, 128, tune=True), Row(G, 8, 32, scales=4, tune=True),
    Row(G, 8, 32, quarters=128), Row(G, 8, 32, scales=4, quarters=128),
    Row(G, 8, 32, halves=128), Row(G, 8, 32, scales=4, halves=128),
    Row(G, 8, 32, scales=4, halves=128, joined=128),
    Row(G, 8, 128, shrink=2000.), Row(H, 8, 32, 'ycocg_r'), Row(G, 4, 128),
    Row(G, 4, 32, scales=4), Row(G, 8, 128, shrink=20.), Row(G, 16, 8),
    Row(H, 4, 512, 'ycocg_r'), Row(G, 4, 512), Row(G, 8, 512), Row(H, 8, 128, 'ycocg_r'),
    Row(R, 4, 32), Row(R, 8, 32), Row(R, 8, 128), Row(R, 16, 32),
    Row(H, 4, 32, 'ycocg_r', own=True), Row(H, 4, 32, 'ycocg_r', own=True, logistic=True),
    Row(R, 8, 32, logistic=True), Row(R, 8, 32, own=True, logistic=True),
    Row(G, 4, 128, scales=4), Row(G, 8, 128, scales=4)]

def config_of(row:Row, epochs:int):
    "The settings of its family."
    inputs = 'logistic' if row.logistic else 'categorical'
    trees = dict(states=48, own=row.own, inputs=inputs, epochs=epochs)
    if row.family==H:
        return TreesConfig(**trees)
    if row.family==R:
        return PREDICTED.PredictedConfig(batch=2048, shrink=row.shrink, **trees)
    joined = (row.joined,) if row.joined else ()
    return SquaresConfig(epochs=epochs, scales=row.scales, quarters=row.quarters,
                         halves=row.halves, joined=joined, shrink=row.shrink)

def train(row:Row, x, valid, test, epochs:int, tuning:int) -> dict:
    "Train and score one row."
    y_bnd, gen = to_patches(x, row.patch).float(), rng(0)
    mu_kf, s = timed(kmeans, y_bnd.flatten(0, 1), row.labels, gen, n_fit=60_000, steps=12)
    out = student(x, valid, test, assign(y_bnd, mu_kf), row.labels, row.family,
                  config_of(row, epochs), row.patch, row.colour, gen, tuning if row.tune else 0)
    seconds = dict(labels=s, **out['seconds'])
    return row._asdict() | dict(name=row.name) | out | dict(seconds=seconds)

def reference(row:Switching, x, valid, test) -> dict:
    "The switching autoregression with a tree of latents: exact, but no circuit."
    nb = definitions(EXTRA/'switching.ipynb')
    config = nb.SwitchingConfig(row.patch, row.labels, passes=6)
    model, s = timed(nb.SwitchingAR.fit, x[:row.images], config, rng(0), progress=False)
    def read(part):
        nats = [model.log_prob(p).double() for p in part.split(50)]
        return bits(torch.cat(nats), x[0].numel())
    size = {n: t.numel() for n, t in model.state_dict().items()}
    prior = sum(n for name, n in size.items() if name.startswith('prior'))
    found, exact = read(valid), read(test)
    return dict(name=row.name, family='switching', patch=row.patch, labels=row.labels,
                latent_values=row.labels,
                top=dict(valid=found.bits, test=exact.bits, stderr=exact.stderr),
                parameters=dict(emission=sum(size.values()) - prior, prior=prior),
                seconds=dict(emission=s))

def files(x, valid, test) -> dict:
    "What files of the images cost, and one normal over whole images."
    normal, s = timed(fit_one_normal, x, valid)
    out = dict(WebP=mean_bits(webp_bits(test)), PNG=mean_bits(png_bits(test)))
    out['one normal'] = bits(score(normal, test, 50, False), test[0].numel())
    return {name: e._asdict() for name, e in out.items()} | dict(seconds=s)

def arguments():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--images', type=int, default=5000)
    p.add_argument('--test', type=int, default=1000)
    p.add_argument('--valid', type=int, default=500)
    p.add_argument('--epochs', type=int, default=4, help='passes of EM on the emission')
    p.add_argument('--tuning', type=int, default=3, help='passes of EM on log p(x)')
    p.add_argument('--minutes', type=float, default=1e9, help='no row begins after that')
    p.add_argument('--only', nargs='+', help='only rows whose names begin so')
    p.add_argument('--out', type=Path, default=RESULTS/'limits-cifar10.json')
    return p.parse_args()

def main():
    a, start = arguments(), time.monotonic()
    torch.set_num_threads(1)
    sizes = dict(train=a.images, valid=a.valid, test=a.test)
    parts = [images('cifar10', split, n) for split, n in sizes.items()]
    done = dict(data='cifar10', images=dict(zip(sizes, map(len, parts))), epochs=a.epochs,
                tuning=a.tuning, device='CPU, 1 thread', seconds='processor time', rows=[])
    if a.out.exists():
        done = json.loads(a.out.read_text())
    if 'files' not in done:
        done['files'] = files(*parts)
        save_json(a.out, done)
    rows = list(ROWS)
    rows.insert(5, Switching(4, 32, a.images))
    rows.insert(16, Switching(2, 32, min(3000, a.images)))
    have = {r['name'] for r in done['rows']}
    for row in rows:
        other = a.only and not row.name.startswith(tuple(a.only))
        if row.name in have or other or time.monotonic()-start > 60*a.minutes:
            continue
        circuit = isinstance(row, Row)
        made = train(row, *parts, a.epochs, a.tuning) if circuit else reference(row, *parts)
        done['rows'].append(made | dict(commit=COMMIT))
        save_json(a.out, done)
        told = [f'{w} {made[w]["test"]:.3f}' for w in ('alone', 'top', 'tuned') if w in made]
        print(f"{row.name:60} {'  '.join(told)}  {sum(made['seconds'].values()):.0f} s", flush=True)

if __name__=='__main__':
    main()
