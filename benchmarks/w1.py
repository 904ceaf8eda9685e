"""W1: 784 variables of 256 values, 32 states, batch 256, in a binary tree: how long, how much memory, and where it goes.

    python benchmarks/w1.py [--threads 2] [--device cpu] [--json out.json]

Two trees. `binary_tree` has a latent for each variable, inner ones too (784 latents); `random_tree` has variables at the
bottom only (1,567 latents, as in region trees). Forward and training steps are timed against the bare matrix products of
the same shapes, taken in turn in the same run, so that other load on the machine falls on both. `cpu` is the processor time
of all threads, least of all rounds: with --threads 1 it hardly depends on what else runs. Each tree has a process of its own,
so that peak memory is its own too. Then where the time of a training step with its EM step goes, by kinds of operations (torch.profiler;
on a CPU): what is no product is a pass over tensors of u·b·s or of the tables' size. The bandwidth floor: bytes that must pass through memory, over the speed of a large copy.
"""
import argparse, json, multiprocessing, os, platform, statistics, time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
import psutil, torch
from cells import EXTRA, definitions
from pcdistill.circuit import Circuit
from pcdistill.core import device, rng
from pcdistill.em import EM
from pcdistill.inputs import Categorical
from pcdistill.show import table
from pcdistill.structure import Tree, binary_tree

def products(pc:Circuit, b:int) -> Callable:
    "The matrix products of one training step and nothing else: one up, two down, for every level."
    S, K, dev, todo = pc.n_states, pc.n_heads, pc.root_rsk.device, []
    for level in pc.plan().levels:
        g, t = level.nodes.stop-level.nodes.start, S if level.nodes.start else K
        e, w, r = (torch.rand(s, device=dev) for s in ((g, b, S), (g, S, t), (g, b, t)))
        todo.append((e, w, r, torch.empty_like(r), torch.empty_like(e), torch.empty_like(w)))
    def run():
        for e, w, r, y, gx, gw in todo:
            torch.bmm(e, w, out=y); torch.bmm(r, w.mT, out=gx); torch.bmm(e.mT, r, out=gw)
    return run

def bytes_moved(pc:Circuit, b:int) -> int:
    """The least a training step can move through memory if no level stays in cache, each tensor counted once for each pass over it:
    evidence written and read, e written once and read twice, u written and read, r and the gradient of x written and read,
    gradient of the evidence written and read by the scatter; tables read, and counts written, read and written back by the EM step."""
    d, g, S = len(pc.tree.host), len(pc.tree.parent), pc.n_states
    tables = sum(p.numel() for p in pc.parameters())
    return 4*(b*S*(4*d + 8*g) + 5*tables)

def copy_bandwidth(dev) -> float:
    "Bytes a second, read plus written, of a large copy."
    a = torch.ones(64*2**20//4, device=dev); c = torch.empty_like(a)
    return 2*a.nbytes / min(timed({'copy': lambda: c.copy_(a)}, 10, dev)['copy'])

def timed(jobs:dict[str, Callable], rounds:int, dev, clock=time.perf_counter) -> dict[str, list[float]]:
    "Seconds of each job, the jobs taken in turn."
    wait = torch.cuda.synchronize if torch.device(dev).type=='cuda' else lambda: None
    out = {k: [] for k in jobs}
    for i in range(rounds+2):
        for name, job in jobs.items():
            wait(); start = clock(); job(); wait()
            if i >= 2: out[name].append(clock()-start)
    return out

class Peak:
    "Largest resident memory of this process since `reset` (Linux keeps it), in GB."
    def reset(self):
        try: Path('/proc/self/clear_refs').write_text('5')
        except OSError: pass                                        # then the peak is that of the whole run
    def read(self) -> float:
        try: return int(next(l for l in Path('/proc/self/status').read_text().splitlines() if l.startswith('VmHWM')).split()[1])*1024/1e9
        except (OSError, StopIteration): return psutil.Process().memory_info().rss/1e9

# kind → names of its operations; the rest are additions, products by elements, maxima, sums
KINDS = {'matrix products': ('bmm',), 'exp and log': ('exp', 'log'), 'look-ups and their way back': ('index_select', 'index_add', 'scatter_add', 'embedding'),
         'new zeros': ('fill', 'zero')}

def where(step:Callable, n:int=10) -> dict[str, float]:
    "Share of each kind of operations in the time of a step, as torch.profiler has it."
    from torch.profiler import ProfilerActivity, profile
    with profile(activities=[ProfilerActivity.CPU]) as p:
        for _ in range(n): step()
    spent = {k: 0. for k in (*KINDS, 'by elements')}
    for e in p.key_averages():
        if e.key.startswith('aten::'):
            name = e.key.removeprefix('aten::').rstrip('_')
            spent[next((k for k, names in KINDS.items() if name in names), 'by elements')] += e.self_cpu_time_total
    whole = sum(e.self_cpu_time_total for e in p.key_averages())
    return {k: t/whole for k, t in spent.items()} | {'between operations': 1 - sum(spent.values())/whole}

random_tree = definitions(EXTRA/'graphs.ipynb').random_tree
TREES = dict(binary_tree=lambda: binary_tree(784), random_tree=lambda: random_tree(784, rng(0)))

def measure(name:str, dev:str, threads:int, rounds:int, b:int=256, values:int=256, states:int=32) -> dict:
    "All figures of one tree."
    torch.set_num_threads(threads); tree, dev = TREES[name](), device(dev)
    cuda, peak, rss = dev.type=='cuda', Peak(), lambda: psutil.Process().memory_info().rss/1e9
    before = rss()
    if cuda: torch.cuda.reset_peak_memory_stats()
    peak.reset()
    d = len(tree.host)
    pc = Circuit(tree, Categorical(d, values, states, rng(0)), 1, rng(1)).to(dev)
    x_bd, em = torch.randint(0, values, (b, d), generator=rng(2)).to(dev), EM(pc, .1, .01)
    def forward():
        with torch.no_grad(): pc(x_bd)
    def step(): pc.zero_grad(); (-pc(x_bd).sum()).backward()
    def step_em(): step(); em.step()
    for _ in range(3): forward()
    top_forward = peak.read()
    for _ in range(3): step_em()
    top_train = torch.cuda.max_memory_allocated()/1e9 if cuda else peak.read()
    jobs = dict(forward=forward, step=step, step_em=step_em, products=products(pc, b))
    t, cpu = timed(jobs, rounds, dev), timed(jobs, max(3, rounds//3), dev, time.process_time)
    median, least = ({k: f(v) for k, v in t.items()} for f in (statistics.median, min))
    return dict(latents=len(tree.parent), levels=len(pc.plan().levels), parameters=sum(p.numel() for p in pc.parameters()),
                median_s=median, min_s=least, cpu_s={k: min(v) for k, v in cpu.items()}, product_share=statistics.median(p/s for p, s in zip(t['products'], t['step'])),
                gb_moved=bytes_moved(pc, b)/1e9, rss_before_gb=before, peak_forward_gb=top_forward, peak_train_gb=top_train,
                where={} if cuda else where(step_em))

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--threads', type=int, default=min(2, os.cpu_count() or 1), help='processor threads (2, as the figures of peers)')
    p.add_argument('--device', default='cpu', help="'cpu' or 'cuda'")
    p.add_argument('--rounds', type=int, default=20, help='timed rounds')
    p.add_argument('--json', type=Path, help='also write the figures to this file')
    a = p.parse_args()
    torch.set_num_threads(a.threads); dev = device(a.device)
    speed = copy_bandwidth(dev)
    name = torch.cuda.get_device_name(dev) if dev.type=='cuda' else next((l.split(':')[1].strip() for l in Path('/proc/cpuinfo').read_text().splitlines() if l.startswith('model name')), platform.processor()) if Path('/proc/cpuinfo').exists() else platform.processor()
    machine = dict(device=name, threads=a.threads, cores=os.cpu_count(), load=os.getloadavg()[0], torch=torch.__version__, copy_gb_s=speed/1e9)
    print(f"{name}, {a.threads} threads of {os.cpu_count()} cores, load {machine['load']:.1f}, torch {torch.__version__}, copies {speed/1e9:.1f} GB/s\n")
    found, rows = {}, []
    for label in TREES:
        with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as own:
            r = found[label] = own.submit(measure, label, a.device, a.threads, a.rounds).result()
        floor = r['gb_moved']*1e9/speed
        for stat in ('median_s', 'min_s', 'cpu_s'):
            m = r[stat]
            rows.append([f'{label} ({r["latents"]} latents)' if stat=='median_s' else '', stat[:-2], *(f'{m[k]*1e3:.1f}' for k in ('forward', 'step', 'step_em', 'products')),
                         f'{r["product_share"] if stat=="median_s" else m["products"]/m["step"]:.0%}', f'{floor*1e3:.0f}', f'{r["rss_before_gb"]:.2f}', f'{r["peak_forward_gb"]:.2f}', f'{r["peak_train_gb"]:.2f}'])
    print(table(rows, ['milliseconds', '', 'forward', 'forward + backward', '+ EM step', 'bare products', 'share', 'bandwidth floor', 'GB before', 'peak forward', 'peak train']))
    if dev.type=='cpu':
        kinds = next(iter(found.values()))['where']
        print('\n' + table([(label, *(f'{r["where"][k]:.0%}' for k in kinds)) for label, r in found.items()], ['of a step with EM', *kinds]))
    if a.json: a.json.write_text(json.dumps(dict(machine=machine, **found), indent=1))

if __name__ == '__main__': main()
