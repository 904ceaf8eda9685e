"""What growing is worth, at equal numbers of parameters: exact bits/dim of CIFAR-10 patches.

    PCDISTILL_DATA=… python benchmarks/growing.py            # one core, a few minutes

4×4 patches of whole images in YCoCg-R (reversible, so these are RGB bits); features = the patches' own values. Arms, all of about two million parameters and with
the same number of passes over the same patches (growing also tries what it refuses):
  scratch           one hidden Chow-Liu tree, random start, no labels
  one body          one tree, a head for each k-means cluster, states started from clusters (LVD)
  one body, grown   half as many states and 8 heads at first; heads are split and states copied, each division must gain on validation patches
  bodies            a small tree for each of 8 clusters, one head each
  bodies, heads     the same with three heads each, by k-means inside each cluster
  bodies, grown     half as many states and one head each at first; grown
Scored once on test images: patches independent (mixture by the shares of labels), and with a top circuit counted from the labels, not fine-tuned.
Results: nbs/experiments/results/growing-cifar10-SEED.json, after every arm; arms that are there are not run again.
"""
import argparse, json, math, subprocess, time
from dataclasses import asdict
from pathlib import Path
import torch
from pcdistill.clusters import assign, kmeans
from pcdistill.colour import COLOURS
from pcdistill.core import rng
from pcdistill.data import images
from pcdistill.em import fit
from pcdistill.grow import GrowConfig, grow
from pcdistill.inputs import Categorical
from pcdistill.leaf import HCLTLeaf, LeafConfig, fit_leaf
from pcdistill.patches import to_patches
from pcdistill.runs import save_json
from pcdistill.structure import chow_liu, mutual_information
from pcdistill.top import fit_top

V = 511                                                   # values of a YCoCg-R channel, at most

def score(leaf, z_bn, t_bnd) -> dict:
    "Exact test bits/dim: patches independent, and with a top over the labels."
    K, (b, n, d) = leaf.n_heads, t_bnd.shape
    share_k = ((torch.bincount(z_bn.flatten(), minlength=K) + 1/K)/(z_bn.numel() + 1)).log()
    with torch.no_grad():
        lp_bnk = torch.cat([leaf(y) for y in t_bnd.flatten(0, 1).split(1024)]).view(b, n, K)
        alone_b = (lp_bnk + share_k).logsumexp(2).double().sum(1)
        top_b = fit_top(z_bn, K)(lp_bnk)[:, 0].double() if K > 1 else alone_b
    bits = lambda lp_b: -lp_b/(n*d*math.log(2))
    return dict(latent_values=K, parameters=sum(p.numel() for p in leaf.parameters()), alone=float(bits(alone_b).mean()), with_top=float(bits(top_b).mean()), stderr=float(bits(top_b).std()/b**.5))

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--images', type=int, default=2000); p.add_argument('--test', type=int, default=500); p.add_argument('--epochs', type=int, default=3)
    p.add_argument('--price', type=float, default=1.); p.add_argument('--noise', type=float, default=.2); p.add_argument('--seed', type=int, default=0); p.add_argument('--threads', type=int, default=1)
    p.add_argument('--arms', nargs='*', help='only these'); p.add_argument('--out', type=Path, help='results file')
    a = p.parse_args(); torch.set_num_threads(a.threads)
    out = a.out or Path(__file__).parents[1]/f'nbs/experiments/results/growing-cifar10-{a.seed}.json'
    cut = lambda split, n: to_patches(COLOURS['ycocg_r'].forward(images('cifar10', split)[:n]).long(), 4)
    y_bnd, v_bnd, t_bnd = cut('train', a.images), cut('valid', a.images//5), cut('test', a.test)
    y_xd, v_xd = y_bnd.flatten(0, 1), v_bnd.flatten(0, 1); few = y_xd[::4].float(); passes = 3*a.epochs
    def cells(K):
        mu_kf = kmeans(few, K, rng(a.seed)); return assign(y_xd.float(), mu_kf), assign(v_xd.float(), mu_kf)
    def bodies(K, batch=2048, valid=True, **options):
        c_x, c_v = cells(K) if K > 1 else (torch.zeros(len(y), dtype=torch.long) for y in (y_xd, v_xd))
        config = GrowConfig(**dict(dict(epochs=a.epochs, rounds=2, copy=.4, batch=batch, micro=batch//4, most=10**9, price=a.price, noise=a.noise), **options))
        g = grow(y_xd, y_xd.float(), c_x, V, config, rng(a.seed), (v_xd, c_v) if valid else None, progress=False)
        return g.leaf, g.z_x, dict(heads=g.leaf.heads, states=g.leaf.states, config=asdict(config), history=g.history)
    def one_body(K=25, states=72):
        z_x, _ = cells(K); config = LeafConfig(states=states, epochs=passes, batch=8192, micro=2048)
        return fit_leaf(y_xd, z_x, V, K, config, rng(a.seed), progress=False)[0], z_x, dict(config=asdict(config))
    def scratch(states=72):
        gen = rng(a.seed); tree = chow_liu(mutual_information(y_xd[torch.randperm(len(y_xd), generator=gen)[:20_000]]))
        pc = HCLTLeaf(tree, Categorical(y_xd.shape[1], V, states, gen), 1, gen)
        fit(pc, lambda r: pc(y_xd[r])[:, 0], len(y_xd), gen, passes, 8192, 2048, (1., .1), .1, None, False)
        return pc, torch.zeros(len(y_xd), dtype=torch.long), dict(states=states)
    arms = {'scratch': scratch, 'one body': one_body, 'one body, grown': lambda: bodies(1, 8192, start=8, heads=25, states=36),
            'bodies': lambda: bodies(8, valid=False, rounds=0, epochs=passes, heads=1, states=10),
            'bodies, heads': lambda: bodies(8, valid=False, rounds=0, epochs=passes, start=3, heads=3, states=10),
            'bodies, grown': lambda: bodies(8, heads=4, states=5)}
    done = json.loads(out.read_text()) if out.exists() else dict(data='cifar10', patch=4, colour='ycocg_r', passes=passes, images=dict(train=a.images, valid=len(v_bnd), test=len(t_bnd)), rows={})
    commit = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True, cwd=Path(__file__).parent).stdout.strip()
    for name, make in arms.items():
        if name in done['rows'] or (a.arms and name not in a.arms): continue
        start = time.perf_counter(); leaf, z_x, more = make(); seconds = round(time.perf_counter()-start)
        done['rows'][name] = row = dict(score(leaf, z_x.view(y_bnd.shape[:2]), t_bnd), seconds=seconds, threads=a.threads, commit=commit, **more)
        save_json(out, done)
        print(f"{name:16} {row['latent_values']:3} latent values  {row['parameters']/1e6:.2f} M  alone {row['alone']:.3f}  with a top {row['with_top']:.3f} ± {row['stderr']:.3f}  {seconds} s", flush=True)

if __name__=='__main__': main()
