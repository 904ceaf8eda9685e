"Normals against float64, finite differences and closed forms; EM, fits that were killed, components nobody uses."
import math
import pytest
import torch
from einops import rearrange
import pcdistill.normals as N
from pcdistill.core import Refused, rng
from pcdistill.data import images
from pcdistill.emission import Labelled
from pcdistill.masses import log_mass_normal
from pcdistill.normals import Normals, NormalsConfig, clustered, fit_mixture, fit_normals, start_
from pcdistill.patches import to_patches

def made(D=3, K=4, shapes=None, V=4, seed=0, **settings):
    e, g = Normals(K, D, V, shapes, **settings), rng(seed)
    with torch.no_grad():
        e.mu_gd += torch.randn(e.mu_gd.shape, generator=g)*V/4
        e.U_gde.copy_(torch.randn(e.U_gde.shape, generator=g)*.6)
        e.logs_kd.copy_(torch.randn(e.logs_kd.shape, generator=g)*.4 + math.log(V/5))
        e.share_k.copy_(torch.rand(K, generator=g).softmax(0))
    return e

def data(n=2000, D=3, seed=0):
    g = rng(seed)
    x = torch.randn(n, D, generator=g) @ torch.randn(D, D, generator=g)*torch.rand(n, 1, generator=g)*9
    return x + torch.randint(0, 2, (n, 1), generator=g)*9

def em_pass_(e, x, lr=1.):
    "One EM step as a mixture, by the density; the log-likelihood of the rows before it."
    lp_x = e.log_joint(x).logsumexp(1)
    (-lp_x.sum()).backward()
    e.em_step_(lr)
    return lp_x.sum().item()

def covariance(e):
    A = e.factor(torch.arange(e.n_heads), torch.arange(e.n_vars))
    return A @ A.mT

def mixture(e, x, density=True):
    return (e(x, density=density) + e.share_k.log()).logsumexp(1)

def patches(name, split, n, p):
    return rearrange(to_patches(images(name, split)[:n], p), 'b n d -> (b n) d')

def of_patches(x, n, shapes, epochs=2, ckpt=None, batch=80_000):
    e = Normals(n, x.shape[1], 256, shapes)
    g = rng(0)
    start_(e, x, clustered(x, shapes, g))
    return e, fit_mixture(e, x, g, epochs, batch, ckpt, False)

@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('shapes', [1, 2, 4])
def test_prefixes_are_marginals(shapes, seed):
    e, x = made(shapes=shapes, seed=seed), torch.cartesian_prod(*[torch.arange(4)]*3)
    with torch.no_grad():
        p_xk = e(x).exp()
        assert torch.allclose(p_xk.sum(0), torch.ones(4), atol=1e-5)
        for d in range(4):
            got = e(x, (torch.arange(3) < d).expand(64, 3)).exp()
            want = rearrange(p_xk, '(a r) k -> a r k', r=4**(3-d)).sum(1).repeat_interleave(4**(3-d), 0)
            assert torch.allclose(got, want, atol=1e-5)

def test_all_256_values():
    e = made(1, 3, V=256)
    with torch.no_grad():
        e.logs_kd.copy_(torch.tensor([.2, 5., 300.]).log()[:, None])
        assert torch.allclose(e(torch.arange(256)[:, None]).exp().sum(0), torch.ones(3), atol=1e-5)

def test_density_of_any_mask_is_the_submatrix_normal():
    e, g = made(5, 4, 2, seed=3), rng(1)
    x, seen = torch.randn(40, 5, generator=g)*3, torch.rand(40, 5, generator=g) < .5
    with torch.no_grad():
        lp, S = e(x, seen, density=True), covariance(e)
    for i in range(40):
        v = seen[i]
        for k in range(4):
            want = torch.zeros((), dtype=torch.double)
            if v.any():
                normal = torch.distributions.MultivariateNormal(e.mu_gd[k//2][v].double(), S[k][v][:, v])
                want = normal.log_prob(x[i, v].double())
            grain = torch.tensor(math.log(N.GRAIN) - int(v.sum())*math.log(4)).double()
            want = torch.logaddexp(want + math.log1p(-N.GRAIN), grain)
            assert abs(lp[i, k].item() - want.item()) < 1e-3

@pytest.mark.parametrize('name, p', [('digits', 8), ('photos', 4), ('photos', 8)])
def test_float32_against_float64_on_patches(name, p):
    e, _ = of_patches(patches(name, 'train', 400, p), 16, 4)
    y = patches(name, 'test', 30, p)
    e64 = Normals(**e.spec()).double()
    e64.load_state_dict(e.state_dict())
    with torch.no_grad():
        for density in (True, False):
            eps = torch.einsum('gde,xge->xgd', e64.unit(), y.double()[:, None] - e64.mu_gd)[:, e.shape_k]
            s = e64.logs_kd.exp()
            if density:
                want = torch.distributions.Normal(0., s).log_prob(eps).sum(-1)
            else:
                low, high = ((y==v)[:, None].expand_as(eps) for v in (0, 255))
                want = log_mass_normal(eps, s.expand_as(eps), low, high).sum(-1)
            want = torch.logaddexp(want + math.log1p(-N.GRAIN), torch.tensor(math.log(N.GRAIN) - y.shape[1]*math.log(256)).double())
            gap = mixture(e, y, density) - (want + e64.share_k.log()).logsumexp(1)
            assert gap.abs().max()/(y.shape[1]*math.log(2)) < 1e-4

@pytest.mark.parametrize('density', [True, False])
@pytest.mark.parametrize('sign', [1, -1])
def test_counts_from_backward_are_the_responsibilities(density, sign):
    e, x = made(V=20, shapes=2), torch.randint(0, 20, (200, 3), generator=rng(0))
    (sign*mixture(e, x, density)).sum().backward()
    with torch.no_grad():
        lp_xk = e(x, density=density)
        of_normal = 1 - (math.log(N.GRAIN) - 3*math.log(20) - lp_xk).exp()        # the rest is the uniform's
        gamma = (lp_xk + e.share_k.log()).softmax(1)*of_normal
        eps = torch.einsum('gde,xge->xgd', e.unit(), x[:, None] - e.mu_gd)
        one = torch.cat([torch.ones(200, 2, 1), eps], -1)[:, e.shape_k]
        assert torch.allclose(e.count, torch.einsum('xk,xka,xkb->kab', gamma, one, one), rtol=1e-3, atol=1e-2)
    assert all(p.grad is None for p in e.parameters())

@pytest.mark.parametrize('shapes', [1, 2, 4])
@pytest.mark.parametrize('seed', range(3))
def test_full_em_never_goes_down(shapes, seed):
    e, x, last = made(shapes=shapes, V=20, seed=seed, shrink=0., sheppard=False, s_min=1e-3), data(seed=seed), -math.inf
    for _ in range(15):
        now = em_pass_(e, x)/len(x)
        assert now > last - 1e-6*abs(now), (now, last)
        last = now

def test_one_step_of_one_normal_is_the_sample_moments():
    e, x = made(K=1, V=20, shrink=0., sheppard=False), data()
    em_pass_(e, x)
    assert torch.allclose(e.mu_gd[0], x.mean(0), atol=1e-3)
    assert torch.allclose(covariance(e)[0].float(), x.T.cov(correction=0), rtol=1e-3)
    before = [p.clone() for p in e.parameters()]
    e.em_step_()                                                 # no counts, no step
    assert all(torch.equal(p, q) for p, q in zip(before, e.parameters()))

def test_sheppards_correction_is_on_unless_told_otherwise():
    x = (10 + torch.randn(4000, 3, generator=rng(0))).round()
    def scale(**settings):
        e = made(K=1, V=20, shrink=0., **settings)
        em_pass_(e, x)
        return e.logs_kd.exp()**2
    assert torch.allclose(scale(sheppard=False) - scale(), torch.full((1, 3), 1/12), atol=1e-3)

@pytest.mark.parametrize('shapes', [1, 4])
def test_small_steps_stay_where_full_steps_settled(shapes):
    x = (data(4000)*.3).round()
    e = made(shapes=shapes, V=20, seed=1, shrink=40., s_min=.05)
    for _ in range(150):
        em_pass_(e, x)
    before, s = em_pass_(e, x)/len(x), e.logs_kd.exp()
    for _ in range(50):
        em_pass_(e, x, .2)
    assert abs(em_pass_(e, x)/len(x) - before) < 5e-3
    assert (e.logs_kd.exp() - s).abs().max() < .05*(1+s.max())

def test_few_rows_stay_sane():
    x = torch.randint(0, 256, (40, 12), generator=rng(0))
    x[:10] = 255
    e, _ = of_patches(x, 16, 8, epochs=5)
    with torch.no_grad():
        assert mixture(e, x).isfinite().all() and all(p.isfinite().all() for p in e.parameters())

def test_components_nobody_uses_stay_where_they_are_and_no_rows_are_no_error():
    e = made(V=20)
    mu, log_s = e.mu_gd.clone(), e.logs_kd.mean(1)
    e.accumulate(data().round(), torch.tensor([1., 1, 0, 0]).expand(2000, 4)/2)
    e.em_step_()
    assert all(p.isfinite().all() for p in e.parameters())
    assert torch.equal(e.mu_gd[2:], mu[2:]) and not torch.allclose(e.mu_gd[:2], mu[:2], atol=1e-2)
    assert (e.logs_kd.mean(1) - log_s)[2:].abs().max() < .5
    assert (e.share_k[2:]==0).all() and e(torch.zeros(0, 3)).shape==(0, 4)

def test_a_shape_with_one_dead_component_leaves_it_its_scale():
    "A component that nobody uses keeps its contrast to the others of its shape."
    e, x = made(V=20, shapes=2, shrink=40.), data().round()
    s = e.logs_kd.exp()
    gamma = torch.tensor([1., 0., 1., 1.]).expand(2000, 4)/3
    for _ in range(5):
        e.accumulate(x, gamma)
        e.em_step_()
    assert .2 < (e.logs_kd.exp()[1]/s[1]).log().mean().exp() < 5

def test_killed_and_resumed_is_the_same(tmp_path, monkeypatch):
    x = patches('photos', 'train', 60, 4)
    whole, h = of_patches(x, 8, 4, 4, None, 1000)
    calls, real = [], Normals.log_joint
    def dies(*a):
        calls.append(0)
        if len(calls) > len(x)//1000*2+1:
            raise KeyboardInterrupt
        return real(*a)
    monkeypatch.setattr(Normals, 'log_joint', dies)
    with pytest.raises(KeyboardInterrupt):
        of_patches(x, 8, 4, 4, tmp_path/'c.safetensors', 1000)
    monkeypatch.setattr(Normals, 'log_joint', real)
    again, h2 = of_patches(x, 8, 4, 4, tmp_path/'c.safetensors', 1000)
    assert h==h2 and all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values()))

@pytest.mark.parametrize('seed', range(4))
def test_components_far_behind_get_a_bound_and_the_others_are_exact(seed):
    "Narrow and wide scales, edges, rows far out; a component that nobody uses may be the best of all."
    g, e = rng(seed), Normals(24, 12, 256, 8)
    with torch.no_grad():
        e.mu_gd.copy_(255*torch.rand(8, 12, generator=g))
        e.U_gde.copy_(.3*torch.randn(8, 12, 12, generator=g))
        e.logs_kd.copy_(5*torch.rand(24, 12, generator=g) - 1.9)
        e.share_k.copy_(torch.rand(24, generator=g)**4)
        e.share_k[:6] = 0
        e.share_k /= e.share_k.sum()
        nothing = torch.zeros(200, 12, dtype=torch.long)
        drawn = e.draw(nothing, nothing > 0, torch.randint(24, (200,), generator=g), g)
        x = torch.cat([drawn.float(), torch.randint(256, (50, 12), generator=g).float(), torch.zeros(1, 12), torch.full((1, 12), 255.)])
        near = e.fast(x).double()
        e_xgd = N._residuals(e)(x)
        low, high = ((x==v)[:, None].expand(-1, 24, -1) for v in (0, 255))
        full = log_mass_normal(e_xgd[:, e.shape_k], e.logs_kd.exp().expand(len(x), -1, -1), low, high).sum(-1).double()
    best = full.gather(1, (full + e.share_k.log()).argmax(1, keepdim=True))
    exact = full > best - 40
    gap = (near - full)/(1 + full.abs())
    assert gap[exact].abs().max() < 1e-5 and gap.min() > -1e-4
    assert (near - best)[~exact].max() < 1e-3 and .05 < exact.double().mean() < .95
    both = [(t + e.share_k.log()).logsumexp(1) for t in (near, full)]
    assert ((both[0] - both[1])/(1 + both[1].abs())).abs().max() < 1e-5

def test_some_shapes_at_a_time_are_all_shapes_at_once(monkeypatch):
    "The pooled shape is of all of them."
    def fitted(at_once):
        monkeypatch.setattr(N, 'AT_ONCE', at_once)
        g = rng(0)
        e, x = Normals(24, 10, 256, 6), 128 + 30*torch.randn(300, 10, generator=g)
        for lr in (1., .4):
            e.accumulate(x, torch.rand(300, 24, generator=g).softmax(1))
            e.em_step_(lr, 1.)
        return e
    whole, parts = fitted(1 << 30), fitted(1)
    assert all(torch.allclose(p, q, rtol=1e-4, atol=1e-5) for p, q in zip(whole.state_dict().values(), parts.state_dict().values()))

def test_rows_are_fitted_in_the_order_in_which_they_are_scored():
    "Normals with a coding order are normals without one over sorted rows: at the start, in EM, as labels, as scores."
    x, order = patches('photos', 'train', 30, 2), [5, 0, 3, 1, 2, 4, 11, 7, 8, 10, 6, 9]
    z = clustered(x, 4, rng(0))
    def fitted(x, order):
        e = Normals(8, 12, 256, 4, order)
        start_(e, x, z)
        fit_mixture(e, x, rng(1), 2, progress=False)
        return e
    a, b = fitted(x, order), fitted(x[:, order], None)
    assert all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values()))
    with torch.no_grad():
        assert torch.equal(a(x), b(x[:, order])) and torch.equal(a.label(x), b.label(x[:, order]))
        assert not torch.allclose(a(x), b(x), atol=1.)

def test_refusals():
    e = made()
    with pytest.raises(Refused, match='3 variables'):
        e(torch.zeros(2, 4))
    with pytest.raises(Refused, match='mask of shape'):
        e(torch.zeros(2, 3), torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(Refused, match='divides'):
        Normals(5, 3, shapes=2)
    with pytest.raises(Refused, match='order'):
        Normals(5, 3, order=[0, 1, 1])
    with pytest.raises(Refused, match='one label a patch'):
        fit_normals(Labelled(torch.zeros(5, 3), torch.zeros(4).long(), 256, 2, 1), NormalsConfig(), rng(0), None, False)
