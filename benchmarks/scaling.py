"""How time and memory grow with variables, states, batch and depth, and how far from the floor they are.

    python benchmarks/scaling.py [--threads 2] [--device cpu] [--json out.json] [--figure out.png]

One at a time is changed, from a middle of 784 variables, 32 states, batch 256, a complete binary tree. Depth is changed at a constant number of
latents, from a star to a chain. Each point is a process of its own (its peak memory is its own too): a training step, forward and backward, median
of several. Slopes are those of a straight line through the last three points on log axes: 1 means proportional. The floor of a step is the larger
of bytes that must move over measured copy bandwidth, and operations over the measured rate of large matrix products.
"""
import argparse, json, math, multiprocessing, os, statistics
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
import numpy as np, torch
from matplotlib.figure import Figure
from pcdistill.circuit import Circuit
from pcdistill.core import device, rng
from pcdistill.inputs import Categorical
from pcdistill.show import table
from pcdistill.structure import Tree, binary_tree
from w1 import Peak, bytes_moved, copy_bandwidth, timed

MIDDLE = dict(variables=784, states=32, batch=256, depth=10)
POINTS = dict(variables=(49, 196, 784, 3072), states=(8, 16, 32, 64, 128, 256), batch=(16, 64, 256, 1024), depth=(2, 10, 28, 98, 392, 784))

def tree_of(d:int, depth:int) -> Tree:
    "d latents, one variable each, in so many levels: the complete binary tree, a star, or equally wide levels in which latent i follows i − width."
    if depth==MIDDLE['depth']: return binary_tree(d)
    width = max(1, round((d-1)/(depth-1)))
    return Tree(tuple(-1 if i==0 else max(0, i-width) for i in range(d)), tuple(range(d)))

def measure(point:dict, dev:str, threads:int, rounds:int, values:int=256) -> dict:
    "Seconds of forward and of forward + backward, peak memory, bytes and operations of one point."
    torch.set_num_threads(threads); dev = device(dev); peak = Peak()
    d, b, S = point['variables'], point['batch'], point['states']
    pc = Circuit(tree_of(d, point['depth']), Categorical(d, values, S, rng(0)), 1, rng(1)).to(dev)
    x_bd = torch.randint(0, values, (b, d), generator=rng(2)).to(dev)
    def forward():
        with torch.no_grad(): pc(x_bd)
    def step(): pc.zero_grad(); (-pc(x_bd).sum()).backward()
    forward(); peak.reset()
    if dev.type=='cuda': torch.cuda.reset_peak_memory_stats()
    before = peak.read(); step()
    t = timed(dict(forward=forward, step=step), rounds, dev)
    top = torch.cuda.max_memory_allocated()/1e9 if dev.type=='cuda' else peak.read()
    return dict(point, levels=len(pc.plan().levels), forward_s=statistics.median(t['forward']), step_s=statistics.median(t['step']), peak_gb=top, before_gb=before,
                bytes=bytes_moved(pc, b), flops=6*b*S*S*(d-1))

def matrix_rate(dev) -> float:
    "Operations a second of a large single-precision product."
    n = 2048 if torch.device(dev).type=='cpu' else 8192
    a, c = torch.rand(n, n, device=dev), torch.rand(n, n, device=dev)
    return 2*n**3/min(timed({'mm': lambda: a @ c}, 3, dev)['mm'])

def slope(xs, ys) -> float: return float(np.polyfit(np.log(xs[-3:]), np.log(ys[-3:]), 1)[0])

def figure(found:dict) -> Figure:
    "Time and memory against each size, on log axes."
    fig = Figure(figsize=(11, 4.6), dpi=80, layout='constrained'); axs = fig.subplots(2, len(found), sharey='row')
    for ax, (name, rs) in zip(axs.T, found.items()):
        xs = [r['levels'] if name=='depth' else r[name] for r in rs]
        ax[0].loglog(xs, [r['forward_s']*1e3 for r in rs], 'o-', label='forward'); ax[0].loglog(xs, [r['step_s']*1e3 for r in rs], 'o-', label='forward + backward')
        ax[0].loglog(xs, [r['floor_s']*1e3 for r in rs], 'k:', label='floor'); ax[0].set_title(f"{name}: slope {slope(xs, [r['step_s'] for r in rs]):.2f}", fontsize=9)
        ax[1].loglog(xs, [r['peak_gb'] for r in rs], 'o-', color='tab:green'); ax[1].set_xlabel(name)
    axs[0, 0].set_ylabel('milliseconds'); axs[1, 0].set_ylabel('peak GB, all of the process'); axs[0, 0].legend(fontsize=7)
    return fig

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--threads', type=int, default=min(2, os.cpu_count() or 1)); p.add_argument('--device', default='cpu', help="'cpu' or 'cuda'")
    p.add_argument('--rounds', type=int, default=7); p.add_argument('--json', type=Path); p.add_argument('--figure', type=Path)
    a = p.parse_args(); torch.set_num_threads(a.threads); dev = device(a.device)
    speed, rate = copy_bandwidth(dev), matrix_rate(dev); found, rows = {}, []
    print(f"{a.device}, {a.threads} threads, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}; copies {speed/1e9:.1f} GB/s, products {rate/1e9:.0f} GFLOP/s\n")
    for name, values in POINTS.items():
        for v in values:
            with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as own: r = own.submit(measure, MIDDLE | {name: v}, a.device, a.threads, a.rounds).result()
            r |= dict(bytes_floor_s=r['bytes']/speed, flops_floor_s=r['flops']/rate); r['floor_s'] = max(r['bytes_floor_s'], r['flops_floor_s'])
            found.setdefault(name, []).append(r)
            rows.append([name, str(r['levels'] if name=='depth' else v), *(f'{r[k]*1e3:.1f}' for k in ('forward_s', 'step_s', 'bytes_floor_s', 'flops_floor_s')), f"{r['step_s']/r['floor_s']:.1f}", f"{r['peak_gb']:.2f}"])
        xs = [r['levels'] if name=='depth' else r[name] for r in found[name]]
        rows.append(['', 'slope', *(f"{slope(xs, [r[k] for r in found[name]]):.2f}" for k in ('forward_s', 'step_s', 'bytes_floor_s')), '', '', f"{slope(xs, [r['peak_gb'] for r in found[name]]):.2f}"])
    print(table(rows, ['milliseconds', '', 'forward', 'forward + backward', 'bytes floor', 'product floor', 'step / floor', 'peak GB']))
    if a.json: a.json.write_text(json.dumps(dict(threads=a.threads, device=a.device, copy_gb_s=speed/1e9, gflops=rate/1e9, **found), indent=1))
    if a.figure: figure(found).savefig(a.figure)

if __name__ == '__main__': main()
