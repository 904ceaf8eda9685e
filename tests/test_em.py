"""EM: counts by enumeration, monotone steps, tied leaves, accumulation, kill and resume."""
import copy, itertools, math
import pytest, torch
from torch import nn
import brute
from brute import KINDS, circuit_of, write_out
from pcdistill.circuit import Circuit
from pcdistill.core import rng
from pcdistill.em import EM, em_update_, fit
from pcdistill.inputs import Categorical, Evidence, known
from pcdistill.circuit import plan
from pcdistill.structure import chain, quad_tree, random_tree

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
    place, row = plan(tree).nodes.argsort(), torch.arange(len(tree.host))
    for i, above in enumerate(tree.parent):
        if above < 0:
            exact = torch.einsum('bz,zs,bk->sk', w_bz, state[:, i], nn.functional.one_hot(head_b, K).double())
            assert torch.allclose(pc.root_1sk.grad[0].double(), exact, atol=1e-4)
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
    for p, dim in ((pc.inputs.logp_dvs, 1), (pc.edges_est, 1), (pc.root_1sk, 1)):
        assert torch.allclose(p.exp().sum(dim), torch.ones(()).double(), atol=1e-9)

@everywhere
def test_step_is_the_formula(kind, seed):
    "A mini-batch step with a pseudocount against (1−η)w + η(F + α/n)/(ΣF + α), sum node by sum node."
    pc = circuit_of(kind, seed).double(); rows = rows_of(pc, 5, seed+70)
    lr, alpha = (.3, .2) if seed % 2 else (1., .5)
    (-log_prob(pc, *rows).sum()).backward()
    want = []
    for p in (pc.inputs.logp_dvs, pc.edges_est, pc.root_1sk):
        F, w = -p.grad, p.detach().exp(); n = p.shape[1]; total = F.sum(1, keepdim=True)
        want.append(torch.where(total > 0, (1-lr)*w + lr*(F+alpha/n)/(total+alpha), w))
    EM(pc, lr, alpha).step()
    for p, w in zip((pc.inputs.logp_dvs, pc.edges_est, pc.root_1sk), want): assert torch.allclose(p.exp(), w, atol=1e-12)

@pytest.mark.parametrize('kind', KINDS)
def test_sums_without_data_keep_their_weights(kind):
    pc = circuit_of(kind, 1); before = copy.deepcopy(pc)
    x_bd, seen_bd, _ = rows_of(pc, 5, 0); seen_bd[:] = False; seen_bd[:, 0] = True
    (-pc(x_bd, seen_bd)[:, 0].sum()).backward(); EM(pc, 1., .1).step()
    unseen = torch.arange(1, len(pc.tree.host))
    assert torch.equal(pc.inputs.logp_dvs[unseen], before.inputs.logp_dvs[unseen])
    assert torch.equal(pc.root_1sk[..., 1:], before.root_1sk[..., 1:])               # heads without rows
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
    p_z = joint.top(known(z_zn, K)).detach().double().exp()[:, 0]
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
    lp_bz = lp_bnk[:, torch.arange(3), z_zn].sum(-1) + joint.top(known(z_zn, K).double()).detach()[:, 0]
    q_bz = lp_bz.softmax(1)
    for k in range(K):                                      # how often is head k in use, at any position
        exact = sum(q_bz[:, z_zn[:, n]==k].sum() for n in range(3))
        assert torch.allclose(joint.leaf.root_1sk.grad[0, :, k].sum(), exact, atol=1e-9)

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
