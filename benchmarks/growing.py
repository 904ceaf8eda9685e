"""What growing is worth on whole CIFAR-10 images, at equal numbers of parameters and of passes: exact test bits/dim.

    PCDISTILL_DATA=… python benchmarks/growing.py            # one core, about half an hour; goes on where it was

Whole images in YCoCg-R (reversible, so these are RGB bits), 4×4 patches, the paper's leaves (hidden Chow-Liu trees over categorical values), patches' own values
as the teacher's features. Every arm is one circuit of images, a leaf under a top, except the first; all train on the same images and choose by the same validation images:
  plain     one hidden Chow-Liu tree over all 3,072 variables, random start, EM on log p(x)
  scratch   leaf and top from a random start, EM on log p(x) all the way
  LVD       labels by k-means; leaf trained under them, top counted from them, then EM on log p(x)
  LVD-PG    the same, but half the heads at first; then in rounds: input weights that nobody uses are taken out, patches relabelled by the circuit's own likelihood, the
            worst heads split, and the room that was made is filled with copies of the states used most; a division must gain on validation patches
  LVD, 4× passes   a control for the larger sums that growing computes with: about as many seconds
  states only      k-means labels as in LVD; thinned and given states as in LVD-PG, in as many rounds, but no head is divided, no patch relabelled, and validation is not asked
Parameters are weights that are not zero; 56 states make the others as large as the plain circuit with one state a pixel, the least it can have. Growing also tries what it refuses (each round trains a second body without the division): `tried` counts those passes too.
The seed chooses the training images and everything else; test images are the same for all and are scored once.
Results: nbs/experiments/results/growing-cifar10.json, after every row; rows that are there are not run again.
"""
import argparse, json, math, time
from dataclasses import asdict
from pathlib import Path
import torch
from chain import COMMIT
from pcdistill.circuit import Circuit
from pcdistill.clusters import assign, kmeans
from pcdistill.colour import COLOURS
from pcdistill.core import bpd, rng
from pcdistill.data import images
from pcdistill.em import fit
from pcdistill.evaluate import bits, hclt_baseline, score
from pcdistill.grow import GrowConfig, grow, more_states, room
from pcdistill.inputs import Categorical, Evidence
from pcdistill.joint import Joint, finetune
from pcdistill.leaf import HCLTLeaf, LeafConfig, fit_leaf
from pcdistill.patches import to_patches
from pcdistill.resize import thin_
from pcdistill.runs import save_json
from pcdistill.show import table
from pcdistill.structure import chow_liu, gaussian_mutual_information, mutual_information
from pcdistill.top import fit_top

COLOUR, P, SHAPE = COLOURS['ycocg_r'], 4, (3, 32, 32)
V = max(COLOUR.levels(3))                                                # values of a channel
LR, ALPHA, PASSES = (1., .1), .1, dict(leaf=6, joint=4)                  # EM step from and to, in each stage; pseudocount; passes over the images

def live(m) -> int: return sum(int((~p.isneginf()).sum()) for p in m.parameters())
def cut(x): return to_patches(COLOUR.forward(x).long(), P)

def joint_of(leaf, top, x, v, seed, passes):
    joint = Joint(leaf, top, COLOUR, P, SHAPE)
    finetune(joint, x, rng(seed), passes, 200, 32, LR, ALPHA, progress=False, valid_bchw=v)
    return joint

def scratch(x, v, K, S, seed):
    y_bnd, gen = cut(x), rng(seed); y_xd = y_bnd.flatten(0, 1)
    leaf = HCLTLeaf(chow_liu(mutual_information(y_xd[torch.randperm(len(y_xd), generator=gen)[:20_000]])), Categorical(y_xd.shape[1], V, S, gen), K, gen)
    top = Circuit(chow_liu(gaussian_mutual_information(y_bnd.float().mean(2))), Evidence(y_bnd.shape[1], K), 1, gen)
    return joint_of(leaf, top, x, v, seed, sum(PASSES.values())), {}

def lvd(x, v, K, S, seed, more=1):
    y_bnd = cut(x); y_xd = y_bnd.flatten(0, 1)
    z_x = assign(y_xd.float(), kmeans(y_xd[::4].float(), K, rng(seed)))
    leaf, _ = fit_leaf(y_xd, z_x, V, K, LeafConfig(states=S, epochs=more*PASSES['leaf'], batch=8192, micro=2048, pseudocount=ALPHA), rng(seed), progress=False)
    return joint_of(leaf, fit_top(z_x.view(y_bnd.shape[:2]), K), x, v, seed, more*PASSES['joint']), {}

def lvd_pg(x, v, K, S, seed, rounds=2, **options):
    y_bnd = cut(x); y_xd, v_xd = y_bnd.flatten(0, 1), cut(v).flatten(0, 1); one = lambda t: torch.zeros(len(t), dtype=torch.long)
    config = GrowConfig(**dict(dict(heads=K, start=-(-K//2), rounds=rounds, states=S, epochs=PASSES['leaf']//(rounds+1), batch=8192, micro=2048, most=10**9, prune=0., thin=.5, copy=None, price=.5, pseudocount=ALPHA), **options))
    g = grow(y_xd, y_xd.float(), one(y_xd), V, config, rng(seed), (v_xd, one(v_xd)), progress=False)
    joint = joint_of(g.leaf, fit_top(g.z_x.view(y_bnd.shape[:2]), g.leaf.n_heads), x, v, seed, PASSES['joint'])
    return joint, dict(heads=g.leaf.n_heads, states_grown=g.leaf.states[0], tried=sum(PASSES.values()) + rounds*config.epochs, config=asdict(config), history=g.history)

def states_only(x, v, K, S, seed, rounds=2):
    y_bnd, gen = cut(x), rng(seed); y_xd = y_bnd.flatten(0, 1); epochs = PASSES['leaf']//(rounds+1); config = GrowConfig(states=S, heads=K)
    z_x = assign(y_xd.float(), kmeans(y_xd[::4].float(), K, rng(seed)))
    leaf, _ = fit_leaf(y_xd, z_x, V, K, LeafConfig(states=S, epochs=epochs, batch=8192, micro=2048, pseudocount=ALPHA), gen, progress=False)
    for _ in range(rounds):
        thin_(leaf, lambda r: leaf(y_xd[r]).gather(1, z_x[r, None])[:, 0], len(y_xd), .5); leaf = more_states(leaf, y_xd, z_x, room(leaf, config), config.noise, gen)
        fit(leaf, lambda r: leaf(y_xd[r]).gather(1, z_x[r, None])[:, 0], len(y_xd), gen, epochs, 8192, 2048, LR, ALPHA, None, False)
    return joint_of(leaf, fit_top(z_x.view(y_bnd.shape[:2]), K), x, v, seed, PASSES['joint']), dict(states_grown=leaf.n_states)

def plain(x, v, K, S, seed):
    size = live(Joint(HCLTLeaf(chow_liu(torch.rand(48, 48, generator=rng(0)).fill_(1.)), Categorical(48, V, S, rng(0)), K, rng(0)), fit_top(torch.zeros(2, 64, dtype=torch.long), K), COLOUR, P, SHAPE))
    model, made = hclt_baseline(x, COLOUR, size, rng(seed), epochs=sum(PASSES.values()), batch=200, progress=False, valid_x=v)
    return model, dict(states_a_pixel=made['states'])

ARMS = {'plain': plain, 'scratch': scratch, 'LVD': lvd, 'LVD-PG': lvd_pg, 'LVD, 4× passes': lambda *a: lvd(*a, more=4), 'states only': states_only}

def wanted(a) -> list[tuple]: # (part, arm, images, K, S, seed)
    head = [('headline', arm, a.images, a.latents, a.states, seed) for seed in range(3) for arm in ('LVD-PG', 'LVD', 'scratch', 'plain')]
    head += [('headline', 'LVD, 4× passes', a.images, a.latents, a.states, seed) for seed in range(3)]
    head += [('headline', 'states only', a.images, a.latents, a.states, seed) for seed in range(3)]
    small, arms = a.images//2, ('LVD', 'scratch', 'LVD-PG')
    by_k = [('latents', arm, small, K, 16, 0) for K in (8, 32, 128) for arm in arms]
    by_s = [('states', arm, small, a.latents, S, 0) for S in (8, 16, 32) for arm in arms]
    return [w for w in head + by_k + by_s if not a.parts or w[0] in a.parts]

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--images', type=int, default=1000); p.add_argument('--valid', type=int, default=200); p.add_argument('--test', type=int, default=500)
    p.add_argument('--latents', type=int, default=25); p.add_argument('--states', type=int, default=56); p.add_argument('--threads', type=int, default=1)
    p.add_argument('--parts', nargs='*', help='only these: headline, latents, states'); p.add_argument('--arms', nargs='*', help='only these'); p.add_argument('--seeds', nargs='*', type=int, help='only these')
    p.add_argument('--out', type=Path, default=Path(__file__).parents[1]/'nbs/experiments/results/growing-cifar10.json', help='results file')
    a = p.parse_args(); torch.set_num_threads(a.threads)
    train, v, test = (images('cifar10', s, n) for s, n in (('train', None), ('valid', a.valid), ('test', a.test)))
    done = json.loads(a.out.read_text()) if a.out.exists() else dict(data='cifar10', patch=P, colour=COLOUR.name, space='rgb', passes=PASSES, lr=LR, pseudocount=ALPHA, images=dict(valid=a.valid, test=a.test), rows=[])
    key = lambda r: tuple(r[k] for k in ('part', 'arm', 'images', 'latents', 'states', 'seed')); have = {key(r) for r in done['rows']}
    for part, arm, n, K, S, seed in wanted(a):
        if (part, arm, n, K, S, seed) in have or (a.arms and arm not in a.arms) or (a.seeds and seed not in a.seeds): continue
        x = train[torch.randperm(len(train), generator=rng(1000+seed))[:n]]; start, cpu = time.perf_counter(), time.process_time()
        model, more = ARMS[arm](x, v, K, S, seed); seconds, cpu = time.perf_counter()-start, time.process_time()-cpu
        D = x[0].numel(); lp = lambda t: score(model, t, 32, False)
        test_b = bpd(lp(test), D); e = bits(lp(test), D)
        row = dict(part=part, arm=arm, images=n, latents=K, states=S, seed=seed, parameters=live(model), bits=e.bits, stderr=e.stderr, bits_valid=bits(lp(v), D).bits, bits_train=bits(lp(x[:200]), D).bits,
                   seconds=round(seconds), cpu_seconds=round(cpu), threads=a.threads, device='cpu', commit=COMMIT, **more)
        if part=='headline': row['bits_of_images'] = [round(float(t), 4) for t in test_b]
        done['rows'].append(row); save_json(a.out, done)
        print(f'{part:8} {arm:8} seed {seed}  K {K:3} S {S:3}  {row["parameters"]/1e6:.2f} M  test {e.bits:.4f} ± {e.stderr:.3f}  valid {row["bits_valid"]:.4f}  {seconds:.0f} s', flush=True)
    print(table([[r[k] for k in ('part', 'arm', 'seed', 'latents', 'states', 'parameters', 'bits', 'stderr')] for r in done['rows']], ['part', 'arm', 'seed', 'latent values', 'states', 'parameters', 'bits/dim', '±']))

if __name__=='__main__': main()
