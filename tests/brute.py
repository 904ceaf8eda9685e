"""The referee: random circuits small enough to write out in full, and every answer as a sum over everything.

Nothing here passes messages: the joint table of all latents and all variables is built in float64 from the formula
p(x, z | k) = p(z_root | k) · Π p(z_i | z_parent(i)) · Π p(x_v | z_host(v)).
"""
from typing import NamedTuple
import functools, itertools
import torch
from torch import Tensor
from pcdistill.circuit import Circuit
from pcdistill.core import rng
from pcdistill.inputs import Categorical
from pcdistill.circuit import plan
from pcdistill.structure import Tree, binary_tree, chain, chow_liu, quad_tree, random_tree

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
