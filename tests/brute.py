"""The referee: random circuits small enough to write out in full, and every answer as a sum over everything.

Nothing here passes messages: the joint table of all latents and all variables is built in float64 from the formula
p(x, z | k) = p(z_root | k) · Π p(z_i | z_parent(i)) · Π p(x_v | z_host(v)).
"""
from typing import NamedTuple
import functools, itertools, json
import torch
from torch import Tensor
from pcdistill.circuit import Circuit, from_spec
from pcdistill.core import rng
from pcdistill.inputs import Categorical, from_spec as input_from_spec
from pcdistill.circuit import plan
from pcdistill.structure import RegionGraph, Tree, binary_tree, chain, chow_liu, quad_graph, quad_tree, random_tree, side_by_side
from pcdistill.extra.graphs import poon_domingos, rat, tied
from pcdistill.extra.sharing import Shared
from pcdistill.extra.sums import cp, monarch, tucker

KINDS = ['chow_liu', 'quad_2x3', 'quad_3x1x2', 'quad_1x2x3', 'quad_1x1x4', 'quad_2x2', 'binary', 'random', 'chain', 'single', 'hand']

def integer(lo:int, hi:int, gen:torch.Generator) -> int:
    "A random integer, both ends included."
    return int(torch.randint(lo, hi+1, (1,), generator=gen))

def hand_tree(n_vars:int, gen:torch.Generator) -> Tree:
    "Any rooted tree, its latents in any order, each hosting none, one or several variables."
    n = integer(1, 6, gen)
    order = torch.randperm(n, generator=gen).tolist()              # order[0] is the root
    parent = [-1]*n
    for i in range(1, n): parent[order[i]] = order[integer(0, i-1, gen)]
    return Tree(tuple(parent), tuple(integer(0, n-1, gen) for _ in range(n_vars)))

def tree_of(kind:str, gen:torch.Generator) -> Tree:
    "A tree of a kind over at most six variables."
    if kind.startswith('quad_'): return quad_tree(*map(int, kind[5:].split('x')))
    d = integer(2, 6, gen)
    if kind=='chow_liu':
        mi = torch.rand(d, d, generator=gen); return chow_liu(mi + mi.T)
    if kind=='random': return random_tree(d, gen)
    if kind=='single': return Tree((-1,), (0,)*integer(1, 3, gen))
    if kind=='hand': return hand_tree(d, gen)
    return dict(binary=binary_tree, chain=chain)[kind](d)

def circuit_of(kind:str, seed:int, most:int=400_000) -> Circuit:
    "A random circuit of a kind whose joint table has at most `most` entries, weights far from uniform."
    gen = rng(seed)
    tree = tree_of(kind, gen)
    values, states, heads = integer(2, 4, gen), integer(1, 4, gen), integer(1, 3, gen)
    while states**len(tree.parent) * values**len(tree.host) > most:
        values, states = (values, states-1) if states > 2 else (values-1, states)
    pc = Circuit(tree, Categorical(len(tree.host), values, states, gen), heads, gen)
    with torch.no_grad():
        for p, dim in ((pc.inputs.logp_dvs, 1), (pc.edges_est, 1), (pc.root_1sk, 1)):
            p.copy_((1.5*torch.randn(p.shape, generator=gen)).log_softmax(dim))
    return pc

class Table(NamedTuple):
    "A circuit written out: probabilities of everything, in float64."
    x_xd:Tensor   # every assignment of the variables
    z_zl:Tensor   # every assignment of the latents
    p_zk:Tensor   # p(z | head)
    p_xz:Tensor   # p(x | z)
    p_xk:Tensor   # p(x | head)

def every(n_values:int, n:int) -> Tensor:
    "All assignments of n variables."
    return torch.tensor(list(itertools.product(range(n_values), repeat=n))).reshape(-1, n)

def latents(pc:Circuit) -> tuple[Tensor, Tensor]:
    "Every assignment of the latents and its probability under each head."
    z_zl, place = every(pc.n_states, len(pc.tree.parent)), plan(pc.tree).nodes.argsort()
    edge, root = pc.edges_est.detach().double().exp(), pc.root_1sk.detach().double().exp()
    p_zk = torch.ones(len(z_zl), pc.n_heads, dtype=torch.double)
    for i, above in enumerate(pc.tree.parent):
        p_zk *= root[0, z_zl[:, i]] if above < 0 else edge[place[i]-1, z_zl[:, i], z_zl[:, above]][:, None]
    return z_zl, p_zk

def write_out(pc:Circuit) -> Table:
    "The whole joint table."
    z_zl, p_zk = latents(pc)
    x_xd = every(pc.inputs.n_values, len(pc.tree.host))
    table = pc.inputs.logp_dvs.detach().double().exp()
    p_xz = torch.ones(len(x_xd), len(z_zl), dtype=torch.double)
    for v, h in enumerate(pc.tree.host): p_xz *= table[v][x_xd[:, v]][:, z_zl[:, h]]
    return Table(x_xd, z_zl, p_zk, p_xz, p_xz @ p_zk)

@functools.lru_cache(64)
def case(kind:str, seed:int) -> tuple[Circuit, Table]:
    "A random circuit and its table, for tests that do not change it."
    pc = circuit_of(kind, seed); return pc, write_out(pc)

def agree(t:Table, x_bd:Tensor, seen_bd:Tensor) -> Tensor:
    "1 where an assignment is a completion of a row's seen part, [b x]."
    return ((t.x_xd[None]==x_bd[:, None]) | ~seen_bd[:, None]).all(-1).double()

def marginal(t:Table, x_bd:Tensor, seen_bd:Tensor) -> Tensor:
    "p(seen part | head), [b k]: the sum over completions."
    return agree(t, x_bd, seen_bd) @ t.p_xk

def some_rows(pc:Circuit, n:int, gen:torch.Generator) -> tuple[Tensor, Tensor]:
    "Random values and random masks."
    d = len(pc.tree.host)
    return torch.randint(0, pc.inputs.n_values, (n, d), generator=gen), torch.rand(n, d, generator=gen) < torch.rand(n, 1, generator=gen)

# ── any region graph, any kind of sum: the circuit's definition as a recursion over assignments, in float64 ──────────────

GRAPHS = ['rat', 'pd', 'quad_graph', 'hand_graph', 'side_by_side', 'tied', 'shared']
SUMS = dict(dense=lambda g: g, cp=cp, tucker=tucker, monarch=monarch)

def hand_graph(n_vars:int, gen:torch.Generator) -> RegionGraph:
    "Every set of variables split in one to three random ways, into two or three parts; sets that come up again are shared."
    ids, products = {}, []
    def region(vs):
        if vs in ids: return ids[vs]
        ids[vs] = me = n_vars + len(ids)
        if len(vs)==1: products.append((me, vs)); return me
        for _ in range(integer(1, 3, gen)):
            mixed = [vs[i] for i in torch.randperm(len(vs), generator=gen).tolist()]
            if integer(0, 5, gen)==0: products.append((me, vs)); continue                    # all at once, no latents below
            cuts = sorted({0, len(vs), *(integer(1, len(vs)-1, gen) for _ in range(integer(1, 2, gen)))})
            parts = [tuple(sorted(mixed[a:b])) for a, b in zip(cuts[:-1], cuts[1:])]
            products.append((me, tuple(region(p) if len(p) > 1 or integer(0, 1, gen) else p[0] for p in parts)))
        return me
    root = region(tuple(range(n_vars)))
    order = [root, *sorted(set(ids.values())-{root})]
    return RegionGraph(tuple(range(n_vars)), tuple(products), (root,)).check()

def graph_of(kind:str, gen:torch.Generator) -> RegionGraph:
    "A small region graph of a kind."
    if kind=='rat': return rat(integer(4, 6, gen), integer(1, 2, gen), integer(1, 3, gen), gen)
    if kind=='pd': return poon_domingos(*((2, 3), (3, 2), (2, 2), (1, 4))[integer(0, 3, gen)], 1)
    if kind=='quad_graph': return quad_graph(*((2, 2), (2, 3), (1, 5))[integer(0, 2, gen)], 1)
    if kind=='side_by_side': return side_by_side([quad_graph(2, 2), quad_graph(2, 2)] if integer(0, 1, gen) else [chain(4).regions(), binary_tree(4).regions()])
    if kind=='tied': return tied(rat(4, 1, 2, gen))
    return hand_graph(integer(2, 5, gen), gen)                                                  # hand_graph, shared

def two_by_two(g:RegionGraph) -> RegionGraph:
    "The graph as Tucker sums want it: products of more than two, or of regions and units, split up."
    products, n = [], g.n_units + g.n_regions
    for r, parts in g.products:
        if all(c < g.n_units for c in parts): products.append((r, parts)); continue
        wrapped = []
        for c in parts:
            if c < g.n_units: products.append((n, (c,))); wrapped.append(n); n += 1
            else: wrapped.append(c)
        while len(wrapped) > 2: products.append((n, tuple(wrapped[:2]))); wrapped = [n, *wrapped[2:]]; n += 1
        if len(wrapped)==1: return None
        products.append((r, tuple(wrapped)))
    of = {}
    for r, parts in products: of.setdefault(r, []).append(all(c < g.n_units for c in parts))
    return g._replace(products=tuple(products)) if all(len(set(f))==1 for f in of.values()) else None

def graph_circuit(kind:str, sums:str, seed:int, inputs=None) -> Circuit:
    "A random circuit over a random graph; its weights far from uniform, some of them zero."
    gen = rng(seed); g = None
    while g is None:
        g = graph_of(kind, gen)
        if sums=='tucker': g = two_by_two(g)
    states = {'monarch': (1, 4)[integer(0, 1, gen)], 'tucker': integer(1, 2, gen)}.get(sums, integer(1, 3, gen))
    rows = max(g.rows)+1 if g.rows else g.n_units
    inputs = (lambda n: Categorical(n, integer(2, 3, gen), states, gen)) if inputs is None else (lambda n, make=inputs: make(n, states, gen))
    g = SUMS[sums](g); labels = tuple(integer(0, 1, gen) for _ in range(g.n_regions))
    pc = Shared(g, inputs(rows), integer(1, 2, gen), gen, labels) if kind=='shared' else Circuit(g, inputs(rows), integer(1, 2, gen), gen)
    with torch.no_grad():
        for m in (pc, pc.inputs):
            for name, axis in m.normalised.items():
                t = getattr(m, name); new = 1.5*torch.randn(t.shape, generator=gen)
                if m is pc: new = new.masked_fill((torch.rand(t.shape, generator=gen) < .1) & (torch.arange(t.shape[axis]).view([-1 if a==axis else 1 for a in range(t.ndim)]) > 0), -torch.inf)
                t.copy_(new.log_softmax(axis))
    return pc

def again(pc:Circuit) -> Circuit:
    "One like it, from what is written down."
    spec = json.loads(json.dumps(pc.spec()))
    return Shared(pc.graph, input_from_spec(spec['inputs']), pc.n_heads, rng(0), tuple(spec['labels'])) if isinstance(pc, Shared) else from_spec(spec)

def tables_by_region(pc:Circuit, logw:dict) -> dict:
    "Of every region: kind of its sums, and its tables of log-weights."
    p, out = pc.plan(), {}
    for g in p.groups:
        for at, row in zip(range(g.regions.start, g.regions.stop), range(g.rows.start, g.rows.stop)): out[int(p.nodes[at])+pc.graph.n_units] = (g.kind, [t[row] for t in logw[g.name]])
    return out

def recursion(pc:Circuit, logp_uxs:Tensor, logw:dict, best:bool=False) -> Tensor:
    "log p(x | head of root) for rows of unit log-evidence [u x s]: a sum over products and states at every region, or their maximum."
    tables, of, memo = tables_by_region(pc, logw), {}, {}
    for r, parts in pc.graph.products: of.setdefault(r, []).append(parts)
    total = (lambda t, dim: t.amax(dim)) if best else (lambda t, dim: t.logsumexp(dim))
    def value(i):
        if i < pc.graph.n_units: return logp_uxs[i]
        if i in memo: return memo[i]
        kind, w = tables[i]; S = pc.n_states
        if kind=='tucker': xs = [(value(l)[:, :, None] + value(r)[:, None]).flatten(1) for l, r in of[i]]
        else: xs = [sum((value(c) for c in parts), torch.zeros(logp_uxs.shape[1:]).double()) for parts in of[i]]
        if kind in ('dense', 'tucker'): y = total(torch.cat(xs, 1)[:, :, None] + w[0], 1)
        elif kind=='blend': y = total(torch.stack(xs, 1) + w[0], 1)
        else:                                                                                   # state = s2·m + s1, sum = k·m + l
            m = w[0].shape[-1]; x = torch.cat(xs, 1).view(-1, w[0].shape[0], m)                   # [x, q, s1]
            low = total(x[..., None] + w[0], 2)                                                  # [x, q, k]
            y = total(low.transpose(1, 2)[..., None] + w[1], 2).flatten(1)                        # [x, k, l]
        memo[i] = y; return y
    return torch.cat([value(r) for r in pc.graph.roots], 1)

def unit_evidence(pc:Circuit, x_xd:Tensor) -> Tensor:
    "log p(x | unit, state) in float64, [u x s]."
    rows = pc.graph.rows or range(pc.graph.n_units); pmf = pc.inputs.log_pmf().detach().double()
    return torch.stack([pmf[row][x_xd[:, v]] for v, row in zip(pc.graph.variables, rows)])

def graph_table(pc:Circuit) -> tuple[Tensor, Tensor]:
    "Every assignment, and its probability under each head of each root."
    x_xd = every(pc.inputs.log_pmf().shape[1], pc.graph.n_vars)
    return x_xd, recursion(pc, unit_evidence(pc, x_xd), {n: [t.detach() for t in ts] for n, ts in pc.logw(torch.double).items()}).exp()
