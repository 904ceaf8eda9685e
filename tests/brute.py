"""The referee: random circuits small enough to write out in full, and every answer as a sum over everything.

Nothing here passes messages: the joint table of all latents and all variables is built in float64 from the formula
p(x, z | k) = p(z_root | k) · Π p(z_i | z_parent(i)) · Π p(x_v | z_host(v)).
"""
from typing import NamedTuple
import functools, itertools, json
import torch
from torch import Tensor
from pcdistill.circuit import Circuit, from_spec, of_head
from pcdistill.core import rng
from pcdistill.inputs import Categorical, from_spec as input_from_spec
from pcdistill.structure import Tree, binary_tree, chain, chow_liu, generations
from cells import EXTRA, definitions

# what is there to be copied; logistic inputs are known by their name from here on
graphs, logistic, sums = (definitions(EXTRA/f'{name}.ipynb') for name in ('graphs', 'logistic', 'sums'))
GraphCircuit, RegionGraph, regions, log_mix = graphs.GraphCircuit, graphs.RegionGraph, graphs.regions, graphs.log_mix
quad_tree, random_tree, quad_graph = graphs.quad_tree, graphs.random_tree, graphs.quad_graph
poon_domingos, rat, tied = graphs.poon_domingos, graphs.rat, graphs.tied
tucker, cp, monarch = sums.tucker, sums.cp, sums.monarch
Shared = definitions(EXTRA/'sharing.ipynb').Shared

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
        for p, dim in ((pc.inputs.logp_dvs, 1), (pc.edges_est, 1), (pc.root_rsk, 1)):
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
    z_zl, place = every(pc.n_states, len(pc.tree.parent)), pc.plan().place_of_node
    edge, root = pc.edges_est.detach().double().exp(), pc.root_rsk.detach().double().exp()
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

GRAPHS = ['rat', 'pd', 'quad_graph', 'hand_graph', 'tree', 'tied']
FORESTS = ['forest', 'shared'] # circuits of trees: several side by side, one whose latents share tables
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
    return RegionGraph(tuple(range(n_vars)), tuple(products), root).check()

def graph_of(kind:str, gen:torch.Generator) -> RegionGraph:
    "A small region graph of a kind."
    if kind=='rat': return rat(integer(4, 6, gen), integer(1, 2, gen), integer(1, 3, gen), gen)
    if kind=='pd': return poon_domingos(*((2, 3), (3, 2), (2, 2), (1, 4))[integer(0, 3, gen)], 1)
    if kind=='quad_graph': return quad_graph(*((2, 2), (2, 3), (1, 5))[integer(0, 2, gen)], 1)
    if kind=='tree': return regions([chain(4), binary_tree(4), quad_tree(2, 2), random_tree(5, gen)][integer(0, 3, gen)])
    if kind=='tied': return tied(rat(4, 1, 2, gen))
    return hand_graph(integer(2, 5, gen), gen)

def two_by_two(g:RegionGraph) -> RegionGraph:
    "The graph as Tucker sums want it: products of more than two, or of regions and units, split up."
    products, n = [], max(r for r, _ in g.products)+1
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
    "A random circuit over a random graph, or over trees side by side; its weights far from uniform, some of them zero."
    gen = rng(seed); g = None
    while g is None and kind in GRAPHS:
        g = graph_of(kind, gen)
        if sums=='tucker': g = two_by_two(g)
    states = {'monarch': (1, 4)[integer(0, 1, gen)], 'tucker': integer(1, 2, gen)}.get(sums, integer(1, 3, gen))
    inputs = (lambda n: Categorical(n, integer(2, 3, gen), states, gen)) if inputs is None else (lambda n, make=inputs: make(n, states, gen))
    if kind=='shared':
        tree = tree_of('random', gen); n = len(tree.parent); states = min(states, 2)
        pc = Shared(tree, inputs(len(tree.host)), integer(1, 2, gen), gen, [integer(0, 1, gen) for _ in range(n)])
    elif kind=='forest':
        d = integer(2, 5, gen); trees = [(chain, binary_tree)[integer(0, 1, gen)](d) for _ in range(integer(1, 3, gen))]
        pc = Circuit([*trees, hand_tree(d, gen)], inputs((len(trees)+1)*d), integer(1, 2, gen), gen)
    else: g = SUMS[sums](g); pc = GraphCircuit(g, inputs(g.n_units), integer(1, 2, gen), gen)
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
    if isinstance(pc, GraphCircuit): return GraphCircuit.from_spec(spec)
    inputs = input_from_spec(spec['inputs'])
    if isinstance(pc, Shared): return Shared(pc.tree, inputs, pc.n_heads, rng(0), spec['labels'])
    return Circuit(pc.trees, inputs, pc.n_heads, rng(0)) if len(pc.trees) > 1 else from_spec(spec)

def tables_by_region(pc:GraphCircuit, logw:dict) -> dict:
    "Of every region: kind of its sums, and its tables of log-weights, from the parameters by name."
    return {r: (step.kind, [logw[t][row] for t in step.tables]) for step in pc.steps for row, r in enumerate(step.regions)}

def recursion(pc:Circuit, logp_uxs:Tensor, logw:dict, best:bool=False) -> Tensor:
    "log p(x | head of root) for rows of unit log-evidence [u x s]: a sum over products and states at every region, or their maximum."
    total = (lambda t, dim: t.amax(dim)) if best else (lambda t, dim: t.logsumexp(dim))
    if not isinstance(pc, GraphCircuit): return tree_recursion(pc, logp_uxs, logw, total)
    tables, of, memo = tables_by_region(pc, logw), pc.graph.below(), {}
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
    return value(pc.graph.root)

def tree_recursion(pc:Circuit, logp_uxs:Tensor, logw:dict, total) -> Tensor:
    "The same for trees: each latent from its variables and children; the place of its table is counted here, generation by generation."
    place = [(c, i) for row in itertools.zip_longest(*(generations(t.parent) for t in pc.trees), fillvalue=[]) for c, here in enumerate(row) for i in here]
    D, R, edges = pc.n_vars, len(pc.trees), logw['dense1']
    def below(c, i):
        t = pc.trees[c]; own = sum((logp_uxs[c*D + v] for v, h in enumerate(t.host) if h==i), torch.zeros(logp_uxs.shape[1:]).double())
        return own + sum(total(below(c, j)[:, :, None] + (edges[pc.labels[j]] if isinstance(pc, Shared) else edges[place.index((c, j)) - R]), 1) for j, p in enumerate(t.parent) if p==i)
    return torch.cat([total(below(c, t.parent.index(-1))[:, :, None] + logw['root1'][c], 1) for c, t in enumerate(pc.trees)], 1)

def log_weights(pc:Circuit, dtype=torch.double) -> dict:
    "Log-weights of the sums by the name of their parameter."
    return {name: getattr(pc, name).detach().to(dtype) for name in pc.normalised}

def unit_evidence(pc:Circuit, x_xd:Tensor) -> Tensor:
    "log p(x | unit, state) in float64, [u x s]."
    pmf = pc.inputs.log_pmf().detach().double()
    variables = pc.graph.variables if isinstance(pc, GraphCircuit) else [u % pc.n_vars for u in range(len(pmf))]
    return torch.stack([pmf[u][x_xd[:, v]] for u, v in enumerate(variables)])

def graph_table(pc:Circuit) -> tuple[Tensor, Tensor]:
    "Every assignment, and its probability under each head of each root."
    x_xd = every(pc.inputs.log_pmf().shape[1], pc.n_vars)
    return x_xd, recursion(pc, unit_evidence(pc, x_xd), log_weights(pc)).exp()

def flows(pc, x_bd, seen_bd=None, head_b=None):
    "p(input's latent in state s | evidence), [row b s] in the order of the parameters: the gradient of log p at the evidence."
    lp_ubs = pc.evidence(x_bd, seen_bd).detach().requires_grad_()
    return pc.by_row(torch.autograd.grad(of_head(pc.root_value(lp_ubs), head_b).sum(), lp_ubs)[0])
