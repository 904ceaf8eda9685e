"""Random structures, sums, inputs, masks and parameters: every query against enumeration. A failing case prints its seed."""
import itertools, json
import pytest, torch
import brute
from brute import GraphCircuit, RegionGraph, quad_tree, regions, tucker
from pcdistill.circuit import Circuit, sample
from pcdistill.core import Refused, rng
from pcdistill.inputs import Categorical
from pcdistill.structure import chain, chow_liu, gaussian_mutual_information

CASES = [(k, s, seed) for k in brute.GRAPHS for s in brute.SUMS for seed in range(12)] + [(k, 'dense', seed) for k in brute.FORESTS for seed in range(12)] + [(k, 'dense', seed) for k in brute.KINDS for seed in range(100, 116)]
FAMILIES = dict(logistic=lambda n, S, gen: brute.logistic.DiscretisedLogistic(n, 3, S, gen))
CASES += [(k, f, seed) for k in ('rat', 'quad_graph', 'hand_graph', 'tied', 'forest') for f in FAMILIES for seed in range(200, 204)]
anywhere = pytest.mark.parametrize('kind,sums,seed', CASES)

def make(kind, sums, seed):
    "The circuit of a case, all assignments and their probabilities."
    if kind in brute.KINDS: pc = brute.circuit_of(kind, seed, most=20_000)
    else: pc = brute.graph_circuit(kind, *(('dense', seed, FAMILIES[sums]) if sums in FAMILIES else (sums, seed)))
    return pc, *brute.graph_table(pc)

def agree(x_xd, x_bd, seen_bd): return ((x_xd[None]==x_bd[:, None]) | ~seen_bd[:, None]).all(-1).double()

def possible_rows(x_xd, p_xk, n, gen):
    "Rows of positive probability under their head, and random masks."
    K = p_xk.shape[1]; head_b = torch.randint(0, K, (n,), generator=gen)
    x_bd = x_xd[torch.multinomial(p_xk.T[head_b].float(), 1, generator=gen)[:, 0]]
    return x_bd, torch.rand(x_bd.shape, generator=gen) < torch.rand(n, 1, generator=gen), head_b

@anywhere
def test_every_query(kind, sums, seed):
    pc, x_xd, p_xk = make(kind, sums, seed); gen = rng(seed+1)
    got_xk = pc(x_xd).detach().double()
    assert torch.allclose(got_xk.exp().sum(0), torch.ones(p_xk.shape[1]).double(), atol=1e-5)                    # mass
    assert torch.allclose(got_xk.exp(), p_xk, atol=1e-6, rtol=1e-4)                                              # every assignment
    x_bd, seen_bd, head_b = possible_rows(x_xd, p_xk, 6, gen); seen_bd[0] = False; seen_bd[1] = True
    w_bx = agree(x_xd, x_bd, seen_bd)*p_xk.T[head_b]; m_b = w_bx.sum(1)
    assert torch.allclose(pc(x_bd, seen_bd).detach().double().gather(1, head_b[:, None])[:, 0], m_b.log(), atol=1e-4)   # marginals
    r_bk = agree(x_xd, x_bd, seen_bd) @ p_xk
    assert torch.allclose(pc(x_bd, seen_bd).softmax(1).double(), r_bk/r_bk.sum(1, keepdim=True), atol=1e-5)

@pytest.mark.parametrize('kind,sums,seed', CASES[::3])
def test_counts_are_the_gradient_of_the_definition(kind, sums, seed):
    pc, x_xd, p_xk = make(kind, sums, seed); gen = rng(seed+2)
    x_bd, _, head_b = possible_rows(x_xd, p_xk, 8, gen)
    pc = pc.double(); pc(x_bd).gather(1, head_b[:, None]).sum().backward()
    slow = brute.recursion(pc, brute.unit_evidence(pc, x_bd), {name: getattr(pc, name) for name in pc.normalised}).gather(1, head_b[:, None]).sum()
    ps = [p for p in (getattr(pc, name) for name in pc.normalised) if p.numel()]
    for p, grad in zip(ps, torch.autograd.grad(slow, ps)): assert torch.allclose(p.grad.nan_to_num(0.), grad.nan_to_num(0.), atol=1e-9)

@pytest.mark.parametrize('kind,sums,seed', CASES[::9])
def test_samples(kind, sums, seed, n=6000):
    pc, x_xd, p_xk = make(kind, sums, seed); gen = rng(seed+3)
    x_bd, seen_bd, head_b = possible_rows(x_xd, p_xk, 2, gen); seen_bd[0] = False
    for x_d, seen_d, head in zip(x_bd, seen_bd, head_b):
        w_x = (agree(x_xd, x_d[None], seen_d[None])[0]*p_xk[:, head]); w_x /= w_x.sum()
        s_bd = sample(pc, x_d.expand(n, -1), seen_d.expand(n, -1), gen, head.expand(n))
        V = int(x_xd.max())+1; cell = (s_bd*V**torch.arange(s_bd.shape[1]-1, -1, -1)).sum(1)
        count = torch.bincount(cell, minlength=len(x_xd)).double()
        rare = w_x*n < 20
        p, c = torch.cat([w_x[~rare], w_x[rare].sum()[None]]), torch.cat([count[~rare], count[rare].sum()[None]])
        assert ((c/n - p).abs() <= 4.5*(p*(1-p)/n).sqrt() + 1e-4).all()

@pytest.mark.parametrize('kind,sums,seed', CASES[::12])
def test_file_round_trip(kind, sums, seed):
    pc, x_xd, _ = make(kind, sums, seed)
    again = brute.again(pc); again.load_state_dict(pc.state_dict())
    assert torch.equal(pc(x_xd), again(x_xd)) and repr(pc)==repr(again)

@pytest.mark.parametrize('kind,sums,seed', CASES[::12])
def test_float32_against_float64(kind, sums, seed):
    "Log-likelihoods agree to 2e-6 of their size, or 1e-5 nats where small."
    pc, x_xd, _ = make(kind, sums, seed); single = pc(x_xd).detach().double(); double = pc.double()(x_xd).detach()
    fine = double > -torch.inf
    assert torch.equal(single > -torch.inf, fine) and ((single-double)[fine].abs() <= 1e-5 + 2e-6*double[fine].abs()).all()

def test_deep_chains_neither_underflow_nor_overflow():
    for V, spread in ((256, 1.), (2, 30.)):
        pc = Circuit(chain(4096), Categorical(4096, V, 3, rng(0)), 1, rng(1))
        with torch.no_grad(): pc.inputs.logp_dvs.copy_((spread*torch.randn(4096, V, 3, generator=rng(2))).log_softmax(1))
        x_bd = torch.randint(0, V, (2, 4096), generator=rng(3)); lp = pc(x_bd); lp.sum().backward()
        assert lp.isfinite().all() and all(p.grad.isfinite().all() for p in pc.parameters())
        assert torch.allclose(pc.edges_est.grad.sum((1, 2)), torch.full((4095,), 2.), atol=2e-2)                  # each edge is used once a row
        exact = pc.double()(x_bd); assert ((lp.double()-exact).abs() <= 2e-5*exact.abs()).all()

@pytest.mark.parametrize('sums', brute.SUMS)
def test_evidence_of_probability_zero(sums):
    pc = brute.graph_circuit('hand_graph', sums, 5)
    with torch.no_grad(): pc.inputs.logp_dvs[0, 0] = -torch.inf; pc.inputs.logp_dvs.copy_(pc.inputs.logp_dvs.log_softmax(1))
    x_xd, p_xk = brute.graph_table(pc); lp = pc(x_xd); lp.sum().backward()
    assert torch.equal(lp.isneginf(), p_xk==0) and lp.isneginf().any() and not lp.isnan().any()
    assert not any(p.grad.isnan().any() for p in pc.parameters())

def test_a_second_backward_pass_is_refused_in_one_sentence():
    pc = Circuit(chain(3), Categorical(3, 2, 2, rng(0)), 1, rng(1)); lp = pc(torch.zeros(1, 3).long()).sum()
    lp.backward(retain_graph=True)
    with pytest.raises(Refused, match='second one'): lp.backward()

def test_region_graphs_that_are_refused(refuses):
    ok = RegionGraph((0, 1, 2), ((3, (0, 1)), (4, (1, 2)), (5, (3, 2)), (5, (0, 4))), 5).check()
    refuses(lambda: ok._replace(products=((3, (0, 1)), (4, (1, 2)), (5, (3, 4)))).check(), 'decomposability', '[1]', 'region 5')
    refuses(lambda: ok._replace(products=((3, (0, 1)), (4, (1, 2)), (5, (3, 2)), (5, (4,)))).check(), 'smoothness', '[0]', 'region 5')
    refuses(lambda: ok._replace(root=4).check(), 'root', '{1, 2}')
    refuses(lambda: ok._replace(products=((3, (4, 0)), (4, (3, 1)), (5, (3, 2)))).check(), 'cycles')
    refuses(lambda: ok._replace(products=((3, (0, 9)), (5, (3, 2)))).check(), 'got [9]')
    refuses(lambda: ok._replace(variables=(0, 1, 3)).check(), '0 … 3', '{0, 1, 3}')
    refuses(lambda: GraphCircuit(brute.monarch(quad_tree(2, 2)), Categorical(4, 2, 3, rng(0)), 1, rng(0)), 'square')
    refuses(lambda: GraphCircuit(tucker(regions(quad_tree(2, 2))), Categorical(4, 2, 3, rng(0)), 1, rng(0)), 'two factors')
    refuses(lambda: GraphCircuit(ok._replace(kinds=((3, 'sparse'),)), Categorical(3, 2, 3, rng(0)), 1, rng(0)), "'sparse'")
    refuses(lambda: GraphCircuit(ok, Categorical(2, 2, 3, rng(0)), 1, rng(0)), '3 units')

def test_many_variables_are_no_cliff():
    "3,072 variables: structure from data, circuit, a readable summary, a likelihood, a sample; a wrong shape names the axis."
    gen = rng(0); z = torch.randn(300, 3072, generator=gen).cumsum(1); x_bd = (z - z.amin()).div(z.amax()-z.amin()).mul(255).long()
    mi = gaussian_mutual_information(x_bd); tree = chow_liu(mi)
    assert mi.shape==(3072, 3072) and torch.allclose(mi, mi.T, atol=1e-3) and len(tree.check().parent)==3072
    assert sum(abs(i-p) <= 16 for i, p in enumerate(tree.parent) if p >= 0) > 3000                 # neighbours of a random walk are neighbours
    pc = Circuit(tree, Categorical(3072, 256, 4, gen), 1, gen)
    assert '3072 variables, 3072 latents × 4 states' in repr(pc) and len(repr(pc)) < 300
    lp = pc(x_bd[:2]); new = sample(pc, x_bd[:2], torch.zeros(2, 3072).bool(), gen)
    assert lp.isfinite().all() and new.shape==(2, 3072)
    with pytest.raises(Refused, match='3072 variables'): pc(x_bd[:2, :3000])
