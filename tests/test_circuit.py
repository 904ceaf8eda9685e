"""Circuits of every structure against the sum over everything (see brute.py)."""
import copy, json, math
import jaxtyping, pytest, torch
import brute
from brute import KINDS, case, circuit_of, cp, write_out
from brute import GraphCircuit, log_mix, poon_domingos, quad_graph, quad_tree, random_tree, regions
from pcdistill.circuit import Circuit, from_spec, sample, soft_posterior
from pcdistill.core import Refused, rng
from pcdistill.inputs import Categorical, Evidence, one_hot_evidence
from pcdistill.structure import Tree, binary_tree, chain, chow_liu, mutual_information

SEEDS = range(4)
everywhere = pytest.mark.parametrize('kind,seed', [(k, s) for k in KINDS for s in SEEDS])

@everywhere
def test_total_mass_is_one(kind, seed):
    pc, t = case(kind, seed)
    lp_xk = pc(t.x_xd).detach().double()
    assert torch.allclose(lp_xk.exp().sum(0), torch.ones(pc.n_heads).double(), atol=1e-5)
    assert torch.allclose(lp_xk, t.p_xk.log(), atol=1e-4, rtol=1e-5)

@everywhere
def test_marginal_is_sum_over_completions(kind, seed):
    (pc, t), gen = case(kind, seed), rng(seed+100)
    x_bd, seen_bd = brute.some_rows(pc, 40, gen)
    seen_bd[0], seen_bd[1] = False, True
    got_bk = pc(x_bd, seen_bd).detach()
    assert torch.allclose(got_bk.double(), brute.marginal(t, x_bd, seen_bd).log(), atol=1e-4, rtol=1e-5)
    one_by_one = torch.cat([pc(x_bd[i:i+1], seen_bd[i:i+1]) for i in range(10)]).detach()
    assert torch.allclose(got_bk[:10], one_by_one, atol=1e-5)                       # a row does not depend on its batch
    assert pc(x_bd[:0]).shape==(0, pc.n_heads)

@everywhere
def test_posterior_of_every_latent(kind, seed):
    (pc, t), gen = case(kind, seed), rng(seed+400)
    x_bd, seen_bd = brute.some_rows(pc, 20, gen)
    head_b = torch.randint(0, pc.n_heads, (20,), generator=gen)
    flow_dbs = brute.flows(pc, x_bd, seen_bd, head_b)
    w_bz = brute.agree(t, x_bd, seen_bd) @ t.p_xz * t.p_zk.T[head_b]
    w_bz /= w_bz.sum(1, keepdim=True)
    for v in range(len(pc.tree.host)):
        exact_bs = torch.stack([w_bz[:, t.z_zl[:, pc.tree.host[v]]==s].sum(1) for s in range(pc.n_states)], 1)
        assert torch.allclose(flow_dbs[v].double(), exact_bs, atol=1e-5)

@everywhere
def test_soft_evidence(kind, seed):
    shape, gen = circuit_of(kind, seed), rng(seed+500)
    d, S = len(shape.tree.host), shape.n_states
    pc = Circuit(shape.tree, Evidence(d, S), shape.n_heads, gen)
    lp_bds, seen_bd = 3*torch.randn(10, d, S, generator=gen) - 50, torch.rand(10, d, generator=gen) < .7
    z_zl, p_zk = brute.latents(pc)
    host = torch.tensor(pc.tree.host)
    lp_bz = torch.where(seen_bd[:, None], lp_bds[:, torch.arange(d), z_zl[:, host]].double(), 0).sum(-1)
    exact_bk = (lp_bz[..., None] + p_zk.log()).logsumexp(1)
    assert torch.allclose(pc(lp_bds, seen_bd).detach().double(), exact_bk, rtol=1e-5, atol=1e-3)
    z_bd = z_zl[:, host][torch.randint(0, len(z_zl), (5,), generator=gen)]          # hard evidence is the special case
    exact_bk = torch.stack([p_zk[(z_zl[:, host]==z).all(1)].sum(0) for z in z_bd])
    assert torch.allclose(pc(one_hot_evidence(z_bd, S)).detach().double(), exact_bk.log(), atol=1e-4)

def off_by(count_c, p_c, n):
    "Largest distance of frequencies from probabilities, in standard errors; cells expected less than 20 times are pooled."
    rare = p_c*n < 20
    p_c = torch.cat([p_c[~rare], p_c[rare].sum()[None]]); count_c = torch.cat([count_c[~rare], count_c[rare].sum()[None]])
    return float(((count_c/n - p_c).abs() / (p_c*(1-p_c)/n).sqrt().clamp_min(1e-4)).max())

def cells(s_bd, n_values):
    "Place of each row in the list of all assignments."
    return (s_bd * n_values**torch.arange(s_bd.shape[1]-1, -1, -1)).sum(1)

@pytest.mark.parametrize('kind,seed', [(k, s) for k in KINDS for s in (7, 8)])
def test_sampled_frequencies(kind, seed, n=8000):
    (pc, t), gen = case(kind, seed), rng(seed+600)
    x_bd, seen_bd = brute.some_rows(pc, 3, gen); seen_bd[0] = False
    for x_d, seen_d, head in zip(x_bd, seen_bd, torch.randint(0, pc.n_heads, (3,), generator=gen)):
        w_x = brute.agree(t, x_d[None], seen_d[None])[0] * t.p_xk[:, head]
        s_bd = sample(pc, x_d.expand(n, -1), seen_d.expand(n, -1), gen, head.expand(n))
        assert (s_bd[:, seen_d]==x_d[seen_d]).all()
        count_x = torch.bincount(cells(s_bd, pc.inputs.n_values), minlength=len(t.x_xd)).double()
        assert off_by(count_x, w_x/w_x.sum(), n) < 4

@pytest.mark.parametrize('kind', KINDS)
def test_sampling_is_a_function_of_the_generator(kind):
    pc = circuit_of(kind, 3); x_bd, seen_bd = brute.some_rows(pc, 50, rng(0))
    assert torch.equal(sample(pc, x_bd, seen_bd, rng(1)), sample(pc, x_bd, seen_bd, rng(1)))

@everywhere
def test_impossible_evidence(kind, seed):
    "A value of probability zero: −∞ for the rows that show it, exact answers for the others, no NaN on the way back."
    pc, gen = circuit_of(kind, seed), rng(seed+700)
    v, value = brute.integer(0, len(pc.tree.host)-1, gen), brute.integer(0, pc.inputs.n_values-1, gen)
    with torch.no_grad():
        logp_vs = pc.inputs.logp_dvs[v]
        logp_vs[value] = -torch.inf; logp_vs.copy_(logp_vs.log_softmax(0))
    t = write_out(pc); lp_xk = pc(t.x_xd)
    never = t.x_xd[:, v]==value
    assert torch.isneginf(lp_xk[never]).all() and torch.isfinite(lp_xk[~never]).all()
    assert torch.allclose(lp_xk.detach().double().exp().sum(0), torch.ones(pc.n_heads).double(), atol=1e-5)
    lp_xk[never].sum().backward()
    assert all((p.grad==0).all() for p in pc.parameters())
    pc.zero_grad(); pc(t.x_xd).sum().backward()
    both = [p.grad.clone() for p in pc.parameters()]
    pc.zero_grad(); pc(t.x_xd[~never]).sum().backward()
    assert all(torch.allclose(a, p.grad, atol=1e-3, rtol=1e-4) for a, p in zip(both, pc.parameters()))
    seen = torch.ones(1, t.x_xd.shape[1], dtype=torch.bool); seen[0, v] = False       # hidden, it is possible again
    assert torch.isfinite(pc(t.x_xd[never][:1], seen)).all()
    if torch.isneginf(lp_xk[never]).any():
        with pytest.raises(Refused, match='positive probability'): sample(pc, t.x_xd[never][:1], ~seen, rng(0))

@everywhere
def test_spec_round_trip(kind, seed):
    pc = circuit_of(kind, seed); x_bd, seen_bd = brute.some_rows(pc, 10, rng(seed))
    for a in (pc, Circuit(pc.tree, Evidence(len(pc.tree.host), pc.n_states), pc.n_heads, rng(0))):
        b = from_spec(json.loads(json.dumps(a.spec())))
        b.load_state_dict(a.state_dict())
        assert b.tree==a.tree and b.spec()==a.spec()
        x = x_bd if a is pc else torch.randn(10, len(pc.tree.host), pc.n_states, generator=rng(1))
        assert torch.equal(a(x, seen_bd), b(x, seen_bd))

@everywhere
def test_float32_agrees_with_float64(kind, seed):
    pc = circuit_of(kind, seed); double = copy.deepcopy(pc).double()
    x_bd, seen_bd = brute.some_rows(pc, 30, rng(seed))
    a, b = pc(x_bd, seen_bd), double(x_bd, seen_bd)
    assert b.dtype==torch.double and torch.allclose(a.double(), b, atol=1e-4)
    a.sum().backward(); b.sum().backward()
    assert all(torch.allclose(p.grad.double(), q.grad, atol=1e-3) for p, q in zip(pc.parameters(), double.parameters()))

@pytest.mark.parametrize('tree', [chain(3000), binary_tree(3000), quad_tree(32, 32, 3)], ids=['chain', 'binary', 'quad'])
def test_three_thousand_variables(tree):
    "Log-likelihoods near −16,000 agree with float64 to 1e-5 of their size, and the flows of each latent sum to one."
    pc = Circuit(tree, Categorical(len(tree.host), 256, 4, rng(0)), 1, rng(1))
    x_bd = torch.randint(0, 256, (2, len(tree.host)), generator=rng(2))
    assert torch.allclose(pc(x_bd).double(), copy.deepcopy(pc).double()(x_bd), rtol=1e-5)
    flow_dbs = brute.flows(pc, x_bd)
    assert torch.allclose(flow_dbs.sum(-1), torch.ones(flow_dbs.shape[:2]), atol=1e-3)

@pytest.mark.parametrize('seed', range(6))
def test_log_mix_survives_extremes(seed):
    "Values a thousand nats apart, rows of −∞ and weights of zero: as logsumexp in float64."
    gen = rng(seed)
    x = torch.randn(3, 7, 5, generator=gen)*300 - 5000
    x[torch.rand(x.shape, generator=gen) < .2] = -torch.inf; x[0, 0] = -torch.inf
    logw = torch.randn(3, 5, 4, generator=gen).log_softmax(1); logw[1, 2] = -torch.inf
    x.requires_grad_(); logw.requires_grad_()
    y = log_mix(x, logw)
    exact = torch.logsumexp(x.double()[..., None] + logw.double()[:, None], -2)
    far = exact < x.detach().double().amax(-1, keepdim=True) - 80                # only what a zero weight leaves, far below the row's largest
    assert torch.allclose(torch.where(far, 0, y.double()), torch.where(far, 0, exact), rtol=1e-5)
    torch.where(far, 0, y).sum().backward()
    assert torch.isfinite(x.grad).all() and torch.isfinite(logw.grad).all()

@pytest.fixture
def unchecked():
    "As a reader meets it: annotations are not checked at run time, `require` has the word."
    jaxtyping.config.update('jaxtyping_disable', True); yield
    jaxtyping.config.update('jaxtyping_disable', False)

def test_refusals_name_the_axis(unchecked, refuses):
    pc, soft = Circuit(chain(3), Categorical(3, 4, 2, rng(0)), 2, rng(1)), Circuit(chain(3), Evidence(3, 2), 1, rng(0))
    x, seen = torch.zeros(2, 3).long(), torch.ones(2, 3).bool()
    refuses(lambda: pc(torch.zeros(2, 4).long()), '3 variables')
    refuses(lambda: pc(torch.zeros(6).long()), 'variables')
    refuses(lambda: pc(x.float()), 'integer')
    refuses(lambda: pc(x+4), '0 to 3', '4 to 4')
    refuses(lambda: pc(x-1), '0 to 3', '-1')
    refuses(lambda: pc(x, seen[:, :2]), 'mask of shape [2, 3]', '[2, 2]')
    refuses(lambda: pc(x, seen[:1]), 'mask of shape [2, 3]', '[1, 3]')
    refuses(lambda: Circuit(chain(3), Categorical(2, 4, 2, rng(0)), 1, rng(0)), '3 variables of the structure')
    refuses(lambda: soft(torch.zeros(2, 3, 4)), '2 states')
    refuses(lambda: soft(torch.zeros(2, 2, 2)), '3 variables')
    refuses(lambda: Tree((-1, -1), (0,)).check(), 'one root')
    refuses(lambda: Tree((-1, 2, 1), (0,)).check(), 'cycle')
    refuses(lambda: Tree((-1,), (1,)).check(), 'hosted')
    refuses(lambda: Tree((-1, 5), (0,)).check(), 'parents among')

def test_what_is_no_tensor_no_mask_no_head_is_refused(unchecked, refuses):
    pc, soft = Circuit(chain(3), Categorical(3, 4, 2, rng(0)), 2, rng(1)), Circuit(chain(3), Evidence(3, 2), 1, rng(0))
    x, seen = torch.zeros(2, 3).long(), torch.ones(2, 3).bool()
    for bad in (x.tolist(), x.numpy(), None, 'x'):
        refuses(lambda: pc(bad), 'wanted data', type(bad).__name__)
        with torch.no_grad(): refuses(lambda: pc(bad), 'wanted data')
    for bad in (seen.long(), seen.float(), seen.tolist(), seen.numpy()):
        for ask in (lambda: pc(x, bad), lambda: sample(pc, x, bad, rng(0)), lambda: pc.inputs(x, bad)): refuses(ask, 'mask', 'True and False')
    for head_b in (torch.tensor([0, 2]), torch.tensor([-1, 0]), torch.tensor([0]), torch.zeros(2), [0, 0], 0):
        refuses(lambda: sample(pc, x, seen, rng(0), head_b), 'head')
    for dtype in (torch.half, torch.bfloat16): refuses(lambda: copy.deepcopy(pc).to(dtype)(x), 'float32 or float64', str(dtype))
    refuses(lambda: soft(torch.zeros(2, 3, 2).half()), 'float32 or float64'); refuses(lambda: soft([[0.]]), 'list'); refuses(lambda: soft(torch.zeros(2, 3, 2).long()), 'log-evidence')

def test_queries_within_inference_mode():
    pc, soft = circuit_of('quad_2x2', 1), Circuit(chain(3), Evidence(3, 2), 1, rng(0))
    x_bd, seen_bd = brute.some_rows(pc, 9, rng(0)); lp_bnk = torch.randn(5, 3, 2, generator=rng(1))
    with torch.inference_mode():
        again, mask, lp = x_bd.clone(), seen_bd.clone(), lp_bnk.clone()
        got = pc(again, mask), soft_posterior(soft, lp), sample(pc, again, mask, rng(2))
    want = pc(x_bd, seen_bd), soft_posterior(soft, lp_bnk), sample(pc, x_bd, seen_bd, rng(2))
    assert all(map(torch.equal, got, want))

def test_structures_of_nothing_and_information_that_is_none_are_refused(unchecked, refuses):
    for make in (lambda: quad_tree(0, 0), lambda: quad_tree(2, 0), lambda: quad_tree(2, 2, 0), lambda: chain(0), lambda: binary_tree(0), lambda: random_tree(0, rng(0)),
                 lambda: quad_graph(0, 2), lambda: quad_graph(2, 2, 0)): refuses(make, 'wanted at least 1', 'got', '0')
    for bad in (math.nan, math.inf, -math.inf):
        mi = torch.ones(4, 4); mi[1, 2] = bad; refuses(lambda: chow_liu(mi), 'finite')
    for bad in (torch.ones(2, 3), torch.ones(3), torch.ones(0, 0), [[1.]]): refuses(lambda: chow_liu(bad), 'square')
    for bad in (torch.zeros(0, 3).long(), torch.zeros(3, 0).long(), torch.zeros(3).long(), [[1]]): refuses(lambda: mutual_information(bad), 'rows, variables')
    refuses(lambda: mutual_information(torch.tensor([[0, -1]])), 'from 0', '-1'); refuses(lambda: mutual_information(torch.zeros(2, 2)), 'integer')

def test_deep_graphs_are_walked_without_recursion():
    "Thousands of levels; a CP form of a chain that mixes at every step; narrow images cut at every line."
    for graph in (regions(chain(2000)), cp(chain(1000)), poon_domingos(1, 60, 1), cp(poon_domingos(1, 12, 1)), quad_graph(1, 3000)):
        pc = GraphCircuit(graph, Categorical(graph.n_units, 2, 1, rng(0)), 1, rng(1)); x_bd = torch.randint(0, 2, (1, graph.n_vars), generator=rng(2))
        assert torch.allclose(pc(x_bd)[0, 0], pc.inputs.logp_dvs[torch.arange(graph.n_vars), x_bd[0], 0].sum(), rtol=1e-4)      # one state: a product of inputs
    tree = Tree(tuple(range(-1, 1999)), (0,)*2 + (1999,)); assert Circuit(tree, Categorical(3, 2, 2, rng(0)), 1, rng(1))(torch.zeros(1, 3).long()).isfinite().all()
