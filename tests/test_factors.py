"Factor analysers against dense normals, enumeration, float64 and plain EM; as a family of leaves."
import json, math
import pytest
import torch
from einops import rearrange
from torch.distributions import MultivariateNormal
from pcdistill.blocks import GaussianBlock
from pcdistill.circuit import Circuit
from pcdistill.colour import COLOURS
from pcdistill.core import Refused, rng
from pcdistill.data import images
from pcdistill.em import EM
from pcdistill.factors import FactorBlock, fit_factors, start_factors_
from pcdistill.inputs import Evidence
from pcdistill.joint import Joint, finetune, load_joint, save_joint
from pcdistill.leaf import LeafConfig, fit_leaf, leaf_from_spec, relabel
from pcdistill.patches import to_patches
from pcdistill.structure import binary_tree
from pcdistill.top import fit_top


def block(D=3, K=4, R=2, levels=4, seed=0, **kw):
    b, g = FactorBlock(K, D, R, levels, **kw), rng(seed)
    with torch.no_grad():
        b.mu_kd += torch.randn(b.mu_kd.shape, generator=g)*levels/4
        b.W_kdr.copy_(torch.randn(b.W_kdr.shape, generator=g)*levels/5)
        b.logs_kd.copy_(torch.randn(b.logs_kd.shape, generator=g)*.4 + math.log(levels/5))
        b.mass_k.copy_(torch.rand(K, generator=g).softmax(0))
    return b

def every_row(D, levels): return torch.cartesian_prod(*[torch.arange(levels)]*D).view(-1, D)

def data(n=2000, D=3, seed=0):
    g = rng(seed)
    return torch.randn(n, D, generator=g) @ torch.randn(D, D, generator=g)*torch.rand(n, 1, generator=g)*9 + torch.randint(0, 2, (n, 1), generator=g)*9

def mixture(b, x, *a, **kw): return (b(x, *a, **kw) + b.mass_k.log()).logsumexp(1)
def double(b):
    c = FactorBlock(**{k: v for k, v in b.spec().items() if k!='family'}).double(); c.load_state_dict(b.state_dict()); return c
def dense(b, k): return b.mu_kd[k].detach().double(), b.covariance(torch.tensor([k]))[0]
def as_gaussian(b): # the same normals, by their Cholesky factors
    c = GaussianBlock(b.n_heads, b.n_vars, b.levels, view=b.view); C = torch.linalg.cholesky(b.covariance()); s = C.diagonal(dim1=1, dim2=2)
    with torch.no_grad():
        c.mu_gd.copy_(b.mu_kd); c.logs_kd.copy_(s.log()); c.mass_k.copy_(b.mass_k)
        c.U_gde.copy_(s[..., None]*torch.linalg.inv(C))
    return c


@pytest.mark.parametrize('D, R, levels', [(2, 1, 6), (3, 1, 4), (3, 2, 5), (3, 0, 4), (3, 3, 4)])
def test_lattice_mass_and_prefixes(D, R, levels):
    b, x = block(D, 4, R, levels, seed=R), every_row(D, levels)
    with torch.no_grad():
        p = b.log_prob(x).exp()
        assert torch.allclose(p.sum(0), torch.ones(4), atol=1e-5)
        for d in range(D+1):
            prefix = b.log_prob(x, (torch.arange(D) < d).expand(len(x), D), 'lattice').exp()
            summed = rearrange(p, '(a r) k -> a r k', r=levels**(D-d)).sum(1).repeat_interleave(levels**(D-d), 0)
            assert torch.allclose(prefix, summed, atol=1e-5)

def test_all_256_values():
    b = block(1, 3, 1, levels=256)
    with torch.no_grad():
        b.logs_kd.copy_(torch.tensor([.2, 5., 300.]).log()[:, None]); b.W_kdr[0] = 0
        assert torch.allclose(b.log_prob(every_row(1, 256)).exp().sum(0), torch.ones(3), atol=1e-5)

@pytest.mark.parametrize('D, R', [(6, 2), (5, 4), (7, 1), (4, 0)])
def test_density_of_any_mask_is_the_submatrix_normal(D, R):
    b = block(D, 3, R, levels=20, seed=3); g = rng(1)
    x, seen = torch.randn(40, D, generator=g)*9, torch.rand(40, D, generator=g) < .5
    seen[0], seen[1] = False, True
    with torch.no_grad(): lp, lp64 = b(x, seen, 'density'), double(b)(x.double(), seen, 'density')
    for i in range(40):
        v = seen[i]
        for k in range(3):
            mu, S = dense(b, k)
            want = 0. if not v.any() else MultivariateNormal(mu[v], S[v][:, v]).log_prob(x[i, v].double()).item()
            assert abs(lp64[i, k].item() - want) < 1e-9*(1+abs(want)) and abs(lp[i, k].item() - want) < 1e-4*(1+abs(want))

def test_hidden_values_may_be_anything():
    b, x = block(levels=20), torch.randint(0, 20, (6, 3)).float()
    seen = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 0, 0], [0, 1, 1], [0, 1, 0], [1, 0, 1]]).bool()
    bad = torch.where(seen, x, torch.tensor(math.nan))
    with torch.no_grad():
        lp = b(x, seen)
        assert torch.equal(lp[:3], b(x[:3], seen[:3], 'lattice')) and torch.allclose(lp[3:], b(x[3:], seen[3:], 'density')) and (lp[2]==0).all()
        assert torch.equal(b(bad, seen), lp)
    mixture(b, bad, seen).sum().backward(); b.em_step_()
    assert all(p.isfinite().all() for p in b.parameters())
    b.em = False; mixture(b, bad, seen).sum().backward()
    assert all(p.grad.isfinite().all() for p in b.parameters())
    with pytest.raises(Refused, match='prefix'): b(x, seen, 'lattice')

@pytest.mark.parametrize('D, R', [(90, 5), (70, 40), (33, 1)])
def test_the_filter_is_the_triangular_factor(D, R): # several runs of variables
    b = block(D, 3, R, levels=256, seed=1); c = as_gaussian(b)
    x = torch.randint(0, 256, (50, D), generator=rng(0)); until = torch.arange(50)*D//49
    seen = torch.arange(D) < until[:, None]
    with torch.no_grad():
        for view in ('lattice', 'density'): assert torch.allclose(b(x, None, view), c(x, None, view), rtol=2e-5, atol=1e-2)
        assert torch.allclose(b(x, seen), c(x, seen), rtol=2e-5, atol=1e-2)

def test_float32_against_float64_on_patches():
    rows = lambda split, n: rearrange(to_patches(images('photos', split)[:n], 16), 'b n d -> (b n) d')
    x, y = rows('train', 1000), rows('test', 40); assert x.shape[1]==768
    b, _ = fit_factors(x, None, 4, 24, rng(0), epochs=3, progress=False); b64 = double(b)
    some = torch.rand(y.shape, generator=rng(1)) < .5
    with torch.no_grad():
        for view, seen in (('density', None), ('lattice', None), ('density', some)):
            gap = (b(y, seen, view)+b.mass_k.log()).logsumexp(1) - (b64(y, seen, view)+b64.mass_k.log()).logsumexp(1)
            assert gap.abs().max()/(768*math.log(2)) < 2e-5


# --- EM

def plain_counts(b, x, gamma, seen=None): # E-step with dense conditionals of (z, x hidden) given x seen, float64
    K, D, R = b.W_kdr.shape
    C, S, t = torch.zeros(K, D, R+1).double(), torch.zeros(K, R+1, R+1).double(), torch.zeros(K, D).double()
    for k in range(K):
        mu, Sigma = dense(b, k); W = b.W_kdr[k].detach().double(); eye = torch.eye(R).double()
        joint = torch.cat([torch.cat([eye, W.T], 1), torch.cat([W, Sigma], 1)]) # of (z, x)
        for i, row in enumerate(x.double()):
            v = torch.ones(D, dtype=torch.bool) if seen is None else seen[i]
            at = torch.cat([torch.zeros(R, dtype=torch.bool), v])
            gain = joint[:, at] @ torch.linalg.inv(joint[at][:, at])
            mean, cov = gain @ (row[v]-mu[v]), joint - gain @ joint[at]
            A = torch.cat([-W, torch.eye(D).double()], 1)    # δ = x − μ − Wz
            E = torch.cat([torch.zeros(1, R+D).double(), torch.cat([eye, torch.zeros(R, D).double()], 1)]) # z̃ without its one
            one = torch.zeros(R+1).double(); one[0] = 1
            d, z, w = A @ mean, E @ mean + one, gamma[i, k].double()
            C[k] += w*(torch.outer(d, z) + A @ cov @ E.T); S[k] += w*(torch.outer(z, z) + E @ cov @ E.T)
            t[k] += w*(d*d + (A @ cov @ A.T).diagonal())
    return C, S, t

@pytest.mark.parametrize('holes', [False, True])
@pytest.mark.parametrize('sign', [1, -1])
def test_counts_from_backward_are_those_of_dense_em(holes, sign):
    b, g = block(4, 3, 2, levels=20, view='density', sheppard=False), rng(0)
    x, seen = torch.randint(0, 20, (60, 4), generator=g), torch.rand(60, 4, generator=g) < .6 if holes else None
    (sign*mixture(b, x, seen)).sum().backward()
    with torch.no_grad(): gamma = (b(x, seen) + b.mass_k.log()).softmax(1)
    for got, want in zip(b.stats, plain_counts(b, x, gamma, seen)): assert torch.allclose(got, want, rtol=1e-4, atol=1e-3*want.abs().max())
    assert all(p.grad is None for p in b.parameters())

def test_m_step_is_ghahramani_and_hintons_before_the_factors_are_standardised():
    b, x = block(4, 1, 2, levels=20, view='density', sheppard=False, shrink=0., s_min=1e-3), data(500, 4)
    mu, Sigma = dense(b, 0); W = b.W_kdr[0].detach().double(); e = x.double() - mu
    beta = W.T @ torch.linalg.inv(Sigma)
    z = torch.cat([torch.ones(500, 1).double(), e @ beta.T], 1)
    zz = z.T @ z; zz[1:, 1:] += 500*(torch.eye(2).double() - beta @ W)
    L = x.double().T @ z @ torch.linalg.inv(zz)                                     # their [μ Λ], from x itself
    psi = (x.double().square().sum(0) - (L*(x.double().T @ z)).sum(1))/500
    b(x).sum().backward(); b.em_step_()
    m, V = (zz/500)[1:, 0], (zz/500)[1:, 1:]
    assert torch.allclose(b.mu_kd[0].double(), L[:, 0] + L[:, 1:] @ m, atol=1e-3)
    assert torch.allclose((2*b.logs_kd[0]).exp().double(), psi, rtol=1e-3)
    assert torch.allclose((b.W_kdr[0] @ b.W_kdr[0].T).double(), L[:, 1:] @ (V - torch.outer(m, m)) @ L[:, 1:].T, rtol=1e-3, atol=1e-2)

@pytest.mark.parametrize('holes', [False, True])
@pytest.mark.parametrize('R', [0, 1, 2, 4])
@pytest.mark.parametrize('seed', range(2))
def test_full_em_never_goes_down(R, holes, seed):
    b, last = block(5, 3, R, levels=20, seed=seed, view='density', shrink=0., sheppard=False, s_min=1e-3), -math.inf
    x = data(1500, 5, seed); seen = torch.rand(x.shape, generator=rng(seed)) < .7 if holes else None
    for _ in range(20):
        lp = mixture(b, x, seen); lp.sum().backward(); b.em_step_()
        now = lp.double().mean().item()
        assert now > last - 1e-6*abs(now), (now, last)
        last = now

def test_rank_one_less_than_the_variables_reaches_the_full_covariance():
    x = data(3000, 4)
    b = FactorBlock(1, 4, 3, 20, 'density', shrink=0., sheppard=False, s_min=1e-3); start_factors_(b, x, torch.zeros(3000).long(), rng(0))
    c = GaussianBlock(1, 4, 20, view='density', shrink=0., sheppard=False)
    for _ in range(200): b(x).sum().backward(); b.em_step_()
    c(x).sum().backward(); c.em_step_()
    with torch.no_grad(): best, got = c(x).mean(), b(x).mean()
    assert best - 5e-3 < got < best + 1e-3
    assert torch.allclose(b.covariance(), c.covariance(), atol=.02*float(c.covariance().diagonal(dim1=1, dim2=2).max()))

def test_factors_are_found():
    g = rng(0); W, s = torch.randn(30, 3, generator=g)*5, torch.rand(30, generator=g)*2 + .5
    x = torch.randn(20_000, 3, generator=g) @ W.T + torch.randn(20_000, 30, generator=g)*s + 50
    b, _ = fit_factors(x, None, 1, 3, rng(1), epochs=10, progress=False, levels=100, shrink=0., sheppard=False)
    assert torch.allclose(b.logs_kd[0].exp(), s, rtol=.05)
    assert ((b.W_kdr[0] @ b.W_kdr[0].T - W @ W.T).norm()/(W @ W.T).norm()) < .05

def test_holes_at_random_teach_the_same_normal():
    x = data(6000, 4); x = (x - x.mean(0))*torch.tensor([1., 1, 1, 1]); whole, holes = (FactorBlock(1, 4, 2, 20, 'density', shrink=0., sheppard=False) for _ in range(2))
    z = torch.zeros(6000).long(); seen = torch.rand(x.shape, generator=rng(3)) < .7
    for b, m in ((whole, None), (holes, seen)):
        start_factors_(b, x, z, rng(0)); b.mu_kd.data += 3
        for _ in range(60): b(x if m is None else torch.where(m, x, math.nan), m).sum().backward(); b.em_step_()
    scale = float(whole.covariance().diagonal(dim1=1, dim2=2).max())
    assert torch.allclose(whole.covariance(), holes.covariance(), atol=.08*scale) and torch.allclose(whole.mu_kd, holes.mu_kd, atol=.08*scale**.5)

def test_gradients_in_both_views_match_finite_differences():
    x, seen = torch.randint(0, 6, (5, 3), generator=rng(0)), torch.tensor([True, False, True]).expand(5, 3)
    for view, mask in (('density', None), ('lattice', None), ('density', seen)):
        b = double(block(levels=6)); b.em = False
        mixture(b, x, mask, view=view).sum().backward()
        for p in b.parameters():
            i = (1, 2, 0)[:p.dim()]
            with torch.no_grad():
                old, h = p[i].item(), 1e-4
                p[i] = old+h; up = mixture(b, x, mask, view=view).sum(); p[i] = old-h; down = mixture(b, x, mask, view=view).sum(); p[i] = old
            assert abs((up-down)/(2*h) - p.grad[i]) < 1e-4*(1+p.grad[i].abs())

def test_torch_optimizer_learns_and_chunks_do_not_matter():
    b, x = block(levels=20), data().round().clamp(0, 19); b.em = False
    opt = torch.optim.Adam(b.parameters(), 3e-2); first = None
    for _ in range(30):
        opt.zero_grad(); loss = -mixture(b, x).mean(); loss.backward(); opt.step(); first = first or loss.item()
    assert loss < first - .1
    import pcdistill.factors as F
    with torch.no_grad(): whole = b(x)
    old = F._chunked.__defaults__
    F._chunked.__defaults__ = (100,)
    try:
        assert torch.allclose(b(x), whole, atol=1e-4); opt.zero_grad(); (-mixture(b, x).mean()).backward(); part = b.W_kdr.grad.clone()
    finally: F._chunked.__defaults__ = old
    opt.zero_grad(); (-mixture(b, x).mean()).backward()
    assert torch.allclose(part, b.W_kdr.grad, atol=1e-5)

def test_few_rows_stay_sane():
    x = torch.randint(0, 256, (40, 12), generator=rng(0)); x[:10] = 255
    b, _ = fit_factors(x, None, 16, 5, rng(0), epochs=5, progress=False)
    with torch.no_grad(): lp = mixture(b, x)
    assert lp.isfinite().all() and all(p.isfinite().all() for p in b.parameters())

def test_small_steps_stay_where_full_steps_settled():
    g = rng(0); x = (torch.randn(4000, 2, generator=g) @ torch.randn(2, 6, generator=g)*4 + torch.randn(4000, 6, generator=g)*torch.arange(1, 7)/2 + 9*torch.randint(0, 2, (4000, 1), generator=g)).round()
    b = block(6, 2, 2, levels=20, seed=1, view='density', shrink=40., s_min=.05)
    for _ in range(300): b.em_pass_(x, 1.)
    before, s = b.em_pass_(x, 1.)/len(x), b.logs_kd.exp()
    for _ in range(50): b.em_pass_(x, .2)
    assert abs(b.em_pass_(x, 1.)/len(x) - before) < 5e-3
    assert (b.logs_kd.exp() - s).abs().max() < .05*(1+s.max())

def test_dead_components_and_no_rows():
    b = block(levels=20); before = b.mu_kd.clone()
    b.accumulate(data().round(), torch.tensor([1., 1, 0, 0]).expand(2000, 4)/2); b.em_step_()
    assert torch.equal(b.mu_kd[2:], before[2:]) and all(p.isfinite().all() for p in b.parameters()) and (b.mass_k[2:]==0).all()
    before = [p.clone() for p in b.parameters()]; b.em_step_()
    assert all(torch.equal(p, q) for p, q in zip(before, b.parameters()))
    for seen in (None, torch.zeros(0, 3, dtype=torch.bool)): assert b(torch.zeros(0, 3), seen).shape==(0, 4)

def test_killed_and_resumed_is_the_same(tmp_path):
    x = rearrange(to_patches(images('photos', 'train')[:60], 4), 'b n d -> (b n) d')
    run = lambda epochs, ckpt: fit_factors(x, None, 8, 6, rng(0), epochs=epochs, batch=300, ckpt=ckpt, progress=False)
    whole, h = run(4, None)
    old, calls = FactorBlock.em_pass_, []
    def dies(self, *a, **k):
        calls.append(0)
        if len(calls) > round(len(x)/300)*2+1: raise KeyboardInterrupt
        return old(self, *a, **k)
    FactorBlock.em_pass_ = dies
    try:
        with pytest.raises(KeyboardInterrupt): run(4, tmp_path/'c.safetensors')
    finally: FactorBlock.em_pass_ = old
    again, h2 = run(4, tmp_path/'c.safetensors')
    assert h==h2 and all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values()))


# --- questions

@pytest.mark.parametrize('mask', [[1, 0, 1, 0, 0], [0, 0, 0, 0, 0], [0, 1, 1, 1, 1]])
def test_conditionals_are_the_dense_ones(mask):
    b, x, v = double(block(5, 3, 2, levels=20, seed=2)), torch.randn(4, 5, generator=rng(0)).double()*9, torch.tensor(mask).bool()
    mean, var = b.conditional(x, v)
    for k in range(3):
        mu, S = dense(b, k)
        gain = S[~v][:, v] @ torch.linalg.inv(S[v][:, v])
        assert torch.allclose(mean[:, k, ~v], mu[~v] + (x[:, v]-mu[v]) @ gain.T) and torch.equal(mean[:, k, v], x[:, v])
        assert torch.allclose(var[k, ~v], (S[~v][:, ~v] - gain @ S[v][:, ~v]).diagonal()) and (var[k, v]==0).all()
    some, _ = b.conditional(x, v, torch.tensor([2, 0])); assert torch.allclose(some, mean[:, [2, 0]])

def test_samples_of_the_lattice_have_its_frequencies():
    b, n = block(seed=5, R=1), 40_000
    p = b.log_prob(every_row(3, 4))[:, 3].exp().detach()
    base = torch.tensor([16., 4., 1.])
    freq = torch.bincount((b.sample(torch.full((n,), 3), rng(0)) @ base).long(), minlength=64)/n
    assert ((freq-p).abs() < 4*(p*(1-p)/n).sqrt() + 1e-5).all()
    row, seen = torch.tensor([[2, 0, 0]]), torch.tensor([[True, False, False]])
    at = (b.fill(row.repeat(n, 1), seen.repeat(n, 1), torch.full((n,), 3), rng(0)).float() @ base).long()
    q = torch.where(every_row(3, 4)[:, 0]==2, p, 0); q = q/q.sum(); freq = torch.bincount(at, minlength=64)/n
    assert ((freq-q).abs() < 4*(q*(1-q)/n).sqrt() + 1e-5).all()

@pytest.mark.parametrize('mask', [[0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
def test_draws_have_the_conditionals_moments(mask):
    b, n, v = block(4, 3, 2, levels=60, seed=4), 40_000, torch.tensor(mask).bool()
    row = torch.tensor([[20., 33., 0., 0.]])
    x = b.fill(row.repeat(n, 1), v.repeat(n, 1), torch.ones(n).long(), rng(0), integers=False)
    mu, S = dense(b, 1); gain = S[~v][:, v] @ torch.linalg.inv(S[v][:, v])
    mean, cov = mu[~v] + gain @ (row[0, v].double()-mu[v]), S[~v][:, ~v] - gain @ S[v][:, ~v]
    h = x[:, ~v].double(); got = h.T.cov(correction=0).reshape(len(cov), -1)
    assert ((h.mean(0)-mean).abs() < 4*(cov.diagonal()/n).sqrt()).all() and torch.equal(x[:, v], row[:, v].repeat(n, 1))
    assert ((got-cov).abs() < 4*((cov**2 + torch.outer(cov.diagonal(), cov.diagonal()))/n).sqrt()).all()

def test_moments_are_those_of_draws():
    b, n = block(seed=5, levels=20), 30_000
    row, seen = torch.tensor([[12, 0, 9]]), torch.tensor([[True, False, True]])
    w = torch.tensor([[.5, .2, .3, 0.]])
    mean, H = b.moments(row, seen, w)
    z = torch.multinomial(w[0], n, True, generator=rng(0))
    v = b.fill(row.repeat(n, 1), seen.repeat(n, 1), z, rng(1))[:, 1]
    f = torch.bincount(v, minlength=20)/n
    assert abs(H[0, 1] - torch.special.entr(f).sum()) < .01 and H[0, 0]==H[0, 2]==0
    assert abs(mean[0, 1] - v.float().mean()) < .1 and mean[0, 0]==12


# --- as an input of a circuit

@pytest.mark.parametrize('holes', [False, True])
def test_em_through_a_circuit_climbs_and_counts_every_patch(holes):
    g = rng(0); x = rearrange(data(300, 12, seed=2), 'b (n d) -> b n d', n=4)
    b = block(3, 4, 1, levels=20, view='density', shrink=0., sheppard=False, s_min=1e-2)
    top = Circuit(binary_tree(4), Evidence(4, 4), 1, g)
    seen = torch.rand(300, 4, 3, generator=g) < .8 if holes else torch.ones(300, 4, 3, dtype=torch.bool)
    flat = lambda t: rearrange(t, 'b n d -> (b n) d')
    both = torch.nn.ModuleList([b, top]); em, last = EM(both), -math.inf
    for _ in range(12):
        lp = top(rearrange(b(flat(x[:300]), flat(seen) if holes else None), '(b n) k -> b n k', n=4))[:, 0]
        (-lp.sum()).backward()
        assert abs(float(b.stats[1][:, 0, 0].sum()) - 1200) < 1
        em.step(); now = lp.double().mean().item()
        assert now > last - 1e-5*abs(now); last = now
    assert b.stats is None

def test_a_joint_model_takes_it_as_its_leaf():
    x, g = images('photos', 'train', 300), rng(0)
    leaf, _ = fit_factors(rearrange(to_patches(x, 8), 'b n d -> (b n) d'), None, 6, 4, g, epochs=2, progress=False)
    joint = Joint(leaf, Circuit(binary_tree(4), Evidence(4, 6), 1, g), COLOURS['rgb'], 8, (3, 16, 16))
    history = finetune(joint, x, g, epochs=4, batch=300, lr=(1., 1.), progress=False)
    assert history[-1] > history[0] and leaf.stats is None
    seen = torch.rand(5, 16, 16, generator=g) < .5; seen[0] = True; seen[1] = False
    with torch.no_grad(): assert (joint(x[:5], seen)[1]).abs() < 1e-4 and torch.equal(joint(x[:5], seen)[0], joint(x[:1])[0])
    mean, H = joint.moments(x[:5], seen); new = joint.fill(x[:5], seen, g); assert mean.isfinite().all() and (H[seen]==0).all()
    assert (new == x[:5])[seen[:, None].expand(-1, 3, -1, -1)].all() and joint.sample(3, g).shape==(3, 3, 16, 16)

def test_refusals():
    b = block()
    with pytest.raises(Refused, match='3 variables'): b(torch.zeros(2, 4))
    with pytest.raises(Refused, match='mask of shape'): b(torch.zeros(2, 3), torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(Refused, match='view'): b(torch.zeros(2, 3), view='exact')
    with pytest.raises(Refused, match='factors'): FactorBlock(5, 3, 4)
    with pytest.raises(Refused, match='one label a row'): fit_factors(torch.zeros(5, 3), torch.zeros(4).long(), 2, 1, rng(0), progress=False)

def test_spec_makes_the_same_kind():
    b = block(); spec = b.spec(); assert spec.pop('family')=='factors'
    c = FactorBlock(**spec); c.load_state_dict(b.state_dict()); x = every_row(3, 4)
    with torch.no_grad(): assert torch.equal(b(x), c(x))

@pytest.mark.parametrize('rank', [0, 4])
def test_a_family_of_leaves(rank):
    x, g = images('photos', 'train', 200), rng(0); y = rearrange(to_patches(x, 4), 'b n d -> (b n) d').long()
    z = torch.randint(0, 5, (len(y),), generator=g); config = LeafConfig('factors', epochs=2, rank=rank, shrink=20.)
    leaf, history = fit_leaf(y, z, 256, 5, config, rng(1), progress=False); own = relabel(leaf, y, z)
    assert isinstance(leaf, FactorBlock) and (leaf.n_heads, leaf.rank, leaf.shrink)==(5, rank, 20.) and len(history)==2 and history[1] > history[0]
    with torch.no_grad(): lp = leaf(y, view='density') + leaf.mass_k.log(); assert torch.equal(own, lp.argmax(1)) and not torch.equal(own, z)
    again = leaf_from_spec(json.loads(json.dumps(leaf.spec()))); again.load_state_dict(leaf.state_dict())
    with torch.no_grad(): assert type(again) is FactorBlock and torch.equal(again(y[:50]), leaf(y[:50]))
    repeat, _ = fit_leaf(y, z, 256, 5, config, rng(1), progress=False); assert all(torch.equal(p, q) for p, q in zip(leaf.parameters(), repeat.parameters()))

def test_a_joint_model_of_factors_is_saved_and_loaded(tmp_path):
    x, g = images('photos', 'train', 120), rng(0); y_bnd = to_patches(x, 8).long()
    z = torch.randint(0, 4, y_bnd.shape[:2], generator=g); config = LeafConfig('factors', epochs=3, rank=3, shrink=20.)
    leaf, _ = fit_leaf(y_bnd.flatten(0, 1), z.flatten(), 256, 4, config, rng(1), progress=False)
    joint = Joint(leaf, fit_top(relabel(leaf, y_bnd.flatten(0, 1), z.flatten()).view(z.shape), 4), COLOURS['rgb'], 8, (3, 16, 16))
    save_joint(joint, tmp_path/'j.safetensors'); back = load_joint(tmp_path/'j.safetensors')
    with torch.no_grad(): assert isinstance(back.leaf, FactorBlock) and torch.equal(back(x[:9]), joint(x[:9]))

def test_leaves_of_factors_refuse(refuses):
    y, z = torch.zeros(10, 4).long(), torch.zeros(10).long()
    refuses(lambda: fit_leaf(y, z, 511, 2, LeafConfig('factors', rank=2), rng(0), progress=False), '256 levels', '511')
    refuses(lambda: fit_leaf(y, z, 256, 2, LeafConfig('factors', rank=2, scales=3), rng(0), progress=False), 'one component a label', '3 scales')
    refuses(lambda: fit_leaf(y, z, 256, 2, LeafConfig('factors', rank=5), rng(0), progress=False), 'between 0 and 4 factors')
    refuses(lambda: fit_leaf(y, z, 256, 2, LeafConfig('normals'), rng(0), progress=False), 'hclt, gaussian or factors')
