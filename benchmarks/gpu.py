"""What a GPU makes of the kit, in under eight minutes: one command, one JSON.

    python benchmarks/gpu.py --json nbs/experiments/results/gpu-h200.json

On a bare machine: Python 3.11 or newer, torch with CUDA, and (most images have all but the last) numpy, einops, jaxtyping,
safetensors, scikit-learn, scipy, pillow, matplotlib, tqdm, psutil and fastcore. Nothing is built and nothing fetched: run it in
the repository with PYTHONPATH=. where the package is not installed. `datasets`, `constriction` and notebooks are not needed.
PyJuice is timed beside us if it can be imported, else its published seconds (an RTX 4090) stand there, said as such.
Images are CIFAR-10 if PCDISTILL_DATA has it, else crops of the photographs in the package; the JSON says which.

Every part has its seconds (--minutes for all) and begins nothing that would not end in them; the JSON is written after every
row, so that whatever stops the script loses one row. A row that fails says why and the next one begins. Parts:
card       copy and matrix rates of this card, a launch, a wait: what `share` is measured against
agreement  CPU against the card: scores (at most 1e-4 bits/dim apart), counts of EM, posteriors, codes; TF32 beside float32
steps      the steps that the chain is made of: seconds, operations, bytes, launches, peak memory, share of the floor
w1         benchmarks/w1.py, and the same step as a CUDA graph
pyjuice    HCLT and PD at PyJuice's own sizes: seconds for 60,000 images
chain      the stages of preset `best` for 32×32 colour images at a tenth of their images, the whole extrapolated
network    the one of completions.py --network paper: images a second, asked and trained

    python benchmarks/gpu.py --floors     # no card: operations and bytes of the steps, floors by published rates
    python benchmarks/gpu.py --small --device cpu  # a dry run of all parts, seconds

Bytes are what the operations read and write, each once: what must pass through memory if no two are fused and no cache helps.
Floor: the larger of bytes over the copy rate and operations over the matrix rate (TF32 where training multiplies so).
"""
import argparse, copy, json, math, os, signal, tempfile, time, traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from cells import EXTRA, definitions
from chain import COMMIT, RESULTS
from completions import NETWORKS
from pcdistill.chain import Run, untrained
from pcdistill.circuit import Circuit
from pcdistill.colour import COLOURS
from pcdistill.core import device, products, rng
from pcdistill.data import images
from pcdistill.either import Either
from pcdistill.em import EM
from pcdistill.evaluate import hclt_states
from pcdistill.image import Image
from pcdistill.extra.innovations import Asked, InnovationsConfig, fit_innovations
from pcdistill.inputs import Categorical, Evidence
from pcdistill.latents import kind_of
from pcdistill.extra.masked import MaskedNet
from pcdistill.normals import Normals
from pcdistill.priors import CodePrior, PriorConfig
from pcdistill.recipes import recipe
from pcdistill.runs import save_json
from pcdistill.structure import binary_tree, chain
from pcdistill.teacher import init_
from pcdistill.tiles import Tiles
from pcdistill.vqvae import VQConfig, VQVAE2

graphs = definitions(EXTRA/'graphs.ipynb')

# --- what a step asks of a card

class Work(NamedTuple):
    flops:int    # of matrix products and convolutions
    moved:int    # bytes that operations read and write, each once
    launches:int # operations that are no views

class Counted(TorchDispatchMode):
    "Bytes and launches of all operations in here."
    def __init__(self):
        super().__init__()
        self.moved = self.launches = 0

    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        out = f(*args, **kwargs or {})
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in f._schema.returns)
        if not view and not f.overloadpacket.__name__.startswith(('_unsafe_view', 'empty', 'new_empty')):
            tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
            self.moved += sum({id(t): t.numel()*t.element_size() for t in tensors}.values())
            self.launches += 1
        return out

def work(step:Callable) -> Work:
    "Call it and count; on the device 'meta' nothing is computed."
    flops, counted = FlopCounterMode(display=False), Counted()
    with flops, counted:
        step()
    return Work(flops.get_total_flops(), counted.moved, counted.launches)

class Card(NamedTuple):
    "Bytes a second, operations a second."
    memory:float
    fp32:float
    tf32:float

# HBM, FP32 and dense TF32 (the data sheets print it with sparsity, twice as much) of NVIDIA's data sheets 'H100 Tensor Core GPU'
# (SXM5) and 'H200 Tensor Core GPU' (SXM)
CARDS = dict(H100=Card(3.35e12, 67e12, 494.5e12), H200=Card(4.8e12, 67e12, 494.5e12))

def floor_s(w:Work, card:Card, tf32:bool) -> float:
    "No less than so many seconds."
    return max(w.moved/card.memory, w.flops/(card.tf32 if tf32 else card.fp32))

# --- the steps: name → (device, small) → what is called, and how many rows or images it is of

class Step(NamedTuple):
    run:Callable
    rows:int          # images or patches
    of:str
    tf32:bool=True    # whether training rounds factors

def trained(module, lp:Callable, lr:float=.1) -> Callable:
    "A step of EM."
    em = EM(module, lr, .01)
    def step():
        with products(tf32=True):
            (-lp().sum()).backward()
        em.step()
    return step

def learned(model, loss:Callable) -> Callable:
    "A step of Adam."
    opt = torch.optim.AdamW(model.parameters(), 1e-4)
    def step():
        opt.zero_grad()
        with products(tf32=True):
            loss().backward()
        opt.step()
    return step

def some(shape, values, dev):
    return torch.randint(0, values, shape, generator=rng(2)).to(dev)

def tree_step(states:int, b:int=256, d:int=784):
    def of(dev, small):
        n, s, rows = (31, 4, 16) if small else (d, states, b)
        pc = Circuit(binary_tree(n), Categorical(n, 256, s, rng(0)), 1, rng(1)).to(dev)
        x_bd = some((rows, n), 256, dev)
        return Step(trained(pc, lambda: pc(x_bd)), rows, 'images')
    return of

def best_image(small:bool) -> Image:
    "The student of preset `best` on a GPU, of that size and with random numbers (see `either.start_squares`)."
    r = recipe('cifar10', 'best', shape=(3, 32, 32), dev='cuda')
    c, K = r.emission, r.clusters
    scales, halves, joined = (2, 4, 4) if small else (c.scales, c.halves, c.joined[-1])
    labels, heads, side = (4, 2, 8) if small else (K, c.heads, r.patch)
    def split(piece, pieces):
        return Circuit(chain(pieces), Evidence(pieces, piece.n_heads), heads, rng(0))
    def cut(piece, pieces, d):
        return Tiles(piece, split(piece, pieces), torch.arange(d).view(pieces, -1))
    def square(d, n, shapes, half, half_shapes):
        halves = [Normals(half, d//2, 256, half_shapes) for _ in range(2)]
        return [Normals(n, d, 256, shapes), *(cut(h, 2, d) for h in halves)]
    d = 3*side**2
    inner = Either(square(d, labels*scales, labels, halves, max(1, halves//16)))
    n = max(1, joined//4)
    outer = Either([*square(4*d, n, max(1, n//32), joined, max(1, joined//32)), cut(inner, 4, 4*d)])
    prior = Circuit(chain(4), Evidence(4, outer.n_heads), 1, rng(1))
    return Image(outer, prior, COLOURS['rgb'], 2*side, (3, 4*side, 4*side))

def normals_step(dev, small):
    labels, scales, d, rows = (4, 2, 12, 64) if small else (128, 16, 192, 8192)
    e, x_xd = Normals(labels*scales, d, 256, labels).to(dev), some((rows, d), 256, dev)
    def step():
        e.count = None
        (-e.log_joint(x_xd).logsumexp(1).sum()).backward()
    return Step(step, rows, 'patches of 8×8', False)

def m_step(dev, small):
    labels, scales, d = (4, 2, 12) if small else (128, 16, 192)
    e = Normals(labels*scales, d, 256, labels).to(dev)
    count = torch.eye(1+d).repeat(labels*scales, 1, 1).to(dev)*100
    def step():
        e.count = count.clone()
        e.em_step_(.5, 1.)
    return Step(step, labels*scales, 'components', False)

def tuning_step(dev, small):
    image, b = best_image(small).to(dev), 4 if small else 256
    x = some((b, *image.shape), 256, dev).byte()
    def step():
        (-image(x, density=True).sum()).backward()
        for m in image.modules():
            m.zero_grad()
            if type(m) is Normals:
                m.count = None
    return Step(step, b, 'images', False)

def teacher_step(dev, small):
    config = VQConfig.tiny(4) if small else VQConfig(8)
    model = VQVAE2(config, (3, 32, 32))
    model.start_(rng(0))
    model, x = model.to(dev), some((config.batch, 3, 32, 32), 256, dev).byte()
    return Step(learned(model, lambda: model.loss(x, rng(1))), config.batch, 'images')

def prior_step(dev, small):
    config, codes = PriorConfig.tiny() if small else PriorConfig(), (256,)*20
    model, ids = init_(CodePrior(config, codes), rng(0)).to(dev), some((config.batch, 20), 256, dev)
    return Step(learned(model, lambda: model.loss(ids)), config.batch, 'images')

def plain_step(dev, small):
    S = 2 if small else hclt_states(3072, 256, best_image(False).n_params)
    return tree_step(S, 250, 3072)(dev, small)

def network_step(dev, small):
    config = NETWORKS['tiny' if small else 'paper']
    b = 4 if small else config.batch
    net = init_(MaskedNet(config, (3, 32, 32)), rng(0)).to(dev)
    x, seen = some((b, 3, 32, 32), 256, dev).byte(), some((b, 1, 32, 32), 2, dev) > 0
    mean = x.float()
    return Step(learned(net, lambda: (net(x, seen, mean) - mean).square().mean()), b, 'images')

STEPS = {'circuit W1, EM step': tree_step(32), 'circuit of 256 states, EM step': tree_step(256),
         'normals, E-step': normals_step, 'normals, M-step': m_step,
         'fine-tuning the student, E-step': tuning_step, 'teacher, training step': teacher_step,
         'code prior, training step': prior_step, 'plain HCLT of as many parameters, EM step': plain_step,
         'masked network, training step': network_step}

LAUNCH_S = 5e-6 # a launch from Python; not published, `card` measures it

def in_the_chain() -> dict:
    "How often the steps come when `best` distils CIFAR-10 (45,000 images) on a GPU."
    n, r = 45_000, recipe('cifar10', 'best', shape=(3, 32, 32), dev='cuda')
    c, vq, prior = r.emission, VQConfig(r.patch), PriorConfig()
    return {'normals, E-step': 16*n*((c.epochs+1)//2)/8192, 'normals, M-step': 16*n*((c.epochs+1)//2)/c.batch,
            'fine-tuning the student, E-step': (n*c.epochs + r.n_tune*r.epochs)/r.micro,
            'teacher, training step': vq.epochs*min(n, vq.per_epoch)/vq.batch,
            'code prior, training step': prior.epochs*min(n, prior.per_epoch)/prior.batch,
            'plain HCLT of as many parameters, EM step': 10*20_000/250}

def floors() -> dict:
    "Operations, bytes, launches of the steps, and their floors on published cards; nothing is computed."
    rows, often = {}, in_the_chain()
    for name, make in STEPS.items():
        if make is m_step: # looks at its own numbers
            continue
        step = make('meta', False)
        step.run() # optimizers make their state
        w = work(step.run)
        at = {k: floor_s(w, c, step.tf32) for k, c in CARDS.items()}
        rows[name] = dict(rows=step.rows, of=step.of, tf32=step.tf32, **w._asdict(), floor_s=at, times=often.get(name))
        print(name, w, at, flush=True)
    return dict(commit=COMMIT, torch=torch.__version__, rows=rows, launch_s=LAUNCH_S, cards={k: c._asdict() for k, c in CARDS.items()})

# --- measuring

class Bench:
    "A card, a clock, and the JSON that grows."
    def __init__(self, dev, small:bool, minutes:float, file:Path):
        self.dev, self.small, self.file = dev, small, file
        self.cuda, self.start, self.end = dev.type=='cuda', time.monotonic(), math.inf
        self.last = self.start + 60*minutes
        name = torch.cuda.get_device_name(dev) if self.cuda else 'CPU'
        self.card = Card(*[1e10]*3)
        self.out = dict(device=name, torch=torch.__version__, cuda=torch.version.cuda, commit=COMMIT, small=small)

    def left(self) -> float:
        "Seconds of the part."
        return min(self.end, self.last) - time.monotonic()

    def wait(self):
        if self.cuda:
            torch.cuda.synchronize(self.dev)

    def peak_gb(self, reset:bool=False) -> float|None:
        if not self.cuda:
            return None
        if reset:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.dev)
        return torch.cuda.max_memory_allocated(self.dev)/1e9

    def seconds(self, f:Callable, least:int=3, most:float=2.) -> float:
        "Median of some calls, after two to warm up."
        for _ in range(1 if self.small else 2):
            f()
        took, end = [], time.monotonic() + (0 if self.small else most)
        while len(took) < least or time.monotonic() < end and len(took) < 50:
            self.wait()
            start = time.perf_counter()
            f()
            self.wait()
            took.append(time.perf_counter() - start)
        return sorted(took)[len(took)//2]

    def row(self, part:str, name:str, f:Callable, need:float=1.):
        "What f gives, or why it fails; not begun if it may need more seconds than there are."
        rows, start = self.out.setdefault(part, {}), time.monotonic()
        if self.left() < need:
            rows[name] = dict(left_out=f'{self.left():.0f} s left, {need:.0f} wanted')
        else:
            try:
                self.peak_gb(True)
                rows[name] = f() | dict(peak_gb=self.peak_gb(), took=round(time.monotonic() - start, 1))
            except Exception as e:
                where = [f'{Path(s.filename).name}:{s.lineno}' for s in traceback.extract_tb(e.__traceback__)][-4:]
                rows[name] = dict(failed=f'{type(e).__name__}: {str(e)[:300]}', where=where)
        print(f'{time.monotonic() - self.start:5.0f} s  {part}: {name}: {json.dumps(rows[name])}', flush=True)
        save_json(self.file, self.out)
        return rows[name]

def card(bench:Bench):
    "Rates of this card."
    n, size = (256, 1 << 16) if bench.small else (8192, 1 << 30)
    a = torch.ones(size, device=bench.dev)
    b = torch.empty_like(a)
    one = torch.ones(1, device=bench.dev)
    def multiply(dtype, tf32):
        x = torch.randn(n, n, generator=rng(0)).to(bench.dev, dtype)
        with products(tf32):
            return 2*n**3/bench.seconds(lambda: x @ x)
    def many():
        for _ in range(1000):
            one.add_(1)
    def measured():
        copied = 2*a.nbytes/bench.seconds(lambda: b.copy_(a))
        fp32, tf32 = (multiply(torch.float32, t) for t in (False, True))
        bench.card = Card(copied, fp32, tf32)
        return bench.card._asdict() | dict(
            bf16=multiply(torch.bfloat16, False), launch_s=bench.seconds(many)/1000,
            wait_s=bench.seconds(lambda: one.add_(1).item()), total_gb=torch.cuda.mem_get_info()[1]/1e9 if bench.cuda else None)
    bench.row('card', 'rates', measured)

def steps(bench:Bench):
    "Every step against its floor."
    def measured(make):
        step = make(bench.dev, bench.small)
        step.run()
        w, s = work(step.run), bench.seconds(step.run)
        floor = floor_s(w, bench.card, step.tf32)
        return dict(seconds=s, rows=step.rows, of=step.of, rows_a_second=step.rows/s, tf32=step.tf32,
                    **w._asdict(), floor_s=floor, share_of_floor=floor/s, share_of_memory=w.moved/s/bench.card.memory,
                    share_of_products=w.flops/s/(bench.card.tf32 if step.tf32 else bench.card.fp32))
    for name, make in STEPS.items():
        bench.row('steps', name, lambda: measured(make), 4)

# --- agreement

def off(a, b) -> float:
    return float((a.detach().cpu().double() - b.detach().cpu().double()).abs().nan_to_num(0).max())

def counts(image, x) -> dict:
    "What EM collects of some images."
    (-image(x, density=True).sum()).backward()
    found = {n: p.grad for n, p in image.named_parameters() if p.grad is not None}
    return found | {n: m.count for n, m in image.named_modules() if type(m) is Normals and m.count is not None}

def agrees(image, x, dev) -> dict:
    "One image circuit, on the CPU and on the card."
    far, dims = copy.deepcopy(image).to(dev), x[0].numel()*math.log(2)
    y, seen = x.to(dev), torch.arange(x.shape[3]).expand(len(x), *x.shape[2:]) < x.shape[3]//2
    with torch.no_grad():
        here, there = image(x), far(y)
        dense = off(image(x, density=True), far(y, density=True))/dims
        with products(tf32=True):
            rounded = off(there, far(y))
    out = dict(bits=off(here, there)/dims, density_bits=dense, tf32_nats_an_image=rounded)
    mine, its = image.moments(x, seen), far.moments(y, seen.to(dev))
    drawn = far.draw(y, seen.to(dev), rng(0, dev)).cpu()
    kept = seen[:, None].expand_as(x)
    out |= dict(mean_grey_levels=off(mine[0], its[0]), entropy_bits=off(mine[1], its[1]),
                draws_keep_what_is_seen=bool((drawn[kept]==x[kept]).all()))
    a, b = counts(image, x), counts(far, y)
    out['counts_relative'] = max(off(a[n], b[n])/max(1e-9, float(a[n].abs().max())) for n in a)
    for m, rows in ((image, x), (far, y)):
        EM(m, .5, 1.).step()
    with torch.no_grad():
        out['bits_after_a_step'] = off(image(x), far(y))/dims
    return out | dict(ok=max(out['bits'], out['density_bits']) <= 1e-4)

SMALL_FAMILIES = dict(trees=dict(states=8), grown=dict(states=4, rounds=1),
                      normals=dict(scales=2, halves=8, joined=(8,)))

def agreement(bench:Bench):
    "CPU against the card."
    x, dev = images('photos', 'train', 64), bench.dev
    if bench.small:
        x = x[:8, :, :8, :8].contiguous()
    def of_family(name, settings):
        r = recipe('photos', 'tiny', name, tuple(x.shape[1:]), emission=settings, clusters=8, teacher='pixels')
        with tempfile.TemporaryDirectory() as folder:
            image = untrained(r, x, folder).start()
        return agrees(image, x[:4 if bench.small else 32], dev)
    for name, settings in SMALL_FAMILIES.items():
        if not bench.small or name in ('trees', 'normals'):
            bench.row('agreement', name, lambda: of_family(name, settings), 5)
    if not bench.small:
        definitions(EXTRA/'logistic.ipynb')
        bench.row('agreement', 'trees, logistic inputs', lambda: of_family('trees', dict(states=8, inputs='logistic')), 5)
    def of_teacher(kind, **changes):
        config = replace(kind_of(kind).preset('tiny', 4, 16), **changes)
        made = kind_of(kind).fit(x, config, rng(0), progress=False).eval()
        far = copy.deepcopy(made).to(dev)
        a, b = made.codes(x), far.codes(x.to(dev)).cpu()
        out = dict(codes_alike=float((a==b).float().mean()))
        if made.has_likelihood:
            alike = (a==b).all(1)
            nats = off(made.log_cond(x)[alike], far.log_cond(x.to(dev)).cpu()[alike]) if alike.any() else 0.
            out['bits'] = nats/x[0].numel()/math.log(2)
        return out | dict(ok=out.get('bits', 0.) <= 1e-4)
    for kind, changes in dict(pixels={}, vqvae=dict(epochs=1), mae=dict(epochs=1)).items():
        bench.row('agreement', f'teacher {kind}', lambda: of_teacher(kind, **changes), 5)
    def of_innovations():
        y = x[:, :, :8, :8].contiguous()
        made = fit_innovations(y, y, InnovationsConfig(K=4, epochs=1), rng(0), progress=False)
        far, seen = copy.deepcopy(made).to(dev), torch.arange(8).expand(8, 8) < 4
        a, b = Asked(made, y, seen), Asked(far, y.to(dev), seen)
        bits = off(a.log_mass(), b.log_mass())/y[0].numel()/math.log(2)
        return dict(mean_grey_levels=off(a.mean_bh, b.mean_bh), bits=bits, ok=bits <= 1e-4)
    bench.row('agreement', 'innovations', of_innovations, 5)
    def of_network():
        net = init_(MaskedNet(NETWORKS['tiny'], tuple(x.shape[1:])), rng(0))
        seen, mean = torch.rand(len(x), 1, *x.shape[2:], generator=rng(1)) < .5, x.float()
        with torch.no_grad():
            a, b = net(x, seen, mean), copy.deepcopy(net).to(dev)(*(t.to(dev) for t in (x, seen, mean)))
        return dict(grey_levels=off(a, b), ok=off(a, b) < .01)
    bench.row('agreement', 'masked network', of_network, 5)

# --- W1 and PyJuice

def graphed(step:Callable) -> Callable:
    "The same as a CUDA graph."
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay

def w1(bench:Bench):
    "benchmarks/w1.py in this process; steps as CUDA graphs."
    import w1 as base
    sizes = dict(b=8, values=8, states=2) if bench.small else {}
    for tree in base.TREES:
        def measured():
            r = base.measure(tree, str(bench.dev), torch.get_num_threads(), 2 if bench.small else 20, **sizes)
            floor = r['gb_moved']*1e9/bench.card.memory
            return r | dict(floor_s=floor, share_of_floor=floor/r['median_s']['step_em'])
        bench.row('w1', tree, measured, 8)
    for states in () if bench.small or not bench.cuda else (32, 256):
        def measured():
            step = tree_step(states)(bench.dev, False)
            eager = bench.seconds(step.run)
            return dict(seconds=eager, graph_seconds=bench.seconds(graphed(step.run)))
        bench.row('w1', f'CUDA graph, {states} states', measured, 8)

# PyJuice's README: seconds for 60,000 images of 784 pixels, forward, backward and EM, by number of edges of sums, on an RTX 4090
PYJUICE = dict(HCLT={2.56e6: .8, 10.1e6: 1.3, 39.9e6: 2.6, 159e6: 8.8, 633e6: 24.9},
               PD={15.6e6: 2., 56.3e6: 5.3, 213e6: 15.4, 829e6: 57.1, 2.03e9: 203.7})

def edges_of(pc) -> int:
    return sum(p.numel() for p in pc.parameters(recurse=False))

def pyjuice(bench:Bench):
    "PyJuice's own sizes: ours, its own if it is there, what it published."
    from importlib.util import find_spec
    there, batch, d = find_spec('pyjuice') is not None, 512, 784
    bench.out['pyjuice_is'] = 'timed here' if there else 'published, RTX 4090; not installed here'
    if bench.small:
        batch, d = 4, 16
    def made(kind, width): # random tables are made on the card: 2 billion take a CPU half a minute
        gen, side = rng(0, bench.dev), math.isqrt(d)
        with bench.dev:
            inputs = Categorical(d, 256, width, gen)
            if kind=='HCLT':
                return Circuit(binary_tree(d), inputs, 1, gen)
            return graphs.GraphCircuit(graphs.poon_domingos(side, side, 2 if bench.small else 4), inputs, 1, gen)
    def measured(kind, width, said):
        pc = made(kind, width).to(bench.dev)
        x, edges = some((batch, d), 256, bench.dev), edges_of(pc)
        s = bench.seconds(trained(pc, lambda: pc(x)), 3, 1.5)*60_000/batch
        out = dict(width=width, edges=edges, epoch_s=s, pyjuice_edges=said[0], pyjuice_published_s=said[1],
                   times_published_an_edge=said[1]/said[0]*edges/s)
        if there and kind=='HCLT' and width <= 256 and bench.left() > 30:
            from peers import pyjuice as peer
            its = bench.seconds(peer(pc, x, None, 'EM'), 3, 1.5)*60_000/batch
            out |= dict(pyjuice_s=its, times_pyjuice=its/s)
        return out
    for kind, published in PYJUICE.items():
        for i, said in enumerate(published.items()):
            width = 2 if bench.small else 64*2**i if kind=='HCLT' else round(math.sqrt(said[0]/3185))
            need = 2 if bench.small else 4 + said[0]*4e-9
            bench.row('pyjuice', f'{kind} {said[0]:.3g} edges', lambda: measured(kind, width, said), need)
            if bench.small:
                break

# --- the chain

def some_images(bench:Bench, n:dict) -> tuple[str, dict]:
    "Where they are from, and the splits."
    if (Path(os.environ.get('PCDISTILL_DATA', os.devnull))/'cifar10').is_dir() and not bench.small:
        return 'CIFAR-10', {s: images('cifar10', s, k) for s, k in n.items()}
    from streaming import crops
    def cut(split, k, i):
        rows = crops('train' if split=='train' else 'val', k, 32, rng(i))
        return torch.from_numpy(rows).view(k, 3, 32, 32)
    made = {s: cut(s, k, i) for i, (s, k) in enumerate(n.items())}
    if bench.small:
        made = {s: x[:, :, :8, :8].contiguous() for s, x in made.items()}
    return "crops of the package's photographs", made

WHOLE = dict(train=45_000, valid=1000, test=10_000) # of CIFAR-10; the tenth keeps all validation images

def stages(bench:Bench):
    "The stages of `best` at a tenth of their images; what would take longer than there is time ends in a TimeoutError."
    def over(*_): raise TimeoutError
    signal.signal(signal.SIGALRM, over)
    dev = bench.dev
    if bench.small:
        n, tune = dict(train=24, valid=4, test=4), 8
        r = recipe('cifar10', 'tiny', 'normals', (3, 8, 8), emission=dict(epochs=1, scales=2, halves=8, joined=(8,)), clusters=4)
        r = replace(r, n_tune=tune, epochs=1, batch=8, micro=4, autoregressive=False, teacher='pixels')
    else:
        n, tune = dict(train=4500, valid=1000, test=1000), 2000
        r = replace(recipe('cifar10', 'best', shape=(3, 32, 32), dev='cuda'), n_tune=tune)
    data, held = some_images(bench, n)
    bench.out['chain_data'] = data
    times = dict(teacher=10, prior=20_000/4500, latents=10, start=10, student=10, plain=20_000/4500, measured=10, readings=1, baselines=10)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(r, folder, str(dev), False)
        run.held |= {s: x.to(dev) for s, x in held.items()}
        for name, factor in times.items():
            def one():
                start = time.monotonic()
                signal.setitimer(signal.ITIMER_REAL, max(.05, bench.left()))
                try:
                    getattr(run, name)()
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                bench.wait()
                s = time.monotonic() - start
                return dict(seconds=s, times=factor, whole_s=s*factor)
            if 'seconds' not in bench.row('chain', name, one, 2):
                break
    done = bench.out['chain']
    if all('seconds' in done.get(k, {}) for k in times):
        bench.out['whole_chain_minutes'] = sum(done[k]['whole_s'] for k in times)/60

def network(bench:Bench):
    "The masked network: asked, and trained."
    def asked():
        config = NETWORKS['tiny' if bench.small else 'paper']
        b = 4 if bench.small else config.batch
        net = MaskedNet(config, (3, 32, 32)).to(bench.dev).requires_grad_(False)
        x, seen = some((b, 3, 32, 32), 256, bench.dev).byte(), some((b, 1, 32, 32), 2, bench.dev) > 0
        ask = lambda: net(x, seen, x.float())
        w, s = work(ask), bench.seconds(ask)
        return dict(images_a_second=b/s, seconds=s, **w._asdict(), share_of_products=w.flops/s/bench.card.fp32)
    def trained_():
        step = network_step(bench.dev, bench.small)
        s = bench.seconds(step.run)
        return dict(images_a_second=step.rows/s, seconds=s)
    bench.row('network', 'asked, float32', asked, 3)
    bench.row('network', 'trained, TF32', trained_, 3)

# part → seconds at most; the network comes before the chain, which takes what is left
PARTS = dict(card=(card, 20), agreement=(agreement, 75), steps=(steps, 60), w1=(w1, 40), network=(network, 20),
             pyjuice=(pyjuice, 75), chain=(stages, 200))

def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--device', help="'cuda' or 'cpu'; the card if there is one")
    p.add_argument('--parts', nargs='+', choices=list(PARTS), default=list(PARTS))
    p.add_argument('--minutes', type=float, default=7.5, help='nothing begins that would end later')
    p.add_argument('--small', action='store_true', help='a dry run at sizes of no interest')
    p.add_argument('--floors', action='store_true', help='only operations, bytes and published floors; needs no card')
    p.add_argument('--json', type=Path, help='where the figures go')
    a = p.parse_args(argv)
    if a.floors:
        return save_json(a.json or RESULTS/'gpu-floors.json', floors())
    bench = Bench(device(a.device), a.small, a.minutes, a.json or RESULTS/'gpu.json')
    print(f"{bench.out['device']}, torch {torch.__version__}, commit {COMMIT}, at most {a.minutes:g} minutes")
    for name in a.parts:
        part, most = PARTS[name]
        bench.end = time.monotonic() + most
        part(bench)
    bench.out['seconds'] = round(time.monotonic() - bench.start)
    save_json(bench.file, bench.out)
    return bench.out

if __name__=='__main__':
    main()
