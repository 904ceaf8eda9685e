"""The same circuit in every library that can be had: forward, training step, conditional sampling; time, processor time, memory.

    python benchmarks/peers.py [--python PEERS/bin/python] [--sizes 8x8 28x28 32x32x3] [--states 16 32 64 256] [--json out.json]

W1, the case of the other benchmarks: --sizes 28x28 --states 32. The peers have an environment of their own; as tested (2026-11, Python 3.11):

    python -m venv PEERS && PEERS/bin/pip install torch==2.13.0
    PEERS/bin/pip install libcirkit==0.3.1 spflow==1.1.0 pyjuice==2.6.3 psutil && PEERS/bin/pip install -e .

If their demands clash, make several and say --python cirkit=A/bin/python --python spflow=B/bin/python. libcirkit 0.3.1 and the others were the
newest on PyPI. simple-einet is not on PyPI; SPFlow's Einet stands in for that family. PyJuice computes on a GPU only: --device cuda.

What is compared. One tree (`--tree`), random tables made from one seed, one batch of random values 0…255 with half of them missing for sampling.
`pytorch` is what one writes without a library: the tree level by level as batched products, autograd. Peers train as they can: by their EM, by
Adam, or both. Sampling means a draw of the missing values given the others; a dash: it has none. `agrees` is the largest difference of any row's
log-likelihood from ours, in nats; `other model` where the structure cannot be set the same.

How it is measured. Each library and job has a process of its own, so that its peak memory is its own too: interpreter, library, model, work.
The processes of a job live side by side, sleep, and are woken in turn for short visits, so that other load falls on all. Times are medians of
all runs, the least in brackets, then the least processor time of all threads. A process may take what memory the sleeping ones leave (at most
--gb), --seconds to be built, and as long again for its steps; one that cannot is tried again by itself if memory was the reason, then given up
and the reason printed. What was given up is not tried at larger sizes. Sizes go from small to large; none is begun after --minutes.
"""
import argparse, collections, contextlib, ctypes, gc, importlib, importlib.metadata, json, os, platform, resource, select, statistics, subprocess, sys, tempfile, time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
import psutil, torch
from cells import EXTRA, definitions

def interchange():
    "What the notebook of that name defines."
    return definitions(EXTRA/'interchange.ipynb')

# --- the libraries: each gives a function that does the job once; 'forward' returns the log-likelihoods

def trained(lp:Callable, optimizer, sign:int=-1, mean:bool=False) -> Callable:
    "One step of an optimizer that is handed the gradient of the log-likelihood."
    def step():
        optimizer.zero_grad(); lp_b = lp()
        (sign*(lp_b.mean() if mean else lp_b.sum())).backward(); optimizer.step()
    return step

def ours(pc, x_bd, seen_bd, job:str) -> Callable:
    from pcdistill.core import rng
    from pcdistill.em import EM
    from pcdistill.circuit import sample
    if job=='sample': gen = rng(3, x_bd.device); return lambda: sample(pc, x_bd, seen_bd, gen)
    forward = lambda: pc(x_bd)[:, 0]
    if job=='forward': return torch.no_grad()(forward)
    em = EM(pc, .1, .01) if job=='EM' else definitions(EXTRA/'optimizers.ipynb').on_logits(torch.optim.Adam, pc, lr=.01)
    def step(): (-forward().sum()).backward(); em.step()
    return step

class Plain(torch.nn.Module):
    "A tree of latents in PyTorch alone: a batch of products for each level, gradients by autograd."
    def __init__(self, pc):
        super().__init__()
        from pcdistill.structure import generations
        tree, edge = pc.tree, pc.plan().place_of_node-1
        self.table_dvs, self.root_1sk = torch.nn.Parameter(interchange().value_table(pc)), torch.nn.Parameter(pc.root_rsk.detach().clone())
        self.levels, self.edges = [], torch.nn.ParameterList()
        above, dev = {-1: 0}, pc.root_rsk.device
        for l, row in enumerate(generations(tree.parent)):
            here = {i: n for n, i in enumerate(sorted(row))}
            variables = [v for v, h in enumerate(tree.host) if h in here]
            index = lambda t: torch.tensor(t, dtype=torch.long, device=dev)
            self.levels.append((len(here), index(variables), index([here[tree.host[v]] for v in variables]), index([above[tree.parent[i]] for i in here])))
            if l: self.edges.append(torch.nn.Parameter(pc.edges_est.detach()[edge[list(here)]].clone()))
            above = here
        self.to(dev)

    def tables(self) -> list: return [self.root_1sk, *self.edges]

    def up(self, x_bd, seen_bd=None, logits:bool=False) -> tuple:
        "Log-likelihoods, and (e, weights) of every level, deepest first; logits: tables are normalised here, as Adam needs."
        norm = (lambda t: t.log_softmax(1)) if logits else (lambda t: t)
        lp_dbs = norm(self.table_dvs)[torch.arange(x_bd.shape[1], device=x_bd.device)[:, None], x_bd.T]
        if seen_bd is not None: lp_dbs = lp_dbs.masked_fill(~seen_bd.T[..., None], 0)
        below, kept = None, []
        for (n, variables, host, _), logw_gst in zip(reversed(self.levels), reversed(self.tables())):
            x_gbs = lp_dbs.new_zeros(n, *lp_dbs.shape[1:]).index_add(0, host, lp_dbs[variables])
            if below is not None: x_gbs = x_gbs.index_add(0, *below)
            m_gb1, w_gst = x_gbs.detach().amax(-1, keepdim=True), norm(logw_gst).exp()
            e_gbs = (x_gbs - m_gb1).exp(); kept.append((e_gbs, w_gst))
            below = self.levels[len(self.levels)-len(kept)][3], torch.bmm(e_gbs, w_gst).log() + m_gb1
        return below[1][0, :, 0], kept

    @torch.no_grad()
    def sample(self, x_bd, seen_bd):
        "Missing values given the others."
        new_bd, (_, kept) = x_bd.clone(), self.up(x_bd, seen_bd)
        state_gb = torch.zeros(1, len(x_bd), dtype=torch.long, device=x_bd.device)
        for (_, variables, host, parent), (e_gbs, w_gst) in zip(self.levels, reversed(kept)):
            w_gbs = torch.stack([w_st.T[t_b] for w_st, t_b in zip(w_gst, state_gb[parent])])
            state_gb = torch.multinomial((w_gbs*e_gbs).flatten(0, 1), 1).view(w_gbs.shape[:2])
            for v, h in zip(variables.tolist(), host.tolist()): new_bd[:, v] = torch.multinomial(self.table_dvs[v].T.exp()[state_gb[h]], 1)[:, 0]
        return torch.where(seen_bd, x_bd, new_bd)

    @torch.no_grad()
    def em_step(self, lr:float=.1, alpha:float=.01):
        "Expected counts are the gradients of the normalised log-weights."
        for p in self.parameters():
            count = p.grad + alpha/p.shape[1]
            p.copy_(((1-lr)*p.exp() + lr*count/count.sum(1, keepdim=True)).log()); p.grad = None

def pytorch(pc, x_bd, seen_bd, job:str) -> Callable:
    model = Plain(pc)
    if job=='sample': return lambda: model.sample(x_bd, seen_bd)
    if job=='forward': return torch.no_grad()(lambda: model.up(x_bd)[0])
    if job=='Adam': return trained(lambda: model.up(x_bd, logits=True)[0], torch.optim.Adam(model.parameters(), .01))
    def step(): model.up(x_bd)[0].sum().backward(); model.em_step()
    return step

def cirkit(pc, x_bd, seen_bd, job:str) -> Callable:
    model = interchange().to_cirkit(pc, softmax=job!='EM').compiled.to(x_bd.device)
    forward = lambda: model(x_bd)[:, 0, 0]
    if job=='forward': return torch.no_grad()(forward)
    if job=='Adam': return trained(forward, torch.optim.Adam(model.parameters(), .01))
    return trained(forward, importlib.import_module('cirkit.backend.torch.em_optimizer').EM(model, .1, .01), sign=1)

def cirkit_unbounded():
    "libcirkit raises every product below −708.4 to that; take the bound away."
    importlib.import_module('cirkit.backend.torch.semiring').LOG_CLAMP_MIN = -torch.inf

def spflow(pc, x_bd, seen_bd, job:str) -> Callable:
    from spflow.meta.data.scope import Scope
    from spflow.modules.leaves import Categorical
    from spflow.modules.products import ElementwiseProduct
    from spflow.modules.sums import Sum
    assemble = interchange().assemble
    leaf = lambda v, logp_vs: Categorical(scope=Scope([v]), logits=logp_vs.T[None, :, None].contiguous())
    return spflow_job(assemble(pc, leaf, lambda parts: ElementwiseProduct(inputs=parts), lambda part, logw_st: Sum(inputs=part, weights=logw_st.softmax(0))), x_bd, seen_bd, job)

def spflow_einet(pc, x_bd, seen_bd, job:str) -> Callable:
    from spflow.meta.data.scope import Scope
    from spflow.modules.leaves import Categorical
    from spflow.zoo.einet import Einet
    d, s = x_bd.shape[1], pc.n_states
    leaf = Categorical(scope=Scope(list(range(d))), out_channels=s, num_repetitions=1, K=pc.inputs.n_values)
    return spflow_job(Einet([leaf], num_sums=s, num_leaves=s, depth=d.bit_length()-1, num_repetitions=1), x_bd, seen_bd, job)

def spflow_job(model, x_bd, seen_bd, job:str) -> Callable:
    x_bd, model = x_bd.float(), model.to(x_bd.device)
    if job=='sample':
        known_bd = torch.where(seen_bd, x_bd, torch.nan)
        return torch.no_grad()(lambda: model.sample_with_evidence(known_bd.clone()))
    forward = lambda: model.log_likelihood(x_bd).flatten()
    if job=='forward': return torch.no_grad()(forward)
    if job=='Adam': return trained(forward, torch.optim.Adam(model.parameters(), .01), mean=True)
    from spflow.learn.expectation_maximization import expectation_maximization
    def step(): model.zero_grad(); expectation_maximization(model, x_bd, max_steps=1)
    return step

def pyjuice(pc, x_bd, seen_bd, job:str) -> Callable:
    import pyjuice as juice
    model = juice.compile(interchange().to_pyjuice(pc)).to(x_bd.device)
    if job=='forward': return lambda: model(x_bd).flatten()
    if job=='EM': return trained(lambda: model(x_bd), juice.optim.MiniBatchEM(model, step_size=.1, pseudocount=.01), sign=1, mean=True)
    def sample(): juice.queries.marginal(model, x_bd, missing_mask=~seen_bd); return juice.queries.sample(model, conditional=True)
    return sample

class Peer(NamedTuple):
    "A library: what it can do and what it is called."
    make:Callable            # (pc, x_bd, seen_bd, job) → the job
    jobs:tuple[str, ...]     # of forward, EM, Adam, sample
    module:str               # to import
    pip:str                  # its name on PyPI
    same:bool=True           # can be given our structure and parameters
    cuda:bool=False          # needs a GPU
    unbounded:Callable|None=None # takes away a bound on its log-likelihoods

PEERS = {'ours': Peer(ours, ('forward', 'EM', 'Adam', 'sample'), 'pcdistill', 'pcdistill'),
         'pytorch': Peer(pytorch, ('forward', 'EM', 'Adam', 'sample'), 'torch', 'torch'),
         'cirkit': Peer(cirkit, ('forward', 'EM', 'Adam'), 'cirkit.pipeline', 'libcirkit', unbounded=cirkit_unbounded),
         'spflow': Peer(spflow, ('forward', 'EM', 'Adam', 'sample'), 'spflow', 'spflow'),
         'spflow Einet': Peer(spflow_einet, ('forward', 'EM', 'Adam', 'sample'), 'spflow', 'spflow', same=False),
         'pyjuice': Peer(pyjuice, ('forward', 'EM', 'sample'), 'pyjuice', 'pyjuice', cuda=True)}

# --- one process: one library, one job, one size

class Cell(NamedTuple):
    "What a process is for."
    peer:str
    job:str
    shape:str      # '28x28'
    states:int
    batch:int
    tree:str
    device:str
    threads:int
    values:int=256
    def vars(self) -> int: return int(torch.tensor([int(n) for n in self.shape.split('x')]).prod())

def make_tree(name:str, shape:str):
    "A tree over an image; `chow-liu` is that of blurred noise, deep and irregular as trees of real images are."
    from scipy.ndimage import gaussian_filter
    from pcdistill.core import rng
    from pcdistill.structure import binary_tree, chow_liu, gaussian_mutual_information
    graphs = definitions(EXTRA/'graphs.ipynb')
    sides = [int(n) for n in shape.split('x')]; d = int(torch.tensor(sides).prod())
    def of_noise():
        x = torch.randn(1000, *sides, generator=rng(0)).numpy()
        smooth = gaussian_filter(x, (0, 1.5, 1.5, 0)[:x.ndim]) + (x.std()*.05)*torch.randn(x.shape, generator=rng(1)).numpy()
        return chow_liu(gaussian_mutual_information(torch.tensor(smooth).flatten(1)))
    return {'binary': lambda: binary_tree(d), 'random': lambda: graphs.random_tree(d, rng(0)), 'quad': lambda: graphs.quad_tree(*sides), 'chow-liu': of_noise}[name]()

def circuit(c:Cell):
    "The circuit of a cell; the same in every process."
    from pcdistill.circuit import Circuit
    from pcdistill.core import rng
    from pcdistill.inputs import Categorical
    return Circuit(make_tree(c.tree, c.shape), Categorical(c.vars(), c.values, c.states, rng(0)), 1, rng(1)).to(c.device)

def peak_gb(device:str) -> float:
    "Largest memory since the last reset."
    if device!='cpu': return torch.cuda.max_memory_allocated()/1e9
    try: return int(next(l for l in Path('/proc/self/status').read_text().splitlines() if l.startswith('VmHWM')).split()[1])*1024/1e9
    except (OSError, StopIteration): return psutil.Process().memory_info().rss/1e9

def allow(gb:float):
    "Refuse this process more than so much memory beyond what it holds (Linux)."
    with contextlib.suppress(OSError, StopIteration):
        held = int(next(l for l in Path('/proc/self/status').read_text().splitlines() if l.startswith('VmData')).split()[1])*1024
        resource.setrlimit(resource.RLIMIT_DATA, (held+int(gb*1e9), resource.getrlimit(resource.RLIMIT_DATA)[1]))

def reset_peak(device:str):
    "Forget what building took."
    gc.collect()
    if device!='cpu': torch.cuda.empty_cache(); torch.cuda.reset_peak_memory_stats(); return
    with contextlib.suppress(OSError, AttributeError): ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError): Path('/proc/self/clear_refs').write_text('5')

def agreement(c:Cell, job:Callable, x_bd) -> dict:
    "Largest difference of its log-likelihoods from ours, as shipped and without a bound if it has one."
    with torch.no_grad(): mine_b = circuit(c)(x_bd)[:, 0]
    far = lambda: float((job().double() - mine_b.double()).abs().max())
    out, unbounded = dict(agrees=far(), mean_lp=float(mine_b.mean())), PEERS[c.peer].unbounded
    if unbounded: unbounded(); out['agrees_unbounded'] = far()
    return out

def worker(c:Cell, gb:float, beside:int):
    "Build beside others, say so, then serve visits from standard input; answers go to standard output, whatever the library prints does not."
    answers = os.fdopen(os.dup(1), 'w'); os.dup2(2, 1)
    def say(**what): answers.write(json.dumps(what)+'\n'); answers.flush()
    may = gb/beside
    try:
        torch.set_num_threads(c.threads); torch.manual_seed(0)
        cuda = c.device!='cpu'; wait = torch.cuda.synchronize if cuda else lambda: None
        if not cuda: allow(may)
        g = torch.Generator().manual_seed(2)
        x_bd = torch.randint(0, c.values, (c.batch, c.vars()), generator=g).to(c.device); seen_bd = (torch.rand(x_bd.shape, generator=g) < .5).to(c.device)
        start = time.perf_counter(); pc = circuit(c); job = PEERS[c.peer].make(pc, x_bd, seen_bd, c.job); del pc
        say(built=time.perf_counter()-start); reset_peak(c.device)
        for line in sys.stdin:
            ask, start = json.loads(line), time.perf_counter(); runs, cpu, end = [], [], start+ask.get('visit', 0)
            if not cuda: may = min(gb, .8*psutil.virtual_memory().available/1e9); allow(may)      # the others are asleep
            if 'first' in ask: job(); wait(); say(first=time.perf_counter()-start); continue
            if 'check' in ask: say(peak=peak_gb(c.device), **(agreement(c, job, x_bd) if c.job=='forward' and PEERS[c.peer].same else {})); continue
            while len(runs) < 20 and (not runs or time.perf_counter() < end):
                wait(); a, b = time.perf_counter(), time.process_time(); job(); wait()
                runs.append(time.perf_counter()-a); cpu.append(time.process_time()-b)
            say(runs=runs, cpu=cpu)
    except Exception as e:
        memory = isinstance(e, MemoryError) or any(w in str(e).lower() for w in ('allocate memory', 'out of memory', 'unable to allocate'))
        say(error=f'wanted more than {may:.1f} GB' if memory else f'{type(e).__name__}: {str(e).strip().splitlines()[0][:150] if str(e).strip() else ""}', memory=memory)

class Process:
    "A worker, spoken to in lines of JSON."
    def __init__(self, cell:Cell, python:str, gb:float, beside:int):
        self.cell, self.found, self.noise = cell, {}, tempfile.TemporaryFile()
        root = Path(__file__).resolve().parent.parent
        env = os.environ | dict(PYTHONPATH=os.pathsep.join(filter(None, [str(root), os.environ.get('PYTHONPATH')])), OMP_NUM_THREADS=str(cell.threads), OMP_WAIT_POLICY='passive', GOMP_SPINCOUNT='20000', PYTHONWARNINGS='ignore')
        self.p = subprocess.Popen([python, __file__, '--worker', json.dumps([cell, gb, beside])], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.noise, env=env, bufsize=0)
        self.since = time.perf_counter()

    def hear(self, seconds:float, late:str):
        "The next answer goes into `found`; silence or an end is an error."
        if 'error' in self.found: return
        if not select.select([self.p.stdout], [], [], max(0, seconds))[0]: self.found['error'] = late; return self.close()
        line = self.p.stdout.readline()
        if line: got = json.loads(line)
        else:
            self.noise.seek(0); last = self.noise.read().decode(errors='replace').strip().splitlines()[-1:] or ['']
            got = dict(error=f'ended with code {self.p.wait()} {last[0][:150]}'.strip(), memory=self.p.returncode==-9)
        for k, v in got.items():
            if isinstance(v, list): self.found.setdefault(k, []).extend(v)
            else: self.found[k] = v
        if 'error' in got: self.close()

    def ask(self, seconds:float, **what):
        if 'error' in self.found: return
        with contextlib.suppress(OSError): self.p.stdin.write((json.dumps(what)+'\n').encode())
        self.hear(seconds, f'nothing done within {seconds:.0f} s')

    def close(self):
        with contextlib.suppress(OSError): self.p.stdin.close()
        if 'error' in self.found: self.p.kill()
        self.p.wait(); self.p.stdout.close(); self.noise.close()

def measure(cells:list[Cell], python:dict, seconds:float, visits:int, gb:float) -> dict[Cell, dict]:
    "Figures of some processes that take turns; those that do not fit beside the others are tried again alone."
    every = [Process(c, python[c.peer], gb, len(cells)) for c in cells]
    patience = seconds*max(1, len(cells)/(os.cpu_count() or 1))          # they are built all at once
    for p in every: p.hear(p.since+patience-time.perf_counter(), f'not built within {patience:.0f} s')
    for p in every: p.ask(seconds, first=True)
    for _ in range(visits):
        for p in every:
            runs = p.found.get('runs', [])
            if not runs or p.found['first'] + sum(runs) + statistics.mean(runs) < seconds: p.ask(2*seconds, visit=.6)
    for p in every: p.ask(4*seconds, check=True)
    for p in every:
        if p.p.poll() is None: p.close()
    out = {p.cell: p.found for p in every}
    for c, f in list(out.items()):
        if f.get('memory') and len(cells) > 1: out |= {k: v | dict(alone=True) for k, v in measure([c], python, seconds, visits, gb).items()}
    return out

# --- all of it

GROUPS = dict(forward=('forward',), training=('EM', 'Adam'), sampling=('sample',))

def installed(peer:Peer, python:str) -> tuple[str|None, str]:
    "Version of a library in an interpreter, or None and why not."
    code = f"import importlib.metadata as m; import {peer.module}; print(m.version('{peer.pip}') if '{peer.pip}'!='pcdistill' else 'this checkout')"
    try: p = subprocess.run([python, '-c', code], capture_output=True, text=True, env=os.environ | dict(PYTHONPATH=str(Path(__file__).resolve().parent.parent)))
    except OSError as e: return None, f'no interpreter at {python} ({e.strerror})'
    return (p.stdout.split('\n')[0], '') if p.returncode==0 else (None, (p.stderr.strip().splitlines() or ['?'])[-1])

def report(cells:list[Cell], found:dict[Cell, dict]) -> str:
    "Table of one size, and why what is missing is missing."
    from pcdistill.show import table
    ms = lambda f: (f'{statistics.median(f["runs"])*1e3:.1f} ({min(f["runs"])*1e3:.1f})', f'{min(f["cpu"])*1e3:.0f}', f'{f["peak"]:.2f}') if 'peak' in f else ('–',)*3
    rows, why = [], []
    for peer in dict.fromkeys(c.peer for c in cells):
        of = {c.job: found[c] for c in cells if c.peer==peer}
        none = {}; f = of.get('forward', none)
        agrees = 'other model' if not PEERS[peer].same else '–' if 'agrees' not in f else f'{f["agrees"]:.1e}'
        if 'agrees_unbounded' in f: agrees += f' (no bound: {f["agrees_unbounded"]:.1e})'
        for n, by in enumerate([j for j in GROUPS['training'] if j in of]):
            first = n==0
            rows.append([peer if first else '', *(ms(f) if first else ('',)*3), by, *ms(of[by]), *(ms(of.get('sample', none)) if first else ('',)*3), agrees if first else ''])
        why += [f'  {peer}, {j}: {r["error"]}' for j, r in of.items() if 'error' in r]
    return '\n'.join([table(rows, ['milliseconds', 'forward', 'cpu', 'GB', 'training by', 'step', 'cpu', 'GB', 'sampling', 'cpu', 'GB', 'agrees to']), *why])

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--worker', help=argparse.SUPPRESS)
    p.add_argument('--python', action='append', default=[], help='interpreter of all peers (PATH) or of one (cirkit=PATH)')
    p.add_argument('--peers', nargs='+', default=list(PEERS), choices=list(PEERS), help='only these')
    p.add_argument('--sizes', nargs='+', default=['8x8', '28x28', '32x32x3'], help='rows x columns (x channels)')
    p.add_argument('--states', nargs='+', type=int, default=[16, 32, 64, 256], help='states of every latent')
    p.add_argument('--tree', default='binary', choices=['binary', 'random', 'quad', 'chow-liu'], help='binary: a latent for each variable')
    p.add_argument('--batch', type=int, default=256)
    p.add_argument('--threads', type=int, default=min(2, os.cpu_count() or 1))
    p.add_argument('--device', default='cpu', help="'cpu' or 'cuda'")
    p.add_argument('--seconds', type=float, default=30, help='for building a model, for its first step, and for all its runs')
    p.add_argument('--minutes', type=float, default=15, help='no new size after this')
    p.add_argument('--visits', type=int, default=4, help='how often each process is woken')
    p.add_argument('--gb', type=float, help='memory a process may take (80 %% of what is free)')
    p.add_argument('--json', type=Path, help='also write the figures to this file')
    a = p.parse_args()
    if a.worker: cell, *rest = json.loads(a.worker); return worker(Cell(*cell), *rest)
    from pcdistill.core import Refused, device
    try: device(a.device)
    except Refused as e: p.error(str(e))
    gb, start = a.gb or .8*psutil.virtual_memory().available/1e9, time.perf_counter()
    named = dict(q.split('=', 1) for q in a.python if '=' in q and q.split('=')[0] in PEERS); shared = [q for q in a.python if q.split('=')[0] not in PEERS]
    if 'spflow' in named: named.setdefault('spflow Einet', named['spflow'])
    python = {n: sys.executable if n in ('ours', 'pytorch') else named.get(n, shared[-1] if shared else sys.executable) for n in PEERS}
    cpu = next((l.split(':')[1].strip() for l in Path('/proc/cpuinfo').read_text().splitlines() if l.startswith('model name')), '') if Path('/proc/cpuinfo').exists() else platform.processor()
    machine = dict(device=cpu if a.device=='cpu' else torch.cuda.get_device_name(), threads=a.threads, cores=os.cpu_count(), load=os.getloadavg()[0], torch=torch.__version__, gb=gb)
    print(f"{machine['device']}, {a.threads} threads of {os.cpu_count()} cores, load {machine['load']:.1f} at the start, at most {gb:.1f} GB a process, batch {a.batch}, {a.tree} tree")
    here = {}
    for n in a.peers:
        version, reason = (None, 'computes on a GPU only') if PEERS[n].cuda and a.device=='cpu' else installed(PEERS[n], python[n])
        print(f'  {n}: {version}' if version else f'  {n}: left out, {reason}')
        if version: here[n] = version
    sizes = sorted(((s, k) for s in a.sizes for k in a.states), key=lambda t: Cell('', '', t[0], t[1], 0, '', '', 0).vars()*t[1]**2)
    done, given_up = [], collections.defaultdict(list)
    for shape, states in sizes:
        if time.perf_counter()-start > 60*a.minutes: print(f'\n{shape}, {states} states: not begun, {a.minutes:g} minutes are over'); continue
        cells, found = [Cell(n, j, shape, states, a.batch, a.tree, a.device, a.threads) for n in here for j in PEERS[n].jobs], {}
        for c in cells:
            for v, s in given_up[c.peer, c.job]:
                if c.vars() >= v and states >= s: found[c] = dict(error=f'not tried, given up at {v:,} variables, {s} states')
        for jobs in GROUPS.values():
            todo = [c for c in cells if c.job in jobs and c not in found]
            found |= measure(todo, python, a.seconds, a.visits, gb) if time.perf_counter()-start < 60*a.minutes else {c: dict(error=f'not begun, {a.minutes:g} minutes are over') for c in todo}
        for c in cells:
            if 'error' in found[c]: given_up[c.peer, c.job].append((c.vars(), states))
        done += [c._asdict() | found[c] for c in cells]
        print(f'\n{shape} = {cells[0].vars():,} variables of 256 values, {states} states, load now {os.getloadavg()[0]:.1f}\n' + report(cells, found), flush=True)
        if a.json: a.json.write_text(json.dumps(dict(machine=machine, versions=here, cells=done), indent=1))

if __name__ == '__main__': main()
