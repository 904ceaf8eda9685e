"""EM: counts by enumeration, monotone steps, tied leaves, accumulation, kill and resume."""
import copy, itertools, math
import pytest, torch
from torch import nn
import brute
from brute import KINDS, circuit_of, quad_tree, random_tree, write_out
from cells import EXTRA, NBS, definitions
from pcdistill.circuit import Circuit
from pcdistill.core import rng
from pcdistill.em import EM, cosine, fit, stages, tables
from pcdistill.inputs import Categorical, Evidence, one_hot_evidence
from pcdistill.structure import chain

on_logits = definitions(EXTRA/'optimizers.ipynb').on_logits
t4 = definitions(NBS/'theory'/'T4_em.ipynb')
Anemone, nothing_seen = t4.Anemone, t4.nothing_seen

everywhere = pytest.mark.parametrize('kind,seed', [(k, s) for k in KINDS for s in range(4)])

def rows_of(pc, n, seed):
    "Random rows, masks and heads."
    gen = rng(seed); x_bd, seen_bd = brute.some_rows(pc, n, gen)
    return x_bd, seen_bd, torch.randint(0, pc.n_heads, (n,), generator=gen)

def log_prob(pc, x_bd, seen_bd, head_b):
    "Each row under its own head."
    return pc(x_bd, seen_bd).gather(1, head_b[:, None])[:, 0]

@everywhere
def test_gradient_is_expected_count(kind, seed):
    "p(z, x_missing | x_seen) written out; how often is each edge, root state and value used?"
    pc = circuit_of(kind, seed, most=50_000); t, tree = write_out(pc), pc.tree
    x_bd, seen_bd, head_b = rows_of(pc, 12, seed+50)
    log_prob(pc, x_bd, seen_bd, head_b).sum().backward()
    w_bxz = brute.agree(t, x_bd, seen_bd)[:, :, None] * t.p_xz * t.p_zk.T[head_b][:, None]
    w_bxz /= w_bxz.sum((1, 2), keepdim=True); w_bz = w_bxz.sum(1)
    S, K, V = pc.n_states, pc.n_heads, pc.inputs.n_values
    state = nn.functional.one_hot(t.z_zl, S).double()                                  # [z l s]
    place, row = pc.plan().place_of_node, torch.arange(len(tree.host))
    for i, above in enumerate(tree.parent):
        if above < 0:
            exact = torch.einsum('bz,zs,bk->sk', w_bz, state[:, i], nn.functional.one_hot(head_b, K).double())
            assert torch.allclose(pc.root_rsk.grad[0].double(), exact, atol=1e-4)
        else:
            exact = torch.einsum('bz,zs,zt->st', w_bz, state[:, i], state[:, above])
            assert torch.allclose(pc.edges_est.grad[place[i]-1].double(), exact, atol=1e-4)
    for v, h in enumerate(tree.host):                                                  # only seen values count
        w_bs = w_bz @ state[:, h] * seen_bd[:, v, None]
        exact = nn.functional.one_hot(x_bd[:, v], V).double().T @ w_bs
        assert torch.allclose(pc.inputs.logp_dvs.grad[row[v]].double(), exact, atol=1e-4)

@everywhere
def test_full_batch_never_goes_down(kind, seed):
    "Also with missing values and labelled heads; in double precision, where 1e-6 means something."
    pc = circuit_of(kind, seed).double(); rows = rows_of(pc, 60, seed+60)
    em, lls = EM(pc), []
    for _ in range(15):
        ll = log_prob(pc, *rows).sum(); (-ll).backward(); em.step(); lls.append(ll.item())
    assert all(b >= a - 1e-6 for a, b in itertools.pairwise(lls)), lls
    for p, dim in ((pc.inputs.logp_dvs, 1), (pc.edges_est, 1), (pc.root_rsk, 1)):
        assert torch.allclose(p.exp().sum(dim), torch.ones(()).double(), atol=1e-9)

@everywhere
def test_step_is_the_formula(kind, seed):
    "A mini-batch step with a pseudocount against (1−η)w + η(F + α/n)/(ΣF + α), sum node by sum node."
    pc = circuit_of(kind, seed).double(); rows = rows_of(pc, 5, seed+70)
    lr, alpha = (.3, .2) if seed % 2 else (1., .5)
    (-log_prob(pc, *rows).sum()).backward()
    want = []
    for p in (pc.inputs.logp_dvs, pc.edges_est, pc.root_rsk):
        F, w = -p.grad, p.detach().exp(); n = p.shape[1]; total = F.sum(1, keepdim=True)
        want.append(torch.where(total > 0, (1-lr)*w + lr*(F+alpha/n)/(total+alpha), w))
    EM(pc, lr, alpha).step()
    for p, w in zip((pc.inputs.logp_dvs, pc.edges_est, pc.root_rsk), want): assert torch.allclose(p.exp(), w, atol=1e-12)

@pytest.mark.parametrize('kind', KINDS)
def test_sums_without_data_keep_their_weights(kind):
    pc = circuit_of(kind, 1); before = copy.deepcopy(pc)
    x_bd, seen_bd, _ = rows_of(pc, 5, 0); seen_bd[:] = False; seen_bd[:, 0] = True
    (-pc(x_bd, seen_bd)[:, 0].sum()).backward(); EM(pc, 1., .1).step()
    unseen = torch.arange(1, len(pc.tree.host))
    assert torch.equal(pc.inputs.logp_dvs[unseen], before.inputs.logp_dvs[unseen])
    assert torch.equal(pc.root_rsk[..., 1:], before.root_rsk[..., 1:])               # heads without rows
    assert all(torch.isfinite(p).all() for p in pc.parameters())

def test_values_never_seen_get_probability_zero_and_stay_harmless():
    pc = Circuit(chain(3), Categorical(3, 4, 2, rng(0)), 1, rng(1)); x_bd = torch.randint(0, 2, (20, 3), generator=rng(2))
    em = EM(pc)
    for _ in range(5): (-pc(x_bd).sum()).backward(); em.step()
    assert pc(x_bd).isfinite().all() and pc(x_bd+2).isneginf().all() and not any(p.isnan().any() for p in pc.parameters())

# ── one leaf circuit under every position of a top circuit ─────────────────────────────────────

class Tied(nn.Module):
    "p(x) = Σ_z top(z) · Π_n leaf_{z_n}(x_n): the same leaf at every position."
    def __init__(self, seed, n=3, d=2, V=3, K=3, S=2):
        super().__init__()
        gen = rng(seed)
        self.leaf = Circuit(random_tree(d, gen) if seed % 2 else chain(d), Categorical(d, V, S, gen), K, gen)
        self.top = Circuit([chain(n), quad_tree(1, n), random_tree(n, gen)][seed % 3], Evidence(n, K), 1, gen)
        with torch.no_grad():
            for m in (self.leaf.inputs, self.leaf, self.top):
                for name, dim in m.normalised.items(): p = getattr(m, name); p.copy_((1.5*torch.randn(p.shape, generator=gen)).log_softmax(dim))

    def evidence(self, x_bnd, seen_bnd=None):
        flat = lambda t: None if t is None else t.flatten(0, 1)
        return self.leaf(flat(x_bnd), flat(seen_bnd)).unflatten(0, x_bnd.shape[:2])

    def forward(self, x_bnd, seen_bnd=None): return self.top(self.evidence(x_bnd, seen_bnd))[:, 0]

@pytest.mark.parametrize('seed', range(6))
def test_joint_is_sum_over_z_of_top_times_leaves(seed):
    joint = Tied(seed); leaf, K = write_out(joint.leaf), joint.leaf.n_heads
    x_bnd = brute.every(3, 6).reshape(-1, 3, 2)
    z_zn = brute.every(K, 3)
    p_z = joint.top(one_hot_evidence(z_zn, K)).detach().double().exp()[:, 0]
    latent, p_l = brute.latents(joint.top); host = torch.tensor(joint.top.tree.host)   # the top by itself, written out
    assert torch.allclose(p_z, torch.stack([p_l[(latent[:, host]==z).all(1), 0].sum() for z in z_zn]), atol=1e-6)
    row_bn = (x_bnd*torch.tensor([3, 1])).sum(-1)
    p_bz = torch.stack([leaf.p_xk[row_bn[:, n]][:, z_zn[:, n]] for n in range(3)]).prod(0)
    exact_b = p_bz @ p_z
    assert torch.allclose(joint(x_bnd).detach().double(), exact_b.log(), atol=1e-4) and abs(exact_b.sum()-1) < 1e-5
    seen = torch.rand(30, 6, generator=rng(seed)) < .5                                 # masks through both circuits
    some = torch.randint(0, len(x_bnd), (30,), generator=rng(seed+1))
    match = ((x_bnd.flatten(1)[None]==x_bnd[some].flatten(1)[:, None]) | ~seen[:, None]).all(-1).double()
    assert torch.allclose(joint(x_bnd[some], seen.view(30, 3, 2)).detach().double(), (match @ exact_b).log(), atol=1e-4)

@pytest.mark.parametrize('seed', range(6))
def test_tied_leaf_counts_are_summed_over_positions(seed):
    joint = Tied(seed).double(); K, S = joint.leaf.n_heads, joint.leaf.n_states
    x_bnd = torch.randint(0, 3, (10, 3, 2), generator=rng(seed))
    joint(x_bnd).sum().backward()
    lp_bnk, z_zn = joint.evidence(x_bnd).detach(), brute.every(K, 3)
    lp_bz = lp_bnk[:, torch.arange(3), z_zn].sum(-1) + joint.top(one_hot_evidence(z_zn, K).double()).detach()[:, 0]
    q_bz = lp_bz.softmax(1)
    for k in range(K):                                      # how often is head k in use, at any position
        exact = sum(q_bz[:, z_zn[:, n]==k].sum() for n in range(3))
        assert torch.allclose(joint.leaf.root_rsk.grad[0, :, k].sum(), exact, atol=1e-9)

@pytest.mark.parametrize('seed', range(6))
def test_full_batch_never_goes_down_with_a_tied_leaf(seed):
    joint = Tied(seed).double(); x_bnd = torch.randint(0, 3, (80, 3, 2), generator=rng(seed)); x_bnd[:, 1] = x_bnd[:, 0]
    seen = torch.rand(80, 3, 2, generator=rng(seed+1)) < .8
    em, lls = EM(joint), []
    for _ in range(40):
        ll = joint(x_bnd, seen).sum(); (-ll).backward(); em.step(); lls.append(ll.item())
    assert all(b >= a - 1e-6 for a, b in itertools.pairwise(lls)) and lls[-1] > lls[0] + 1, lls

# ── the ordinary PyTorch loop ─────────────────────────────────────────────────────────────────

@everywhere
def test_micro_batches_add_up_to_the_whole(kind, seed):
    whole = circuit_of(kind, seed).double(); parts = copy.deepcopy(whole)
    rows = rows_of(whole, 30, seed+80)
    (-log_prob(whole, *rows).sum()).backward(); EM(whole, .7, .1).step()
    for part in zip(*(r.split([1, 7, 22]) for r in rows)): (-log_prob(parts, *part).sum()).backward()
    EM(parts, .7, .1).step()
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(whole.parameters(), parts.parameters()))

class Killed(Exception): pass

@pytest.mark.parametrize('when', [0, 3, 7, 11])
def test_killed_fit_resumes_with_identical_parameters(tmp_path, when):
    x_bd = torch.randint(0, 4, (200, 4), generator=rng(0))
    def run(ckpt, stop=None):
        pc, gen = Circuit(quad_tree(2, 2), Categorical(4, 4, 3, rng(1)), 1, rng(2)), rng(3); calls = itertools.count()
        def log_prob(rows):
            if next(calls)==stop: raise Killed
            return pc(x_bd[rows])[:, 0]
        return pc, fit(pc, log_prob, 200, gen, epochs=4, batch=70, micro=40, ckpt=ckpt, progress=False)
    plain, history = run(None)
    with pytest.raises(Killed): run(tmp_path/'em.safetensors', stop=when)
    again, resumed = run(tmp_path/'em.safetensors')
    assert resumed==history and all(torch.equal(a, b) for a, b in zip(plain.parameters(), again.parameters()))
    assert [p.name for p in tmp_path.iterdir()]==['em.safetensors']                    # nothing else is left lying about

def test_fit_follows_its_schedule_and_learns():
    "Step sizes from 1 to .1 along a cosine; far better than independent pixels on images."
    from sklearn.datasets import load_digits
    x_bd = torch.tensor(load_digits().images > 7).long().flatten(1)
    pc = Circuit(quad_tree(8, 8), Categorical(64, 2, 8, rng(0)), 1, rng(1))
    history = fit(pc, lambda rows: pc(x_bd[rows])[:, 0], len(x_bd), rng(2), epochs=8, batch=300, lr=(1., .1), pseudocount=.1, progress=False)
    p_d = x_bd.double().mean(0).clamp(1e-9, 1-1e-9)
    independent = (x_bd*p_d.log() + (1-x_bd)*(1-p_d).log()).sum(1).mean().item()
    assert len(history)==8 and history[-1] > history[0] and history[-1] > independent + 4

def test_frozen_tables_stay():
    pc = circuit_of('chain', 2); before = copy.deepcopy(pc); pc.edges_est.requires_grad_(False)
    (-pc(rows_of(pc, 20, 0)[0])[:, 0].sum()).backward(); EM(pc).step()
    assert torch.equal(pc.edges_est, before.edges_est) and not torch.equal(pc.inputs.logp_dvs, before.inputs.logp_dvs)

def test_em_refuses(refuses):
    pc = circuit_of('chain', 0)
    refuses(lambda: EM(pc, lr=0.), '0 < lr')
    refuses(lambda: EM(pc, lr=1.5), '0 < lr', '1.5')
    refuses(lambda: EM(pc, pseudocount=-1.), 'pseudocount', '-1')
    refuses(lambda: EM(nn.ModuleList([pc, nn.Linear(2, 2)])), 'normalised', '1.weight')
    with torch.no_grad(): pc.edges_est[0, 0, 0] = math.nan
    x_bd = rows_of(pc, 10, 0)[0]
    refuses(lambda: fit(pc, lambda rows: pc(x_bd[rows])[:, 0], 10, rng(0), epochs=1, progress=False), 'finite', 'nan')
    for sizes in (dict(n_rows=0), dict(batch=0), dict(micro=0), dict(batch=-1)):
        refuses(lambda: fit(pc, lambda rows: pc(x_bd[rows])[:, 0], **(dict(n_rows=10, gen=rng(0), progress=False) | sizes)), 'at least one row', str([*sizes.values()][0]))

def test_fit_is_the_loop_of_networks_too():
    "Adam through `make`: the numbers of the loop written out; gradients of one step do not leak into the next."
    def net(): torch.manual_seed(0); return nn.Linear(3, 1)
    x_nf, y_n = torch.randn(40, 3, generator=rng(1)), torch.randn(40, generator=rng(2)); one, two = net(), net()
    loss = lambda m, rows: -(m(x_nf[rows])[:, 0] - y_n[rows]).square()
    fit(one, lambda rows: loss(one, rows), 40, rng(3), epochs=3, batch=10, lr=(.1, .1), make=lambda m: torch.optim.Adam(m.parameters()), progress=False)
    opt, gen = torch.optim.Adam(two.parameters(), .1), rng(3)
    for _ in range(3):
        for rows in torch.randperm(40, generator=gen).tensor_split(4): opt.zero_grad(); (-loss(two, rows).sum()).backward(); opt.step()
    assert all(torch.allclose(p, q, atol=1e-6) for p, q in zip(one.parameters(), two.parameters()))

# ── Anemone, logits, schedules ────────────────────────────────────────────────────────────────

def normalised(pc):
    "pc in double precision, normalised in double precision."
    pc = pc.double()
    with torch.no_grad():
        for p, dim in tables(pc): p.copy_(p.log_softmax(dim))
    return pc

@everywhere
def test_reach_is_how_often_an_edge_is_drawn(kind, seed):
    "Prior probability of each edge, root state and value, written out, for heads with given shares."
    pc = normalised(circuit_of(kind, seed, most=50_000)); t, tree = write_out(pc), pc.tree
    share_k = torch.rand(pc.n_heads, generator=rng(seed)).double(); share_k /= share_k.sum()
    nothing = nothing_seen(pc, share_k); nothing.backward()
    assert abs(float(nothing.detach())) < 1e-9
    w_z, S = t.p_zk @ share_k, pc.n_states
    state = nn.functional.one_hot(t.z_zl, S).double()
    place, row = pc.plan().place_of_node, torch.arange(len(tree.host))
    for i, above in enumerate(tree.parent):
        if above < 0: assert torch.allclose(pc.root_rsk.grad[0], (state[:, i].T @ t.p_zk)*share_k, atol=1e-9)
        else: assert torch.allclose(pc.edges_est.grad[place[i]-1], torch.einsum('z,zs,zt->st', w_z, state[:, i], state[:, above]), atol=1e-9)
    for v, h in enumerate(tree.host):
        assert torch.allclose(pc.inputs.logp_dvs.grad[row[v]], pc.inputs.logp_dvs[row[v]].exp()*(w_z @ state[:, h]), atol=1e-9)

def test_nothing_seen_of_ready_made_evidence():
    pc = Circuit(chain(3), Evidence(3, 4), 2, rng(0)); nothing_seen(pc).backward()
    assert torch.allclose(pc.root_rsk.grad.sum((0, 1)), torch.full((2,), .5)) and torch.allclose(pc.edges_est.grad.sum((1, 2)), torch.ones(2))

@everywhere
def test_anemone_step_is_the_formula(kind, seed):
    "w ∝ (1−η)·T·w + η·f, from the definition, over two steps with momentum; a sum without flow keeps its weights."
    pc = normalised(circuit_of(kind, seed)); share_k = torch.full((pc.n_heads,), 1/pc.n_heads).double()
    eta, mu, n = .3, .9, 12
    em = Anemone(pc, lambda: nothing_seen(pc, share_k), lr=eta, momentum=mu, pseudocount=0.)
    past, rows_past = None, 0.
    for step in range(2):
        x_bd, _, head_b = rows_of(pc, n, seed+90+step)
        old = copy.deepcopy(pc); nothing_seen(old, share_k).backward(); reach = [p.grad for p, _ in tables(old)]
        (-log_prob(pc, x_bd, torch.ones_like(x_bd, dtype=torch.bool), head_b).sum()).backward()
        F = [-p.grad for p, _ in tables(pc)]; past = F if past is None else [mu*a + b for a, b in zip(past, F)]; rows_past = mu*rows_past + n
        em.step()
        for (p, dim), (q, _), f, r in zip(tables(pc), tables(old), past, reach):
            want = (1-eta)*r + eta*f/rows_past                                            # r = T·w
            want = torch.where(f.sum(dim, keepdim=True) > 0, want/want.sum(dim, keepdim=True), q.detach().exp())
            assert torch.allclose(p.exp(), want, atol=1e-9)

@everywhere
def test_anemone_on_all_data_never_goes_down(kind, seed):
    "Momentum 0, small and large η, missing values, labelled heads."
    for eta in (.05, .4, 1.):
        pc = normalised(circuit_of(kind, seed)); rows = rows_of(pc, 60, seed+60)
        share_k = torch.bincount(rows[2], minlength=pc.n_heads)/60
        em, lls = Anemone(pc, lambda: nothing_seen(pc, share_k), lr=eta, momentum=0., pseudocount=0.), []
        for _ in range(10): ll = log_prob(pc, *rows).sum(); (-ll).backward(); em.step(); lls.append(ll.item())
        assert all(b >= a - 1e-9 for a, b in itertools.pairwise(lls)), (eta, lls)
        for p, dim in tables(pc): assert torch.allclose(p.exp().sum(dim), torch.ones(()).double(), atol=1e-9)

@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('momentum', [0., .9])
def test_fixed_points_of_em_are_fixed_points_of_anemone(kind, momentum):
    "Every value once, weighted by the circuit's own probability: EM has nothing to do, nor has Anemone."
    pc = normalised(circuit_of(kind, 2, most=50_000)); t = write_out(pc); before = copy.deepcopy(pc)
    p_xk = t.p_xk/pc.n_heads
    em = Anemone(pc, lambda: nothing_seen(pc), lr=.4, momentum=momentum, pseudocount=0.)
    for _ in range(2):
        (-(p_xk*pc(t.x_xd)).sum()).backward(); em.step()
        assert all(torch.allclose(a.exp(), b.exp(), atol=1e-9) for a, b in zip(pc.parameters(), before.parameters()))

def test_anemone_steps_little_where_little_came():
    "A head with one row of a hundred moves less than under EM; with all rows in it, η is η."
    pc = normalised(Circuit(chain(2), Categorical(2, 3, 3, rng(0)), 2, rng(1))); em, an = copy.deepcopy(pc), copy.deepcopy(pc)
    x_bd = torch.randint(0, 3, (100, 2), generator=rng(2)); head_b = torch.zeros(100, dtype=torch.long); head_b[0] = 1
    seen = torch.ones(100, 2, dtype=torch.bool)
    (-log_prob(em, x_bd, seen, head_b).sum()).backward(); EM(em, .4).step()
    (-log_prob(an, x_bd, seen, head_b).sum()).backward(); Anemone(an, lambda: nothing_seen(an), lr=.4, momentum=0., pseudocount=0.).step()
    moved = lambda q: (q.root_rsk.exp() - pc.root_rsk.exp())[0].abs().sum(0)
    gamma = .4*.01/(.6*.5 + .4*.01)                                                       # the head expected half the rows
    assert torch.allclose(moved(an)[1], moved(em)[1]*gamma/.4, atol=1e-9) and moved(an)[0] > moved(em)[0]

@pytest.mark.parametrize('seed', range(6))
def test_anemone_with_a_tied_leaf(seed):
    "The reach of the leaf is that of all its positions; all the data, no momentum: never down, and rows are counted rightly."
    joint = Tied(seed); normalised(joint)
    x_bnd = torch.randint(0, 3, (50, 3, 2), generator=rng(seed))
    def reach():
        every_vd = torch.arange(3)[:, None].expand(-1, 2)
        lp_1k = joint.leaf.root_value(joint.leaf.evidence(every_vd).logsumexp(1, keepdim=True))
        return joint.top(lp_1k[:, None].expand(-1, 3, -1))[:, 0]
    em, lls = Anemone(joint, reach, lr=.3, momentum=0., pseudocount=0.), []
    for _ in range(15): ll = joint(x_bnd).sum(); (-ll).backward(); em.step(); lls.append(ll.item())
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(lls)) and em.param_groups[0]['rows']==pytest.approx(50)

@everywhere
def test_gradient_of_logits_is_autograd_through_log_softmax(kind, seed):
    "What the inner optimizer is shown."
    pc = normalised(circuit_of(kind, seed)); rows = rows_of(pc, 20, seed); free = copy.deepcopy(pc)
    shown = []
    class Look(torch.optim.SGD):
        def step(self, closure=None): shown.extend(p.grad.clone() for g in self.param_groups for p in g['params'])
    (-log_prob(pc, *rows).sum()).backward(); on_logits(Look, pc, lr=.1).step()
    names = [(m, n, dim) for m in free.modules() for n, dim in getattr(m, 'normalised', {}).items()]
    order = {id(p): i for i, p in enumerate(free.parameters())}; z = {}
    for m, n, dim in names:
        p = getattr(m, n); z[order[id(p)]] = q = (p.detach() + 3*torch.randn(p.shape[:dim]+(1,)+p.shape[dim+1:], generator=rng(seed)).double()).requires_grad_()
        del m._parameters[n]; setattr(m, n, q.log_softmax(dim))                           # any logits of the same weights
    (-log_prob(free, *rows).sum()).backward()
    assert len(shown)==len(z) and all(torch.allclose(g, z[i].grad, atol=1e-9) for i, g in enumerate(shown))

class Scaled(nn.Module):
    "A circuit and a parameter that is no table: the log-scale of an exponential distribution."
    def __init__(self):
        super().__init__(); self.pc, self.rate = circuit_of('chain', 3), nn.Parameter(torch.zeros(()))
    def forward(self, x_bd, y_b): return self.pc(x_bd)[:, 0] + self.rate - y_b*self.rate.exp()

def test_other_parameters_get_their_plain_gradient():
    m = Scaled(); x_bd, _ = brute.some_rows(m.pc, 40, rng(0)); y_b = torch.rand(40, generator=rng(1)) + 1
    opt = on_logits(torch.optim.Adam, m, lr=.05); first = m(x_bd, y_b).sum().item()
    for _ in range(300): (-m(x_bd, y_b).sum()).backward(); opt.step()
    assert m.rate.item()==pytest.approx(-y_b.mean().log().item(), abs=1e-3) and m(x_bd, y_b).sum().item() > first
    for p, dim in tables(m): assert torch.allclose(p.exp().sum(dim), torch.ones(()), atol=1e-5)

@pytest.mark.parametrize('make', [lambda m: on_logits(torch.optim.Adam, m, lr=.1), lambda m: on_logits(torch.optim.SGD, m, lr=.01, momentum=.9),
                                  lambda m: EM(m, .5, .3), lambda m: EM(m, 1., .3), lambda m: Anemone(m, lambda: nothing_seen(m), momentum=.9, pseudocount=.3)])
def test_zeros_stay_zero(make):
    "Under every optimizer, also where a momentum from before pushes."
    pc = circuit_of('quad_2x3', 1); assert pc.n_states > 1; rows = rows_of(pc, 30, 0); opt = make(pc)
    for step in range(4):
        if step==2:
            with torch.no_grad():
                for p, dim in tables(pc): p[:, 0] = -torch.inf; p.copy_(p.log_softmax(dim))
            x_bd = rows[0].clamp_min(1); rows = (x_bd, *rows[1:])                         # value 0 is impossible now
        (-log_prob(pc, *rows).sum()).backward(); opt.step()
    for p, dim in tables(pc): assert p[:, 0].isneginf().all() and torch.allclose(p.exp().sum(dim), torch.ones(()), atol=1e-5)

MAKERS = dict(em=None, anemone=lambda m: Anemone(m, lambda: nothing_seen(m), pseudocount=.1), adam=lambda m: on_logits(torch.optim.Adam, m),
              sgd=lambda m: on_logits(torch.optim.SGD, m, momentum=.9))

@pytest.mark.parametrize('name', MAKERS)
def test_fit_with_micro_batches_equals_large_batches(name):
    x_bd = torch.randint(0, 4, (120, 4), generator=rng(0))
    def run(micro):
        pc = normalised(Circuit(quad_tree(2, 2), Categorical(4, 4, 3, rng(1)), 1, rng(2)))
        fit(pc, lambda rows: pc(x_bd[rows])[:, 0], 120, rng(3), epochs=3, batch=60, micro=micro, lr=(.3, .01), make=MAKERS[name], progress=False); return pc
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(run(60).parameters(), run(13).parameters()))

@pytest.mark.parametrize('name', MAKERS)
@pytest.mark.parametrize('when', [3, 9, 13])
def test_killed_fit_resumes_with_what_its_optimizer_remembers(tmp_path, name, when):
    x_bd = torch.randint(0, 4, (200, 4), generator=rng(0))
    def run(ckpt, stop=None):
        pc, calls = Circuit(quad_tree(2, 2), Categorical(4, 4, 3, rng(1)), 1, rng(2)), itertools.count()
        def log_prob(rows):
            if next(calls)==stop: raise Killed
            return pc(x_bd[rows])[:, 0]
        return pc, fit(pc, log_prob, 200, rng(3), epochs=5, batch=70, lr=(.3, .02), ckpt=ckpt, make=MAKERS[name], progress=False)
    plain, history = run(None)
    with pytest.raises(Killed): run(tmp_path/'o.safetensors', stop=when)
    again, resumed = run(tmp_path/'o.safetensors')
    assert resumed==history and all(torch.equal(a, b) for a, b in zip(plain.parameters(), again.parameters()))

def test_schedules():
    assert cosine(1., .1)(0.)==1 and cosine(1., .1)(1.)==pytest.approx(.1) and cosine(1., .1)(.5)==pytest.approx(.55)
    at = stages(.8, .1, .05, .001)
    assert [at(i/3) for i in range(4)]==pytest.approx([.8, .1, .05, .001]) and at(1/6)==pytest.approx(math.sqrt(.08))
    seen = []
    class Look(EM):
        def step(self, closure=None): seen.append(self.param_groups[0]['lr']); super().step()
    pc = circuit_of('chain', 0); x_bd, _ = brute.some_rows(pc, 40, rng(0))
    fit(pc, lambda rows: pc(x_bd[rows])[:, 0], 40, rng(0), epochs=2, batch=10, lr=(1., .1), make=Look, progress=False)
    assert seen==[cosine(1., .1)(i/7) for i in range(8)]

def test_learning_refuses(refuses):
    pc = circuit_of('chain', 2); x_bd, _ = brute.some_rows(pc, 10, rng(0))
    refuses(lambda: Anemone(pc, lambda: nothing_seen(pc), momentum=1.), 'momentum', '1')
    refuses(lambda: Anemone(pc, lambda: nothing_seen(pc), lr=0.), '0 < lr')
    unseen = torch.zeros_like(x_bd, dtype=torch.bool)                                     # inputs that see nothing pass nothing on
    (-pc(x_bd)[:, 0].sum()).backward()
    refuses(lambda: Anemone(pc, lambda: pc(x_bd, unseen)[0]).step(), 'reach', 'nothing_seen')
    class Counts(nn.Module):
        def __init__(self): super().__init__(); self.mu = nn.Parameter(torch.zeros(1))
        def em_step_(self, lr, pseudocount): pass
    refuses(lambda: on_logits(torch.optim.SGD, nn.ModuleList([pc, Counts()]), lr=.1).step(), 'Counts', 'em=False')
