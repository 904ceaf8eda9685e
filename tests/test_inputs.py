"""Univariate inputs against enumeration: probabilities, masks, ties, samples, moments, EM, any torch optimizer."""
import copy, itertools, json, math
import jaxtyping, pytest, torch
from torch import nn
from scipy.optimize import minimize
from cells import EXTRA, definitions
from pcdistill.circuit import Circuit
from pcdistill.core import rng
from pcdistill.em import EM, fit
from pcdistill.inputs import Categorical, Evidence, from_spec, one_hot_evidence
from pcdistill.structure import chain
import brute

DiscretisedLogistic, logistic_table, table_moments = (getattr(brute.logistic, n) for n in ('DiscretisedLogistic', 'logistic_table', 'table_moments'))

on_logits = definitions(EXTRA/'optimizers.ipynb').on_logits
D, S = 3, 4
MAKE = {
    'categorical': lambda gen: Categorical(D, 6, S, gen),
    'two_values': lambda gen: Categorical(D, 2, S, gen),
    'logistic': lambda gen: DiscretisedLogistic(D, 12, S, gen),
    'logistic_2_values': lambda gen: DiscretisedLogistic(D, 2, S, gen),
}
SEEDS = range(4)
each = lambda names: pytest.mark.parametrize('name,seed', [(n, s) for n in names for s in SEEDS])
everything = each(MAKE)
logistic = each(['logistic', 'logistic_2_values'])

def input_of(name, seed):
    "An input in double precision, its parameters moved away from the start."
    gen = rng(seed); inp = MAKE[name](gen).double()
    with torch.no_grad():
        for n, p in inp.named_parameters():
            p.add_(.5*torch.randn(p.shape, generator=gen))
            if n in inp.normalised: p.copy_(p.log_softmax(inp.normalised[n]))
    return inp

def data_of(inp, n, seed, columns=D):
    "Random rows and masks."
    gen = rng(1000+seed); seen_bd = torch.rand(n, columns, generator=gen) < .7
    return torch.randint(0, inp.n_values, (n, columns), generator=gen), seen_bd

def log_prob(inp, x_bd, seen_bd=None): return inp(x_bd, seen_bd).sum(0).logsumexp(1) - math.log(inp.n_states)

def weighted(inp, x_bd, w_dbs): (-(inp(x_bd)*w_dbs).sum()).backward()

# ── probabilities ──────────────────────────────────────────────────────────────────────────────

@everything
def test_pmf_sums_to_one(name, seed):
    inp = input_of(name, seed)
    for m in (inp, copy.deepcopy(inp).float()):
        lp_dvs = m.log_pmf()
        assert lp_dvs.shape==(D, m.n_values, S) and torch.allclose(lp_dvs.exp().sum(1), torch.ones((), dtype=lp_dvs.dtype), atol=1e-5)

@everything
def test_forward_is_the_probability(name, seed):
    "Against the table, and the table against textbook formulas in double precision."
    inp = input_of(name, seed); x_bd, _ = data_of(inp, 40, seed); lp_dbs = inp(x_bd)
    exact = torch.stack([torch.stack([inp.log_pmf()[d, x] for x in x_bd[:, d]]) for d in range(D)])
    assert torch.allclose(lp_dbs, exact, atol=1e-12)
    if name.startswith('logistic'):
        cdf = lambda v: torch.sigmoid((v[:, None] - inp.mu_ds)/inp.log_s_ds.exp()).movedim(0, 1)        # [d v s]
        e = torch.cat([torch.tensor([-torch.inf]), torch.arange(inp.n_values-1) + .5, torch.tensor([torch.inf])]).double()[:, None]
        p_dvs = cdf(e[1:]) - cdf(e[:-1])
        assert torch.allclose(inp.log_pmf().exp(), p_dvs, atol=1e-12)

def test_logistic_far_out():
    "Narrow bells and far values: finite, and the mass is still one; in float32."
    mu, log_s = torch.meshgrid(torch.tensor([-300., 0., 3., 254.6, 255., 600.]), torch.tensor([-9., -7., -2., 0., 4., 20.]), indexing='ij')
    lp_dvs = logistic_table(mu, log_s, 256)
    assert lp_dvs.isfinite().all() and torch.allclose(lp_dvs.exp().sum(1), torch.ones(()), atol=1e-4)

@everything
def test_float32_agrees_with_float64(name, seed):
    inp = input_of(name, seed); single = copy.deepcopy(inp).float(); x_bd, seen_bd = data_of(inp, 40, seed)
    a, b = inp(x_bd, seen_bd), single(x_bd, seen_bd); assert b.dtype==torch.float32
    assert torch.allclose(a, b.double(), atol=1e-3, rtol=1e-4)

# ── masks and ties ─────────────────────────────────────────────────────────────────────────────

@everything
def test_missing_is_zero_whatever_x_holds(name, seed):
    inp = input_of(name, seed); x_bd, seen_bd = data_of(inp, 30, seed)
    junk_bd = torch.where(seen_bd, x_bd, [-7, 10_000][seed % 2])
    lp_dbs = inp(junk_bd, seen_bd)
    assert (lp_dbs[~seen_bd.T]==0).all() and torch.equal(lp_dbs[seen_bd.T], inp(x_bd)[seen_bd.T])
    lp_dbs.sum().backward(); got = [p.grad.clone() for p in inp.parameters()]; inp.zero_grad()
    inp(x_bd)[seen_bd.T].sum().backward()
    assert all(torch.allclose(g, p.grad) and g.isfinite().all() for g, p in zip(got, inp.parameters()))

@everything
def test_tied_columns_share_a_row(name, seed):
    inp = input_of(name, seed); row_d = torch.tensor([2, 0, 0, 2, 1, 0]); x_bd, seen_bd = data_of(inp, 20, seed, 6)
    wide = from_spec(dict(inp.spec(), n_vars=6)).double()
    with torch.no_grad():
        for p, q in zip(wide.parameters(), inp.parameters()): p.copy_(q[row_d])
    a, b = inp(x_bd, seen_bd, row_d), wide(x_bd, seen_bd); assert torch.equal(a, b)
    g = torch.rand(a.shape, generator=rng(seed), dtype=torch.double); (-a*g).sum().backward(); (-b*g).sum().backward()
    for p, q in zip(inp.parameters(), wide.parameters()): assert torch.allclose(p.grad, torch.zeros_like(p).index_add_(0, row_d, q.grad))
    if hasattr(inp, 'count'): assert torch.allclose(inp.count, torch.zeros_like(inp.count).index_add_(0, row_d, wide.count))

# ── samples, modes, moments ────────────────────────────────────────────────────────────────────

@everything
def test_sample_frequencies(name, seed):
    "Every frequency within four standard errors."
    inp, n = input_of(name, seed), 20_000; state_db = torch.arange(S).repeat(n).expand(D, -1)
    x_dns = inp.sample(state_db, rng(50+seed)).T.unflatten(1, (n, S)); assert inp.sample(state_db, rng(0)).shape==(S*n, D)
    p_dvs = inp.log_pmf().exp(); f_dvs = nn.functional.one_hot(x_dns, inp.n_values).double().mean(1).mT
    assert ((f_dvs - p_dvs).abs() <= 4*(p_dvs*(1-p_dvs)/n).sqrt() + 1e-4).all()

@pytest.mark.parametrize('seed', SEEDS)
def test_impossible_values_are_never_drawn(seed):
    inp = Categorical(40, 5, 7, rng(seed)); no_dvs = torch.rand(40, 5, 7, generator=rng(seed)) < .6; no_dvs[:, seed % 5] = False
    with torch.no_grad(): inp.logp_dvs.copy_(inp.logp_dvs.masked_fill(no_dvs, -torch.inf).log_softmax(1))
    state_db = torch.randint(0, 7, (40, 3000), generator=rng(seed+9)); x_bd = inp.sample(state_db, rng(seed+10))
    assert (inp(x_bd).gather(2, state_db[..., None]) > -torch.inf).all()

@everything
def test_moments(name, seed):
    inp = input_of(name, seed); mean_ds, var_ds = table_moments(inp.log_pmf().exp())
    near = torch.arange(inp.n_values)[:, None].expand(-1, D)
    p_dvs, v = inp(near).exp(), near[:, 0].double()
    p_dvs = p_dvs/p_dvs.sum(1, keepdim=True)
    exact = torch.einsum('v,dvs->ds', v, p_dvs); assert torch.allclose(mean_ds, exact, atol=1e-6)
    assert torch.allclose(var_ds, torch.einsum('v,dvs->ds', v**2, p_dvs) - exact**2, atol=1e-6)

# ── gradients and probability zero ─────────────────────────────────────────────────────────────

@everything
def test_gradients_are_right(name, seed):
    "Against finite differences, with masks and tied columns."
    inp = input_of(name, seed); row_d = torch.tensor([2, 0, 0, 1]); x_bd, seen_bd = data_of(inp, 3, seed, 4)
    names = [n for n, _ in inp.named_parameters()]
    f = lambda *ps: torch.func.functional_call(inp, dict(zip(names, ps)), (x_bd, seen_bd, row_d))
    p = tuple(q.detach().clone() for q in inp.parameters())
    assert torch.autograd.gradcheck(f, tuple(q.requires_grad_() for q in p), check_undefined_grad=False)

@pytest.mark.parametrize('seed', SEEDS)
@pytest.mark.parametrize('name', ['categorical', 'two_values', 'evidence'])
def test_probability_zero_is_never_nan(name, seed):
    "Impossible values under some or all states: −∞ forward, finite backward, alone and in a circuit; EM goes on."
    gen = rng(seed); inp = Evidence(D, S) if name=='evidence' else MAKE[name](gen)
    for p in inp.parameters():
        with torch.no_grad(): p[0, 0] = -torch.inf; p[1, 1, 0] = -torch.inf; p.copy_(p.log_softmax(1))
    x = one_hot_evidence(torch.randint(0, S, (20, D), generator=gen), S).requires_grad_() if name=='evidence' else torch.randint(0, inp.n_values, (20, D), generator=gen)
    lp_dbs = inp(x); assert torch.isneginf(lp_dbs).any() and not lp_dbs.isnan().any()
    lp_dbs[0].sum().backward(); assert all(p.grad.isfinite().all() for p in (*inp.parameters(), *([x] if name=='evidence' else [])))
    inp.zero_grad(); pc = Circuit(chain(D), inp, 1, gen); lp_b = pc(x)[:, 0]
    assert not lp_b.isnan().any(); (-lp_b.sum()).backward()
    assert all(p.grad.isfinite().all() for p in pc.parameters())
    EM(pc, .5, .1).step(); assert not any(p.isnan().any() for p in pc.parameters()) and not pc(x).isnan().any()

# ── EM ─────────────────────────────────────────────────────────────────────────────────────────

def em_step_(inp, **how): EM(inp, **how).step()

@each(['categorical', 'two_values'])
def test_m_step_is_the_weighted_maximum(name, seed):
    "One step: the closed form, and no neighbour is better."
    inp = input_of(name, seed); x_bd, _ = data_of(inp, 30, seed); w_dbs = torch.rand(D, 30, S, generator=rng(seed), dtype=torch.double)
    weighted(inp, x_bd, w_dbs); em_step_(inp)
    count_dvs = torch.einsum('bdv,dbs->dvs', nn.functional.one_hot(x_bd, inp.n_values).double(), w_dbs)
    assert torch.allclose(inp.log_pmf().exp(), count_dvs/w_dbs.sum(1)[:, None], atol=1e-12)
    q = lambda m: (m(x_bd)*w_dbs).sum((1,)).detach(); top_ds, gen = q(inp), rng(seed+5)
    for _ in range(50):
        other = copy.deepcopy(inp)
        with torch.no_grad():
            for n, p in other.named_parameters():
                p.add_(10**(-3*torch.rand((), generator=gen).item())*torch.randn(p.shape, generator=gen))
                if n in inp.normalised: p.copy_(p.log_softmax(1))
        assert (q(other) <= top_ds + 1e-9).all()

@each(['logistic', 'logistic_2_values'])
def test_logistic_m_step_finds_the_maximum(name, seed):
    "Steps on the same weighted data end where a general-purpose optimiser ends, and go up all the way."
    inp = input_of(name, seed); V = inp.n_values; x_bd = torch.randint(0, V, (60, D), generator=rng(seed))
    w_dbs = torch.rand(D, 60, S, generator=rng(seed), dtype=torch.double)**4
    w_dbs = w_dbs*torch.exp(-.2*(x_bd.T[..., None] - V*torch.rand(D, 1, S, generator=rng(seed+1)))**2)
    q = lambda: (inp(x_bd)*w_dbs).sum(1).detach(); qs = []
    for _ in range(40): qs.append(q()); weighted(inp, x_bd, w_dbs); inp.em_step_()
    assert all((b >= a - 1e-9).all() for a, b in itertools.pairwise(qs))
    table_dvs = torch.einsum('bdv,dbs->dvs', nn.functional.one_hot(x_bd, V).double(), w_dbs)
    for d, s in itertools.product(range(D), range(S)):
        f = lambda t: -float((table_dvs[d, :, s]*logistic_table(torch.tensor([[t[0]]]), torch.tensor([[min(max(t[1], -7), math.log(V)+3)]]), V)[0, :, 0]).sum())
        best = min((minimize(f, (m, l), method='Nelder-Mead', bounds=((-V, 2*V), (-7, math.log(V)+3)), options=dict(xatol=1e-7, fatol=1e-12, maxiter=2000)).fun
                    for m in (.3*V, .7*V) for l in (-1., 1.)))
        assert float(qs[-1][d, s]) >= -best - 1e-3*table_dvs[d, :, s].sum(), (d, s)

@everything
def test_em_never_goes_down(name, seed):
    "Full batch, with missing values, whole steps or parts of them."
    inp = input_of(name, seed); x_bd, seen_bd = data_of(inp, 80, seed); em, lls = EM(inp, [1., .4][seed % 2]), []
    for _ in range(25): ll = log_prob(inp, x_bd, seen_bd).sum(); (-ll).backward(); em.step(); lls.append(ll.item())
    assert all(b >= a - 1e-6 for a, b in itertools.pairwise(lls)) and lls[-1] > lls[0] + 1, lls

@everything
def test_em_inside_a_circuit(name, seed):
    inp = input_of(name, seed); x_bd, seen_bd = data_of(inp, 60, seed); pc = Circuit(chain(D), inp, 1, rng(seed)).double(); lls = []
    em = EM(pc)
    for _ in range(10): ll = pc(x_bd, seen_bd).sum(); (-ll).backward(); em.step(); lls.append(ll.item())
    assert all(b >= a - 1e-6 for a, b in itertools.pairwise(lls)) and lls[-1] > lls[0] + 1, lls
    history = fit(pc, lambda rows: pc(x_bd[rows], seen_bd[rows])[:, 0], 60, rng(seed), epochs=3, batch=20, micro=7, pseudocount=.1, progress=False)
    assert all(map(math.isfinite, history))

@logistic
def test_mini_batch_goes_part_of_the_way(name, seed):
    "A step with η never lowers η·counts + (1−η)·present distribution."
    inp = input_of(name, seed); x_bd, _ = data_of(inp, 30, seed); w_dbs = torch.rand(D, 30, S, generator=rng(seed), dtype=torch.double)
    c_dvs = torch.einsum('bdv,dbs->dvs', nn.functional.one_hot(x_bd, inp.n_values).double(), w_dbs)
    q_dvs = (.2*c_dvs/c_dvs.sum(1, keepdim=True) + .8*inp.log_pmf().exp()).detach()
    before = (q_dvs*inp.log_pmf()).sum(1); weighted(inp, x_bd, w_dbs); assert torch.allclose(inp.count, c_dvs)
    inp.em_step_(.2); after = (q_dvs*inp.log_pmf()).sum(1)
    assert (after >= before - 1e-12).all() and (after > before + 1e-9).any()

@pytest.mark.parametrize('seed', SEEDS)
def test_pseudocount_is_pooled_data(seed):
    "α observations that look like all of the variable's: written out with the data themselves."
    alpha = .7; inp = input_of('logistic', seed); x_bd, _ = data_of(inp, 30, seed); w_dbs = torch.rand(D, 30, S, generator=rng(seed), dtype=torch.double)
    extra_db = w_dbs.sum(2)/w_dbs.sum((1, 2))[:, None]; all_dbs = w_dbs + alpha*extra_db[..., None]
    twin = copy.deepcopy(inp); weighted(inp, x_bd, w_dbs); inp.em_step_(1., alpha); weighted(twin, x_bd, all_dbs); twin.em_step_()
    assert torch.allclose(inp.mu_ds, twin.mu_ds, atol=1e-9) and torch.allclose(inp.log_s_ds, twin.log_s_ds, atol=1e-9)

@everything
def test_unused_states_stay(name, seed):
    inp = input_of(name, seed); x_bd, seen_bd = data_of(inp, 20, seed); seen_bd[:, 1] = False; before = copy.deepcopy(inp)
    w_dbs = torch.ones(D, 20, S).double(); w_dbs[..., 2] = 0
    (-(inp(x_bd, seen_bd)*w_dbs).sum()).backward(); em_step_(inp, lr=.8, pseudocount=.1)
    for p, q in zip(inp.parameters(), before.parameters()):
        assert torch.allclose(p[1], q[1], atol=1e-12) and torch.allclose(p[..., 2], q[..., 2], atol=1e-12) and p.isfinite().all()
    after = copy.deepcopy(inp); assert all(not torch.allclose(p, q) for p, q in zip(inp.parameters(), before.parameters()))
    em_step_(inp); assert all(torch.equal(p, q) for p, q in zip(inp.parameters(), after.parameters()))         # nothing collected: nothing to do

@everything
def test_counts_add_up_and_are_forgotten(name, seed):
    "Micro-batches, or two passes and one backward, are one large batch; a cleared gradient is a cleared count."
    one = input_of(name, seed); two, three = copy.deepcopy(one), copy.deepcopy(one); x_bd, _ = data_of(one, 30, seed)
    (-log_prob(one, x_bd).sum()).backward(); em_step_(one)
    log_prob(two, x_bd[:5]).sum().backward(); torch.optim.SGD(two.parameters(), 0.).zero_grad()
    for part in x_bd.split(11): (-log_prob(two, part).sum()).backward()
    em_step_(two); a, b = x_bd.tensor_split(2)
    (-log_prob(three, a).sum() - log_prob(three, b).sum()).backward(); em_step_(three)
    for m in (two, three): assert all(torch.allclose(p, q, atol=1e-9) for p, q in zip(one.parameters(), m.parameters()))
    assert all(p.grad is None for m in (one, two, three) for p in m.parameters())

@pytest.mark.parametrize('seed', SEEDS)
def test_constant_data_meet_the_floor(seed):
    inp, x_bd = DiscretisedLogistic(1, 256, 1, rng(seed)), torch.full((10, 1), 7)
    for _ in range(30): (-inp(x_bd).sum()).backward(); inp.em_step_()
    assert all(p.isfinite().all() for p in inp.parameters()) and inp(x_bd).min() > -.01

def test_extreme_counts_leave_logistic_finite():
    "Both ends and nothing between, one value only, far from the start: finite, and never lower; in float32."
    inp = DiscretisedLogistic(4, 256, 1, rng(0)); x_bd = torch.tensor([[0, 0, 255, 128], [255, 0, 255, 128], [255, 0, 255, 128]]); lls = []
    with torch.no_grad(): inp.log_s_ds[2:] = -7; inp.mu_ds[2:] = 3.
    for _ in range(40): lp = inp(x_bd); (-lp.sum()).backward(); inp.em_step_(); lls.append(lp.detach().sum((1, 2)))
    assert all(p.isfinite().all() for p in inp.parameters()) and all((b >= a - 1e-3).all() for a, b in itertools.pairwise(lls)) and (lls[-1][1:] > -.1).all()

@pytest.mark.parametrize('name', ['logistic'])
def test_frozen_inputs_stay(name):
    inp = input_of(name, 0); before = copy.deepcopy(inp); x_bd, _ = data_of(inp, 20, 0)
    keep = [n for n, _ in inp.named_parameters() if n.startswith('mu')]; getattr(inp, keep[0]).requires_grad_(False)
    (-log_prob(inp, x_bd).sum()).backward(); em_step_(inp)
    for n, p in inp.named_parameters(): assert torch.equal(p, getattr(before, n))==(n in keep)

# ── torch optimizers ───────────────────────────────────────────────────────────────────────────

@pytest.mark.parametrize('opt', [lambda m: on_logits(torch.optim.Adam, m, lr=.05), lambda m: on_logits(torch.optim.SGD, m, lr=.02, momentum=.5)], ids=['adam', 'sgd'])
@everything
def test_any_torch_optimizer_improves(name, seed, opt):
    inp = input_of(name, seed); x_bd, seen_bd = data_of(inp, 60, seed); opt = opt(inp); lls = []
    for _ in range(60):
        ll = log_prob(inp, x_bd, seen_bd).mean(); (-ll).backward(); opt.step(); lls.append(ll.item())
        for n, dim in inp.normalised.items(): assert torch.allclose(getattr(inp, n).exp().sum(dim), torch.ones(()).double())
    assert lls[-1] > lls[0] + 2e-3 and math.isfinite(lls[-1])
    ll = log_prob(inp, x_bd, seen_bd).sum(); (-ll).backward(); em_step_(inp)         # and EM goes on from here
    assert log_prob(inp, x_bd, seen_bd).sum() >= ll - 1e-6

# ── evidence, specs, growth, refusals ──────────────────────────────────────────────────────────

@pytest.mark.parametrize('seed', SEEDS)
def test_evidence(seed):
    inp, gen = Evidence(D, S), rng(seed); lp_bds = torch.randn(7, D, S, generator=gen)
    seen_bd = torch.rand(7, D, generator=gen) < .6; got = inp(lp_bds, seen_bd)
    assert got.shape==(D, 7, S) and torch.equal(got, torch.where(seen_bd[..., None], lp_bds, 0).transpose(0, 1))
    z_bd = torch.randint(0, S, (7, D), generator=gen)
    assert torch.equal(inp(one_hot_evidence(z_bd, S)), torch.stack([torch.eye(S).log()[z_bd[:, d]] for d in range(D)]))           # the value is the state

@everything
def test_spec_round_trip(name, seed):
    a = input_of(name, seed); b = from_spec(json.loads(json.dumps(a.spec()))).double(); x_bd, seen_bd = data_of(a, 10, seed)
    b.load_state_dict(a.state_dict())
    assert type(a) is type(b) and json.dumps(a.spec())==json.dumps(b.spec()) and torch.equal(a(x_bd, seen_bd), b(x_bd, seen_bd)) and repr(a)==repr(b)

@everything
def test_take_copies_states(name, seed):
    inp = input_of(name, seed); x_bd, _ = data_of(inp, 10, seed); before = copy.deepcopy(inp)
    state_ds = torch.randint(0, S, (D, 7), generator=rng(seed)); new = inp.take(state_ds)
    assert type(new) is type(inp) and (new.n_vars, new.n_states)==(D, 7) and new(x_bd).dtype==torch.double
    assert torch.equal(new(x_bd), inp(x_bd).gather(2, state_ds[:, None].expand(-1, 10, -1)))
    (-log_prob(new, x_bd).sum()).backward(); em_step_(new)
    assert all(torch.equal(p, q) for p, q in zip(inp.parameters(), before.parameters()))                                # a copy, not a view

@pytest.fixture
def unchecked():
    "As a reader meets it: annotations are not checked at run time, `require` has the word."
    jaxtyping.config.update('jaxtyping_disable', True); yield
    jaxtyping.config.update('jaxtyping_disable', False)

@pytest.mark.parametrize('name', MAKE)
def test_refusals(name, unchecked, refuses):
    inp = input_of(name, 0); x, seen = data_of(inp, 2, 0)
    refuses(lambda: inp(x[:, :2]), '[batch, 3 variables]', '[2, 2]')
    refuses(lambda: inp(x[0]), '[batch, 3 variables]', '[3]')
    refuses(lambda: inp(x, seen[:, :2]), 'mask of shape [2, 3]', '[2, 2]')
    refuses(lambda: inp(x, row_d=torch.tensor([0, 1])), '[batch, 2 variables]', '[2, 3]')
    refuses(lambda: inp.take(torch.zeros(2, 2).long()), 'states for 3 variables', '2')
    refuses(lambda: inp(x.float()), 'integer', 'float32')
    refuses(lambda: inp(x + inp.n_values), f'0 to {inp.n_values-1}'); refuses(lambda: inp(x - inp.n_values), f'0 to {inp.n_values-1}', '-')
    assert torch.equal(inp(x.byte()), inp(x)) and torch.equal(inp(x.to(torch.int32), seen), inp(x, seen))

def test_more_refusals(unchecked, refuses):
    refuses(lambda: Evidence(3, 2)(torch.zeros(2, 3, 4)), '3 variables, 2 states', '[2, 3, 4]')
    refuses(lambda: from_spec(dict(kind='poisson')), 'categorical', "'poisson'")
    refuses(lambda: DiscretisedLogistic(1, 1, 1, rng(0)), 'at least 2')
    x_bd = torch.tensor([[True, False], [False, True]]); inp = Categorical(2, 2, 3, rng(0))
    assert torch.equal(inp(x_bd), inp(x_bd.long())) and torch.equal(inp(x_bd, x_bd), inp(x_bd.long(), x_bd))

def test_empty_batches():
    for make in MAKE.values():
        inp = make(rng(0)); x_bd, _ = data_of(inp, 0, 0); assert inp(x_bd).shape==(D, 0, S)
