"One file holds a circuit; other libraries, where installed, give the same log-likelihoods."
import pytest, torch
from brute import quad_tree, random_tree
from cells import EXTRA, definitions
from pcdistill.circuit import Circuit
from pcdistill.core import rng
from pcdistill.em import EM
from pcdistill.inputs import Categorical, Evidence
from pcdistill.runs import save
from pcdistill.structure import Tree, binary_tree, chain

nb = definitions(EXTRA/'interchange.ipynb')
assemble, peer, to_cirkit, to_pyjuice, value_table = nb.assemble, nb.peer, nb.to_cirkit, nb.to_pyjuice, nb.value_table

def absent(name, pip):
    try: peer(name, pip); return pytest.mark.skipif(False, reason='')
    except ValueError as e: return pytest.mark.skip(reason=str(e))
cirkit, juice = absent('cirkit.pipeline', 'libcirkit'), absent('pyjuice', 'pyjuice')
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='PyJuice computes on a GPU only')

BARREN = Tree((-1, 0, 0, 1, 2, 4), (3, 3, 1))        # latents 2, 4 and 5 hold no variable at all
TREES = dict(quad=quad_tree(3, 2), channels=quad_tree(2, 2, 3), chain=chain(5), binary=binary_tree(7), random=random_tree(6, rng(0)), one=binary_tree(1), barren=BARREN)
each = pytest.mark.parametrize('tree', TREES.values(), ids=TREES)

def made(tree, values=4, states=6, heads=3, seed=0):
    "A circuit after two EM steps, and data."
    d, g = len(tree.host), rng(seed)
    pc = Circuit(tree, Categorical(d, values, states, g), heads, g)
    x_bd = torch.randint(0, values, (20, d), generator=g)
    for _ in range(2): (-pc(x_bd).sum()).backward(); EM(pc, .5, .1).step()
    return pc, x_bd

def part_by_part(pc, x_bd):
    return assemble(pc, lambda v, logp_vs: logp_vs[x_bd[:, v]], lambda parts: sum(parts), lambda lp_bs, w_st: (lp_bs[..., None] + w_st).logsumexp(1))

# --- the walk

@each
def test_parts_put_together_are_the_circuit(tree):
    pc, x_bd = made(tree)
    assert torch.allclose(part_by_part(pc, x_bd), pc(x_bd), atol=1e-4)

def test_tables_are_those_of_the_inputs_in_the_order_of_the_variables():
    pc, x_bd = made(TREES['random'])
    lp_dvs, inverse = value_table(pc), pc.plan().place_of_unit
    for d in range(6): assert torch.equal(lp_dvs[d, x_bd[:, d]], pc.evidence(x_bd)[inverse[d]])

def test_only_trees_with_discrete_inputs(refuses):
    refuses(lambda: value_table(Circuit(chain(3), Evidence(3, 2), 1, rng(0))), 'discrete', 'Evidence')
    two = Circuit([chain(3), chain(3)], Categorical(6, 2, 2, rng(0)), 1, rng(0))
    refuses(lambda: part_by_part(two, None), 'one tree', 'got one of 2')

# --- one file

# --- other libraries

def test_an_absent_library_is_asked_for(refuses):
    refuses(lambda: peer('no_such_library.part', 'no-such'), 'no_such_library,', 'pip install no-such')

@cirkit
@each
@pytest.mark.parametrize('softmax', [True, False])
def test_cirkit_gives_the_same(tree, softmax):
    pc, x_bd = made(tree)
    symbolic, compiled = to_cirkit(pc, softmax)
    assert symbolic.is_smooth and symbolic.is_decomposable
    assert torch.allclose(compiled(x_bd)[:, 0], pc(x_bd), atol=1e-4)

@cirkit
def test_cirkit_can_train_what_it_was_given():
    pc, x_bd = made(quad_tree(2, 3), heads=1)
    compiled = to_cirkit(pc).compiled
    adam, before = torch.optim.Adam(compiled.parameters(), .05), pc(x_bd).mean()
    for _ in range(10): adam.zero_grad(); (-compiled(x_bd).mean()).backward(); adam.step()
    assert compiled(x_bd).mean() > before + .1

@cirkit
def test_zero_weights_reach_cirkit():
    pc, x_bd = made(chain(4), heads=1)
    with torch.no_grad(): pc.edges_est[:, 0] = -torch.inf; pc.edges_est.copy_(pc.edges_est.log_softmax(1))
    assert torch.allclose(to_cirkit(pc).compiled(x_bd)[:, 0], pc(x_bd), atol=1e-4)

@juice
@each
def test_pyjuice_holds_the_same_numbers(tree):
    "Its graph read back node by node; no kernel of theirs runs here."
    pc, x_bd = made(tree); lp_bs, graph = {}, to_pyjuice(pc)
    for n in graph:
        if n.is_input(): lp_bs[n] = n.get_params().view(n.num_nodes, -1).T.log()[x_bd[:, n.scope.to_list()[0]]]
        elif n.is_prod(): lp_bs[n] = sum(lp_bs[c] for c in n.chs)
        else: lp_bs[n] = (lp_bs[n.chs[0]][..., None] + n.get_params(as_matrix=True).T.log()).logsumexp(1)
    assert torch.allclose(lp_bs[graph], pc(x_bd), atol=1e-4)

@juice
@gpu
def test_pyjuice_gives_the_same():
    pc, x_bd = made(quad_tree(4, 4), states=16, heads=1)
    compiled = peer('pyjuice', 'pyjuice').compile(to_pyjuice(pc)).to('cuda')
    assert torch.allclose(compiled(x_bd.cuda(), force_use_fp32=True).cpu(), pc(x_bd), atol=.02)
