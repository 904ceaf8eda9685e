"""What growing is worth on whole CIFAR-10 images, at equal numbers of parameters and of passes: exact test bits/dim.

    PCDISTILL_DATA=… python benchmarks/growing.py            # one core, about half an hour; goes on where it was

Whole images in YCoCg-R (reversible, so these are RGB bits), 4×4 patches, the paper's trees (hidden Chow-Liu, categorical values), patches' own values
as the teacher's features. Every arm is one circuit of images, trees under a latent prior, except the first; all train on the same images and choose by the same validation images:
  plain     one hidden Chow-Liu tree over all 3,072 variables, random start, EM on log p(x)
  scratch   tree and prior from a random start, EM on log p(x) all the way
  LVD       labels by k-means; tree trained under them, prior counted from them, then EM on log p(x)
  LVD-PG    the same, but half the heads at first; then in rounds: input weights that nobody uses are taken out, patches relabelled by the circuit's own likelihood, the
            worst heads split, and the room that was made is filled with copies of the states used most
  LVD, 4× passes   a control for the larger sums that growing computes with: about as many seconds
  states only      k-means labels as in LVD; thinned and given states as in LVD-PG, in as many rounds, but no head is divided and no patch relabelled
  LVD-PG, judged   rows of commit 5dc619a, not run any more: each tree was also trained without the division, which was kept if validation patches gained by it
Parameters are weights that are not zero; 56 states make the others as large as the plain circuit with one state a pixel, the least it can have.
The seed chooses the training images and everything else; test images are the same for all and are scored once.
Results: nbs/experiments/results/growing-cifar10.json, after every row; rows that are there are not run again.
"""
import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
import torch
from cells import EXTRA, definitions
from chain import COMMIT
from pcdistill.circuit import Circuit
from pcdistill.clusters import assign, kmeans
from pcdistill.colour import COLOURS
from pcdistill.core import bpd, rng
from pcdistill.data import images
from pcdistill.em import fit
from pcdistill.emission import Labelled
from pcdistill.evaluate import bits, fit_plain_hclt, score
from pcdistill.grow import Part, clone_tree, fit_grown, states_of
from pcdistill.image import Image, finetune
from pcdistill.inputs import Evidence
from pcdistill.patches import to_patches
from pcdistill.runs import save_json
from pcdistill.show import table
from pcdistill.structure import chow_liu, gaussian_mutual_information, mutual_information
from pcdistill.latent_prior import fit_latent_prior
from pcdistill.trees import Trees, TreesConfig, fit_trees

THINNED = definitions(EXTRA/'thinning.ipynb').Thinned
COLOUR, P, SHAPE = COLOURS['ycocg_r'], 4, (3, 32, 32)
V = COLOUR.levels(3)                     # values of a channel
LR, ALPHA = (1., .1), .1                 # EM step from and to, in each stage; pseudocount
PASSES = dict(leaf=6, joint=4)           # over the images, in each stage
STEPS = dict(batch=8192, micro=2048)     # of EM on patches

def live(m) -> int:
    return sum(int((~p.isneginf()).sum()) for p in m.parameters())

def cut(x):
    return to_patches(COLOUR.forward(x).long(), P)

def image_of(e, prior, x, v, seed, passes):
    image = Image(e, prior, COLOUR, P, SHAPE)
    finetune(image, x, rng(seed), v, 32, epochs=passes, batch=200, lr=LR, pseudocount=ALPHA, progress=False)
    return image

def by_kmeans(y_xd, K, seed):
    return assign(y_xd.float(), kmeans(y_xd[::4].float(), K, rng(seed)))

def trees_of(y_xd, z_x, K, S, epochs, gen):
    config = TreesConfig(states=S, epochs=epochs, pseudocount=ALPHA, **STEPS)
    return fit_trees(Labelled(y_xd, z_x, V, K, P), config, gen, None, False)[0]

def scratch(x, v, K, S, seed):
    y_bnd, gen = cut(x), rng(seed)
    y_xd = y_bnd.flatten(0, 1)
    some = torch.randperm(len(y_xd), generator=gen)[:20_000]
    e = Trees([chow_liu(mutual_information(y_xd[some]))], V, [K], [S], gen=gen)
    over = chow_liu(gaussian_mutual_information(y_bnd.float().mean(2)))
    prior = Circuit(over, Evidence(y_bnd.shape[1], K), 1, gen)
    return image_of(e, prior, x, v, seed, sum(PASSES.values())), {}

def lvd(x, v, K, S, seed, more=1):
    y_bnd = cut(x)
    y_xd = y_bnd.flatten(0, 1)
    z_x = by_kmeans(y_xd, K, seed)
    e = trees_of(y_xd, z_x, K, S, more*PASSES['leaf'], rng(seed))
    return image_of(e, fit_latent_prior(z_x.view(y_bnd.shape[:2]), K), x, v, seed, more*PASSES['joint']), {}

def lvd_pg(x, v, K, S, seed, rounds=2, **options):
    y_bnd = cut(x)
    y_xd = y_bnd.flatten(0, 1)
    one_x = torch.zeros(len(y_xd), dtype=torch.long)
    rows = Labelled(y_xd, one_x, V, 1, P, y_xd.float())
    usual = dict(heads=K, start=-(-K//2), rounds=rounds, states=S, epochs=PASSES['leaf']//(rounds+1), most=10**9,
                 thin=.5, pseudocount=ALPHA, n_fit=10**9, **STEPS)
    config = THINNED(**(usual | options))
    e, history = fit_grown(rows, config, rng(seed), None, False)
    z_bn = e.label(y_xd, one_x).view(y_bnd.shape[:2])
    image = image_of(e, fit_latent_prior(z_bn, e.n_heads), x, v, seed, PASSES['joint'])
    return image, dict(heads=e.n_heads, states_grown=e.states[0], config=asdict(config), history=history)

def states_only(x, v, K, S, seed, rounds=2):
    y_bnd, gen = cut(x), rng(seed)
    y_xd, epochs = y_bnd.flatten(0, 1), PASSES['leaf']//(rounds+1)
    config = THINNED(states=S, heads=K, thin=.5)
    z_x = by_kmeans(y_xd, K, seed)
    part = Part(trees_of(y_xd, z_x, K, S, epochs, gen), z_x)
    for _ in range(rounds):
        part, more = config.room(part, y_xd)
        states_ls = states_of(part, y_xd, more)
        part = Part(clone_tree(part.e, range(K), states_ls, config.noise, gen), z_x)
        fit(part.e, part.own(y_xd), len(y_xd), gen, epochs, lr=LR, pseudocount=ALPHA, progress=False, **STEPS)
    prior = fit_latent_prior(z_x.view(y_bnd.shape[:2]), K)
    return image_of(part.e, prior, x, v, seed, PASSES['joint']), dict(states_grown=part.e.states[0])

def plain(x, v, K, S, seed):
    whole = chow_liu(torch.ones(48, 48))
    size = live(Trees([whole], V, [K], [S])) + live(fit_latent_prior(torch.zeros(2, 64, dtype=torch.long), K))
    image = fit_plain_hclt(x, COLOUR, size, rng(seed), valid_x=v, epochs=sum(PASSES.values()), batch=200, progress=False)
    return image, dict(states_a_pixel=image.emission.states[0])

ARMS = {'plain': plain, 'scratch': scratch, 'LVD': lvd, 'LVD-PG': lvd_pg, 'LVD, 4× passes': lambda *a: lvd(*a, more=4),
        'states only': states_only}

def wanted(a) -> list[tuple]: # (part, arm, images, K, S, seed)
    seeds, every = range(3), ('LVD-PG', 'LVD', 'scratch', 'plain', 'LVD, 4× passes', 'states only')
    head = [('headline', arm, a.images, a.latents, a.states, seed) for arm in every for seed in seeds]
    small, arms = a.images//2, ('LVD', 'scratch', 'LVD-PG')
    by_k = [('latents', arm, small, K, 16, 0) for K in (8, 32, 128) for arm in arms]
    by_s = [('states', arm, small, a.latents, S, 0) for S in (8, 16, 32) for arm in arms]
    return [w for w in head + by_k + by_s if not a.parts or w[0] in a.parts]

def row_of(part, arm, x, v, test, K, S, seed, threads):
    start, cpu = time.perf_counter(), time.process_time()
    model, more = ARMS[arm](x, v, K, S, seed)
    seconds, cpu = time.perf_counter()-start, time.process_time()-cpu
    D, lp_b = x[0].numel(), score(model, test, 32, False)
    e, others = bits(lp_b, D), [bits(score(model, t, 32, False), D).bits for t in (v, x[:200])]
    row = dict(part=part, arm=arm, images=len(x), latents=K, states=S, seed=seed, parameters=live(model), bits=e.bits,
               stderr=e.stderr, bits_valid=others[0], bits_train=others[1], seconds=round(seconds),
               cpu_seconds=round(cpu), threads=threads, device='cpu', commit=COMMIT, **more)
    if part=='headline':
        row['bits_of_images'] = [round(float(t), 4) for t in bpd(lp_b, D)]
    return row

def arguments():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--images', type=int, default=1000)
    p.add_argument('--valid', type=int, default=200)
    p.add_argument('--test', type=int, default=500)
    p.add_argument('--latents', type=int, default=25)
    p.add_argument('--states', type=int, default=56)
    p.add_argument('--threads', type=int, default=1)
    p.add_argument('--parts', nargs='*', help='only these: headline, latents, states')
    p.add_argument('--arms', nargs='*', help='only these')
    p.add_argument('--seeds', nargs='*', type=int, help='only these')
    out = Path(__file__).parents[1]/'nbs/experiments/results/growing-cifar10.json'
    p.add_argument('--out', type=Path, default=out, help='results file')
    return p.parse_args()

def main():
    a = arguments()
    torch.set_num_threads(a.threads)
    train, v, test = (images('cifar10', s, n) for s, n in (('train', None), ('valid', a.valid), ('test', a.test)))
    done = dict(data='cifar10', patch=P, colour=COLOUR.name, space='rgb', passes=PASSES, lr=LR, pseudocount=ALPHA,
                images=dict(valid=a.valid, test=a.test), rows=[])
    if a.out.exists():
        done = json.loads(a.out.read_text())
    names = 'part', 'arm', 'images', 'latents', 'states', 'seed'
    have = {tuple(r[k] for k in names) for r in done['rows']}
    for key in wanted(a):
        part, arm, n, K, S, seed = key
        if key in have or (a.arms and arm not in a.arms) or (a.seeds and seed not in a.seeds):
            continue
        x = train[torch.randperm(len(train), generator=rng(1000+seed))[:n]]
        row = row_of(part, arm, x, v, test, K, S, seed, a.threads)
        done['rows'].append(row)
        save_json(a.out, done)
        print(f'{part:8} {arm:8} seed {seed}  K {K:3} S {S:3}  {row["parameters"]/1e6:.2f} M  '
              f'test {row["bits"]:.4f} ± {row["stderr"]:.3f}  valid {row["bits_valid"]:.4f}  {row["seconds"]} s', flush=True)
    shown = 'part', 'arm', 'seed', 'latents', 'states', 'parameters', 'bits', 'stderr'
    heads = ['part', 'arm', 'seed', 'latent values', 'states', 'parameters', 'bits/dim', '±']
    print(table([[r[k] for k in shown] for r in done['rows']], heads))

if __name__=='__main__':
    main()
