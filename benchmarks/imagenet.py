"""A circuit at ImageNet's statistics: the paper's recipe and ours at sizes one core can train, and
how bits fall with images, latent values and parameters.

    PCDISTILL_DATA=… python benchmarks/imagenet.py   # one core, about 40 minutes when it is quiet

The images are PCDISTILL_DATA/tiny_imagenet_64 (64×64, from JPEG; for research only, nothing of it
is kept in the repository). Halved, as PIL's reduce(2) does it, they stand in for ImageNet32. Their
'validation' is our test; validation images are the kit's own, drawn from train with a fixed seed.

  runs     stages of `chain`, RGB bits/dim of the first test images: start, fine-tuned, the
           teacher's bound, the ledger, a normal's two readings; and the same student's marginal of
           each aligned 16×16 square, and in the papers' metric (lossy BT.709 codes of the upper
           left quarter)
  patches  a plain HCLT over aligned 16×16 squares, the task of PC-Arena, at what a core can do
  across   one normal over whole images, and a circuit over its innovations
  slopes   validation bits/dim against training images n and latent values K. Two families: 'trees',
           the paper's (a tree of 16 states for each value, BT.709 codes, k-means of the teacher's
           features), and 'normals' (8×8, four scales a label, k-means of pixels). Counted latent
           prior, no fine-tuning. Fewer images are seen more often, as 1/√n
Everything is chosen on validation images or not at all; test images are scored by finished models.
Results: nbs/experiments/results/imagenet-statistics.json, after every row; rows that are there are
not made again. Seconds are processor time of one core. E08 shows them.
"""
import argparse, io, json, math, os, time
from functools import cache
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq
import torch
from einops import rearrange
from PIL import Image as Picture
from cells import NBS, definitions
from chain import COMMIT, RESULTS, size, timed
from innovations import scored
from pcdistill.chain import Run, ledger_terms
from pcdistill.clusters import assign, kmeans
from pcdistill.colour import COLOURS
from pcdistill.core import bpd, rng
from pcdistill.data import images
from pcdistill.emission import Labelled, family
from pcdistill.evaluate import fit_one_normal, fit_plain_hclt, mean_bits, score
from pcdistill.evaluate import png_bits, webp_bits
from pcdistill.image import Image
from pcdistill.extra.innovations import InnovationsConfig, fit_innovations
from pcdistill.latent_prior import fit_latent_prior
from pcdistill.latents import features
from pcdistill.patches import to_patches
from pcdistill.recipes import recipe
from pcdistill.runs import save_json
from pcdistill.structure import chow_liu, mutual_information

FULL, HALF, SQUARE = 'tiny_imagenet_64', 'tiny_imagenet_32', 16

def halve(folder:Path):
    "The halved images, in the order of the others, beside a link to those."
    source = Path(os.environ['PCDISTILL_DATA']).resolve()/FULL
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder/FULL).exists():
        (folder/FULL).symlink_to(source)
    for file in source.glob('*.parquet'):
        made = folder/HALF/file.name
        if made.is_file():
            continue
        made.parent.mkdir(exist_ok=True)
        rows = []
        for row in pq.read_table(file, columns=['image'])['image']:
            image, png = Picture.open(io.BytesIO(row.as_py()['bytes'])), io.BytesIO()
            image.convert('RGB').reduce(2).save(png, 'PNG', compress_level=1)
            rows.append(dict(bytes=png.getvalue(), path=''))
        pq.write_table(pa.table(dict(image=rows)), made.with_suffix('.part'), row_group_size=2000)
        made.with_suffix('.part').rename(made)

# ---- runs

def recipes(n_train:int, n_test:int, small:float) -> dict:
    "Name → recipe, the cheapest question first; sizes are cut by `small` to try the script."
    def cut(n):
        return max(1, round(small*n))
    usual = dict(teacher_size='tiny', n_train=n_train, n_test=n_test)
    tuned = dict(n_tune=cut(600), epochs=1, batch=300, lr=(.3, .05), micro=50)
    grown = dict(start=2, heads=4, rounds=2, epochs=cut(6), states=16, most=cut(3000),
                 n_fit=cut(120_000))
    same = grown | dict(start=4, rounds=0, epochs=3*grown['epochs'])
    large = same | dict(states=cut(23)) # as many parameters as the grown ones have in the end
    ours = dict(scales=4, halves=cut(96), joined=(), epochs=3, n_fit=cut(100_000), batch=20_000)
    trees = dict(states=cut(32), epochs=3, n_fit=cut(160_000))
    def of(data, preset, name, **more):
        side = 64 if data==FULL else 32
        shape = 3, side, side
        return recipe(data, preset, name, shape, clusters=32, **(usual | more))
    normals = dict(emission=ours, patch=8, n_tune=cut(3000), batch=1500, micro=100)
    paper = {'paper': of(HALF, 'paper', 'grown', emission=grown, **tuned),
             'paper, not grown': of(HALF, 'paper', 'grown', emission=same, **tuned),
             'paper, not grown, as large': of(HALF, 'paper', 'grown', emission=large, **tuned)}
    fewer = dict(n_train=cut(4000), n_test=n_test//2)
    return paper | {
        'paper, 64×64': of(FULL, 'paper', 'grown', emission=grown, **(tuned | fewer)),
        'normals': of(HALF, 'small', 'normals', **normals),
        'normals, BT.709': of(HALF, 'small', 'normals', colour='bt709_lossy', **normals),
        'trees': of(HALF, 'small', 'trees', emission=trees, **tuned),
        'normals, 64×64': of(FULL, 'small', 'normals', teacher='pixels',
                             **(normals | fewer))}

@torch.no_grad()
def squares(image:Image, x) -> dict:
    "The student's own marginal of each aligned square: bits/dim in its codes, and in RGB."
    (_, h, w), p = image.shape, image.patch
    side = torch.arange(h//p)*p//SQUARE
    which_n = (side[:, None]*(w//SQUARE) + side).flatten()
    nats, hidden = [], []
    for part in x.split(50):
        e_bnk = image.evidence(part)
        for q in which_n.unique():
            nats.append(image.prior(e_bnk*(which_n==q)[:, None])[:, 0].double())
        cut = rearrange(part, 'b c (i h) (j w) -> (i j b) c h w', h=SQUARE, w=SQUARE)
        hidden.append(image.colour.hidden_bits(cut))
    D = 3*SQUARE**2
    own_b = bpd(torch.cat(nats), D)
    return dict(codes=estimate(own_b), rgb=estimate(own_b + torch.cat(hidden)/D))

def estimate(bits_b) -> dict:
    return {k: round(v, 5) for k, v in mean_bits(bits_b)._asdict().items()}

def row_of(run:Run) -> dict:
    "What a run's stages say of test images."
    m, image, x = run.measured(), run.student(), run.images('test')
    D = x[0].numel()
    found = {k: bpd(m[f'{k}_student_b'], D) for k in ('start', 'student')}
    given_b, codes_b = (bpd(m[f'teacher_{k}_b'], D) for k in ('conditional', 'codes_prior'))
    found |= dict(teacher=given_b + codes_b, teacher_given_codes=given_b, teacher_codes=codes_b)
    ledger, config = ledger_terms(m), run.recipe
    out = dict(data=config.data, family=config.family, patch=config.patch, colour=config.colour,
               clusters=config.clusters, emission=vars(config.emission), n_train=config.n_train,
               teacher=dict(kind=config.teacher, size=config.teacher_size, prior=run.prior().name),
               latent_values=image.emission.n_heads, parameters=size(image),
               test={k: estimate(b) for k, b in found.items()}, readings=run.readings(),
               saved=estimate(found['teacher'] - found['student']),
               tuning=estimate(found['start'] - found['student']), ledger=ledger.saved(D),
               squares=squares(image, x), bits_of_images=found['student'].float().tolist())
    if image.lossy:
        papers = definitions(NBS/'50_evaluate.ipynb')
        out |= dict(papers=estimate(papers.paper_crop_bits(image, x, 50)))
    return out

def make_run(r, folder:Path) -> dict:
    run = Run(r, folder, 'cpu', False)
    for stage in (run.teacher, run.prior, run.latents, run.start, run.student):
        stage()
        print(f'    {stage.__name__}, {time.process_time():.0f} s so far', flush=True)
    return row_of(run)

# ---- without a teacher

def patches(n_test:int, small:float) -> dict:
    "A plain HCLT over aligned squares in YCoCg-R, EM from a random start."
    def cut(x):
        return rearrange(x, 'b c (i h) (j w) -> (b i j) c h w', h=SQUARE, w=SQUARE)
    colour = COLOURS['ycocg_r']
    x, valid, test = (cut(images(HALF, s, n))
                      for s, n in (('train', round(3000*small)), ('valid', 100), ('test', n_test)))
    model = fit_plain_hclt(x, colour, 6_000_000, rng(0), valid_x=valid, epochs=6, progress=False)
    b = bpd(score(model, test, 250, False), test[0].numel())
    return dict(states=model.emission.states[0], n_train=len(x), parameters=size(model),
                rgb=estimate(b))

def across(n_test:int, small:float, K:int, n_fit:int, mirror:bool) -> dict:
    x, valid, test = (images(HALF, s, n) for s, n in
                      (('train', None), ('valid', 500), ('test', n_test)))
    x = x[:round(small*len(x))]
    config = InnovationsConfig(K=K, n_fit=n_fit, epochs=3, mirror=mirror)
    return dict(K=K, n_train=len(x), n_fit=n_fit, mirror=mirror) | scored(
        fit_innovations(x, valid, config, rng(0), progress=False), test)

def files(n_test:int) -> dict:
    out = {}
    for data in (HALF, FULL):
        test = images(data, 'test', n_test)
        out[data] = dict(WebP=estimate(webp_bits(test)), PNG=estimate(png_bits(test)),
                         hidden=estimate(COLOURS['bt709_lossy'].hidden_bits(test)/test[0].numel()))
    return out

def normal(n_test:int) -> dict:
    model = fit_one_normal(images(HALF, 'train'), images(HALF, 'valid', 500))
    test = images(HALF, 'test', n_test)
    return estimate(bpd(score(model, test, 50, False), test[0].numel()))

# ---- slopes

IMAGES, STATES = (500, 2000, 8000), (4, 8, 32)
GRIDS = dict(
    trees=[(n, K, 16) for K in (64, 16, 256, 4) for n in IMAGES],
    normals=[(n, K, 4) for K in (32, 8, 128, 2) for n in IMAGES])
GRIDS['trees'] += [*((2000, 64, S) for S in STATES), *((28_800, K, 16) for K in (64, 256))]
GRIDS['normals'] += [(28_800, 32, 4)]

def passes(n:int) -> int:
    return max(3, round(3*math.sqrt(8000/n)))

class Slopes:
    "Fits that differ in images, latent values and states, and in nothing else."
    def __init__(self, name:str, teacher, n_valid:int, small:float):
        self.family, self.teacher, self.small = name, teacher, small
        self.p, colour = (4, 'bt709_lossy') if name=='trees' else (8, 'rgb')
        self.colour = COLOURS[colour]
        self.x, self.valid = images(HALF, 'train'), images(HALF, 'valid', n_valid)

    def features(self, x):
        if self.family=='trees':
            return features(self.teacher, x)
        return to_patches(x, self.p).float()

    def labels(self, x, mu_kf):
        return torch.cat([assign(self.features(part), mu_kf) for part in x.split(1000)])

    @cache
    def means(self, K:int):
        f_xf = self.features(self.x[:3000]).flatten(0, 1)
        return kmeans(f_xf, K, rng(0), n_fit=40_000, steps=12)

    @cache
    def tree(self):
        "Which patches are neighbours: one tree for all rows, from 16 labels."
        z_bn = self.labels(self.x[:3000], self.means(16))
        return chow_liu(mutual_information(z_bn.long(), bins=16))

    def row(self, n:int, K:int, S:int) -> dict:
        x = self.x[:round(self.small*n)]
        z_bn, tree = self.labels(x, self.means(K)), self.tree()
        y_xd = to_patches(self.colour.forward(x).long(), self.p).flatten(0, 1)
        rows = Labelled(y_xd, z_bn.view(-1, 1), 256, K, self.p)
        more = dict(states=S, own=True) if self.family=='trees' else dict(scales=S, batch=20_000)
        config = family(self.family).config(epochs=passes(n), n_fit=len(y_xd), **more)
        (e, _), seconds = timed(family(self.family).fit, rows, config, rng(1), progress=False)
        heads_bn = e.label(y_xd, z_bn.flatten()).view(len(x), -1)
        prior = fit_latent_prior(heads_bn, e.n_heads, tree=tree)
        image = Image(e, prior, self.colour, self.p, tuple(x.shape[1:]))
        D = x[0].numel()
        train_b, valid_b = (bpd(score(image, t, 50, False), D) for t in (x[:100], self.valid))
        return dict(family=self.family, n=len(x), K=K, states=S, heads=e.n_heads,
                    passes=config.epochs, parameters=size(image), valid=estimate(valid_b),
                    train=estimate(train_b), seconds=seconds)

# ---- all of it

def arguments():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--train', type=int, default=8000, help='training images of the runs')
    p.add_argument('--test', type=int, default=500)
    p.add_argument('--valid', type=int, default=200, help='validation images of the slopes')
    p.add_argument('--small', type=float, default=1., help='share of all sizes, to try the script')
    p.add_argument('--only', nargs='+', help='only rows whose names begin so')
    p.add_argument('--minutes', type=float, default=1e9, help='no row begins after that')
    p.add_argument('--runs', type=Path, default=Path('runs/imagenet'))
    p.add_argument('--out', type=Path, default=RESULTS/'imagenet-statistics.json')
    return p.parse_args()

def main():
    a, start = arguments(), time.monotonic()
    torch.set_num_threads(1)
    halve(a.runs/'data')
    os.environ['PCDISTILL_DATA'] = str((a.runs/'data').resolve())
    made = recipes(a.train, a.test, a.small)
    done = json.loads(a.out.read_text()) if a.out.is_file() else dict(
        data=FULL, space='bits/dim', device='CPU, 1 thread', seconds='processor time',
        n_test=a.test, n_valid_of_slopes=a.valid, rows={})
    slopes = {}
    def point(name, n, K, S):
        if name not in slopes:
            teacher = Run(made['paper'], a.runs/'paper', 'cpu', False).teacher()
            slopes[name] = Slopes(name, teacher, a.valid, a.small)
        return slopes[name].row(n, K, S)
    def grid(name):
        return {f'slopes: {name}, {n} images, K = {K}, {S}': (point, name, n, K, S)
                for n, K, S in GRIDS[name]}
    jobs = {f'runs: {name}': (make_run, r, a.runs/name) for name, r in made.items()}
    jobs |= {'files': (files, a.test), **grid('trees'), 'patches': (patches, a.test, a.small),
             'across': (across, a.test, a.small, 64, 4000, False),
             'one normal': (normal, a.test), **grid('normals'),
             'across, larger': (across, a.test, a.small, 128, 8000, True)}
    for name, (f, *args) in jobs.items():
        other = a.only and not name.startswith(tuple(a.only))
        if name in done['rows'] or other or time.monotonic() - start > 60*a.minutes:
            continue
        row, s = timed(f, *args)
        done['rows'][name] = row | dict(all_seconds=s, commit=COMMIT)
        save_json(a.out, done)
        print(f'{name:50} {s:.0f} s  {row.get("valid") or row.get("test", {}).get("student")}',
              flush=True)

if __name__=='__main__':
    main()
