"Gaussian blocks against enumeration, float64 and closed forms."
import math
import pytest
import torch
from einops import rearrange
from pcdistill.blocks import GaussianBlock, fit_blocks, start_blocks_
from pcdistill.masses import log_mass_normal
import pcdistill.block_queries # fill, moments, conditionals
from pcdistill.core import Refused, rng
from pcdistill.data import images
from pcdistill.patches import to_patches


def block(D=3, K=4, bodies=None, levels=4, seed=0, **kw):
    b, g = GaussianBlock(K, D, levels, bodies, **kw), rng(seed)
    with torch.no_grad():
        b.mu_gd += torch.randn(b.mu_gd.shape, generator=g)*levels/4
        b.U_gde.copy_(torch.randn(b.U_gde.shape, generator=g)*.6)
        b.logs_kd.copy_(torch.randn(b.logs_kd.shape, generator=g)*.4 + math.log(levels/5))
        b.mass_k.copy_(torch.rand(K, generator=g).softmax(0))
    return b

def every_row(D, levels): return torch.cartesian_prod(*[torch.arange(levels)]*D).view(-1, D)

def data(n=2000, D=3, seed=0):
    g = rng(seed)
    return torch.randn(n, D, generator=g) @ torch.randn(D, D, generator=g)*torch.rand(n, 1, generator=g)*9 + torch.randint(0, 2, (n, 1), generator=g)*9

def mixture(b, x, **kw): return (b(x, **kw) + b.mass_k.log()).logsumexp(1)


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('bodies', [1, 2, 4])
def test_lattice_mass_and_prefixes(bodies, seed):
    b, x = block(bodies=bodies, seed=seed), every_row(3, 4)
    with torch.no_grad():
        p = b.log_prob(x).exp()
        assert torch.allclose(p.sum(0), torch.ones(4), atol=1e-5)
        for d in range(4):
            prefix = b.log_prob(x, (torch.arange(3) < d).expand(64, 3), 'lattice').exp()
            summed = rearrange(p, '(a r) k -> a r k', r=4**(3-d)).sum(1).repeat_interleave(4**(3-d), 0)
            assert torch.allclose(prefix, summed, atol=1e-5)

def test_all_256_values():
    b = block(1, 3, levels=256)
    with torch.no_grad():
        b.logs_kd.copy_(torch.tensor([.2, 5., 300.]).log()[:, None])
        assert torch.allclose(b.log_prob(every_row(1, 256)).exp().sum(0), torch.ones(3), atol=1e-5)

def test_density_of_any_mask_is_the_submatrix_normal():
    b = block(5, 4, 2, seed=3); g = rng(1)
    x, seen = torch.randn(40, 5, generator=g)*3, torch.rand(40, 5, generator=g) < .5
    lp, S = b.log_prob(x, seen, 'density'), b.covariance()
    for i in range(40):
        v = seen[i]
        for k in range(4):
            want = 0. if not v.any() else torch.distributions.MultivariateNormal(b.mu_gd[k//2][v].double(), S[k][v][:, v]).log_prob(x[i, v].double()).item()
            assert abs(lp[i, k].item() - want) < 1e-3
    whole = torch.ones_like(seen)
    assert torch.allclose(b.log_prob(x, None, 'density'), b._marginal(x, whole[0]), atol=1e-3)

def test_auto_takes_the_lattice_where_it_can():
    b, x = block(levels=20), torch.randint(0, 20, (6, 3))
    seen = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 0, 0], [0, 1, 1], [0, 1, 0], [1, 0, 1]]).bool()
    with torch.no_grad():
        lp = b(x, seen)
        assert torch.equal(lp[:3], b(x[:3], seen[:3], 'lattice')) and torch.equal(lp[3:], b(x[3:], seen[3:], 'density'))
        assert (lp[2]==0).all()
    with pytest.raises(Refused, match='prefix'): b(x, seen, 'lattice')

def test_log_mass_normal_far_out_value_and_gradients():
    e = torch.linspace(-300, 300, 2401)[None].expand(6, -1).clone().requires_grad_()
    s = torch.tensor([.05, .15, 1., 7., 60., 300.])[:, None].expand(6, 2401).clone().requires_grad_()
    no = torch.zeros(6, 2401, dtype=torch.bool)
    for low, high in ((no, no), (~no, no), (no, ~no)):
        lp = log_mass_normal(e, s, low, high); grads = torch.autograd.grad(lp.sum(), [e, s])
        d, t = (v.detach().double().requires_grad_() for v in (e, s))
        if low.any(): ref = torch.special.log_ndtr((d+.5)/t)
        elif high.any(): ref = torch.special.log_ndtr(-(d-.5)/t)
        else:
            m = d.abs(); a, b = (torch.special.log_ndtr(-(m+h)/t) for h in (-.5, .5)); ref = a + torch.log1p(-(b-a).exp())
        refs = torch.autograd.grad(ref.sum(), [d, t])
        assert ((lp-ref)/(1+ref.abs())).abs().max() < 1e-4
        for got, want in zip(grads, refs):
            assert got.isfinite().all()
            ok = want.isfinite() & (e.abs() > .01)
            assert ((got-want)/(1+want.abs())).abs()[ok].max() < 5e-3

@pytest.mark.parametrize('name, p', [('digits', 8), ('photos', 4), ('photos', 8)])
def test_float32_against_float64_on_patches(name, p):
    x = rearrange(to_patches(images(name, 'train')[:400], p), 'b n d -> (b n) d')
    b, _ = fit_blocks(x, None, 16, rng(0), bodies=4, epochs=2, progress=False)
    y = rearrange(to_patches(images(name, 'test')[:30], p), 'b n d -> (b n) d')
    b64 = GaussianBlock(**{k: v for k, v in b.spec().items() if k!='family'}).double(); b64.load_state_dict(b.state_dict())
    with torch.no_grad():
        for view in ('density', 'lattice'):
            e = torch.einsum('gde,xge->xgd', b64.tri(), y.double()[:, None] - b64.mu_gd)
            e, s = e[:, b.body_k], b64.logs_kd.exp()
            if view=='density': ref = torch.distributions.Normal(0., s).log_prob(e).sum(-1)
            else: ref = log_mass_normal(e, s.expand_as(e), (y==0)[:, None].expand_as(e), (y==255)[:, None].expand_as(e)).sum(-1)
            gap = (b.log_prob(y, None, view)+b.mass_k.log()).logsumexp(1) - (ref+b64.mass_k.log()).logsumexp(1)
            assert gap.abs().max()/(y.shape[1]*math.log(2)) < 1e-4

@pytest.mark.parametrize('view', ['density', 'lattice'])
@pytest.mark.parametrize('sign', [1, -1])
def test_counts_from_backward_are_the_responsibilities(view, sign):
    b, x = block(levels=20, bodies=2), torch.randint(0, 20, (200, 3), generator=rng(0))
    (sign*mixture(b, x, view=view)).sum().backward()
    with torch.no_grad():
        gamma = (b.log_prob(x, None, view) + b.mass_k.log()).softmax(1)
        t = b.logs_kd.view(2, 2, 3).mean(1).exp()
        eps = torch.einsum('gde,xge->xgd', b.tri(), x[:, None] - b.mu_gd)/t
        one = torch.cat([torch.ones(200, 2, 1), eps], -1)[:, b.body_k]
        assert torch.allclose(b.stats, torch.einsum('xk,xka,xkb->kab', gamma, one, one), rtol=1e-3, atol=1e-2)
    assert all(p.grad is None for p in b.parameters())

@pytest.mark.parametrize('bodies', [1, 2, 4])
@pytest.mark.parametrize('seed', range(3))
def test_full_em_never_goes_down(bodies, seed):
    b, x, last = block(bodies=bodies, levels=20, seed=seed, view='density', shrink=0., sheppard=False, s_min=1e-3), data(seed=seed), -math.inf
    for _ in range(15):
        lp = mixture(b, x); lp.sum().backward(); b.em_step_()
        now = lp.double().mean().item()
        assert now > last - 1e-6*abs(now), (now, last)
        last = now

def test_one_step_of_one_normal_is_the_sample_moments():
    b, x = block(K=1, levels=20, view='density', shrink=0., sheppard=False), data()
    b(x).sum().backward(); b.em_step_()
    assert torch.allclose(b.mu_gd[0], x.mean(0), atol=1e-3)
    assert torch.allclose(b.covariance()[0].float(), x.T.cov(correction=0), rtol=1e-3)
    before = [p.clone() for p in b.parameters()]; b.em_step_()
    assert all(torch.equal(p, q) for p, q in zip(before, b.parameters()))

def test_gradients_in_both_views_match_finite_differences():
    x = torch.randint(0, 6, (5, 3), generator=rng(0))
    for view in ('density', 'lattice'):
        b = block(levels=6, bodies=2); b.em = False
        mixture(b, x, view=view).sum().backward()
        for p in b.parameters():
            i = (0, 0) if p.dim()==2 else (1, 2, 0)
            with torch.no_grad():
                old, h = p[i].item(), 1e-2
                p[i] = old+h; up = mixture(b, x, view=view).sum(); p[i] = old-h; down = mixture(b, x, view=view).sum(); p[i] = old
            assert abs((up-down)/(2*h) - p.grad[i]) < 2e-2*(1+p.grad[i].abs())

def test_torch_optimizer_learns_and_chunks_do_not_matter():
    b, x = block(levels=20), data().round().clamp(0, 19); b.em = False
    opt = torch.optim.Adam(b.parameters(), 3e-2); first = None
    for _ in range(30):
        opt.zero_grad(); loss = -mixture(b, x).mean(); loss.backward(); opt.step(); first = first or loss.item()
    assert loss < first - .1
    with torch.no_grad(): assert torch.allclose(b(x), torch.cat([b(r) for r in x.split(7)]), atol=1e-4)

def test_few_rows_stay_sane():
    x = torch.randint(0, 256, (40, 12), generator=rng(0)); x[:10] = 255
    b, _ = fit_blocks(x, None, 16, rng(0), bodies=8, epochs=5, progress=False)
    with torch.no_grad(): lp = mixture(b, x)
    assert lp.isfinite().all() and all(p.isfinite().all() for p in b.parameters())

@pytest.mark.parametrize('bodies', [1, 4])
def test_small_steps_stay_where_full_steps_settled(bodies):
    x = (data(4000)*.3).round()
    b = block(bodies=bodies, levels=20, seed=1, view='density', shrink=40., s_min=.05)
    for _ in range(150): b.em_pass_(x, 1.)
    before, s = b.em_pass_(x, 1.)/len(x), b.logs_kd.exp()
    for _ in range(50): b.em_pass_(x, .2)
    assert abs(b.em_pass_(x, 1.)/len(x) - before) < 5e-3
    assert (b.logs_kd.exp() - s).abs().max() < .05*(1+s.max())

def test_dead_components_and_no_rows():
    b = block(levels=20); before = b.mu_gd.clone()
    b.accumulate(data().round(), torch.tensor([1., 1, 0, 0]).expand(2000, 4)/2); b.em_step_()
    assert torch.equal(b.mu_gd[2:], before[2:]) and b.mu_gd.isfinite().all() and (b.mass_k[2:]==0).all()
    assert b(torch.zeros(0, 3)).shape==(0, 4)

def test_killed_and_resumed_is_the_same(tmp_path):
    x = rearrange(to_patches(images('photos', 'train')[:60], 4), 'b n d -> (b n) d')
    run = lambda epochs, ckpt: fit_blocks(x, None, 8, rng(0), bodies=4, epochs=epochs, batch=1000, ckpt=ckpt, progress=False)
    whole, h = run(4, None)
    import pcdistill.blocks as B
    old, calls = GaussianBlock.em_pass_, []
    def dies(self, *a, **k):
        calls.append(0)
        if len(calls) > len(x)//1000*2+1: raise KeyboardInterrupt
        return old(self, *a, **k)
    GaussianBlock.em_pass_ = dies
    try:
        with pytest.raises(KeyboardInterrupt): run(4, tmp_path/'c.safetensors')
    finally: GaussianBlock.em_pass_ = old
    again, h2 = run(4, tmp_path/'c.safetensors')
    assert h==h2 and all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values()))

def test_samples_conditionals_and_moments():
    b, n = block(seed=5, bodies=2), 40_000
    p = b.log_prob(every_row(3, 4))[:, 3].exp().detach()
    at = (b.sample(torch.full((n,), 3), rng(0)) @ torch.tensor([16., 4., 1.])).long()
    freq = torch.bincount(at, minlength=64)/n
    assert ((freq-p).abs() < 4*(p*(1-p)/n).sqrt() + 1e-5).all()
    row, seen = torch.tensor([[2, 0, 0]]), torch.tensor([[True, False, False]])
    at = (b.fill(row.repeat(n, 1), seen.repeat(n, 1), torch.full((n,), 3), rng(0)).float() @ torch.tensor([16., 4., 1.])).long()
    q = torch.where(every_row(3, 4)[:, 0]==2, p, 0); q = q/q.sum(); freq = torch.bincount(at, minlength=64)/n
    assert ((freq-q).abs() < 4*(q*(1-q)/n).sqrt() + 1e-5).all()

def test_moments_are_those_of_draws():
    b, n = block(seed=5, levels=20, bodies=2), 30_000
    row, seen = torch.tensor([[12, 0, 9]]), torch.tensor([[True, False, True]])
    w = torch.tensor([[.5, .2, .3, 0.]])
    mean, H = b.moments(row, seen, w)
    z = torch.multinomial(w[0], n, True, generator=rng(0))
    v = b.fill(row.repeat(n, 1), seen.repeat(n, 1), z, rng(1))[:, 1]
    f = torch.bincount(v, minlength=20)/n
    assert abs(H[0, 1] - torch.special.entr(f).sum()) < .01 and H[0, 0]==H[0, 2]==0
    assert abs(mean[0, 1] - v.float().mean()) < .1 and mean[0, 0]==12

def test_refusals():
    b = block()
    with pytest.raises(Refused, match='3 variables'): b(torch.zeros(2, 4))
    with pytest.raises(Refused, match='mask of shape'): b(torch.zeros(2, 3), torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(Refused, match='view'): b(torch.zeros(2, 3), view='exact')
    with pytest.raises(Refused, match='divides'): GaussianBlock(5, 3, bodies=2)
    with pytest.raises(Refused, match='one label a row'): fit_blocks(torch.zeros(5, 3), torch.zeros(4).long(), 2, rng(0), progress=False)

def test_spec_makes_the_same_kind():
    b = block(bodies=2); spec = b.spec(); assert spec.pop('family')=='gaussian'
    c = GaussianBlock(**spec); c.load_state_dict(b.state_dict()); x = every_row(3, 4)
    with torch.no_grad(): assert torch.equal(b(x), c(x))

@pytest.mark.parametrize('seed', range(4))
def test_components_far_behind_get_a_bound_and_the_others_are_exact(seed):
    "Narrow and wide scales, edges, rows far out; a component that nobody uses may be the best of all."
    from pcdistill.blocks import _chunked, _lattice, _near
    g = rng(seed); b = GaussianBlock(24, 12, bodies=8)
    with torch.no_grad():
        b.mu_gd.copy_(255*torch.rand(8, 12, generator=g)); b.U_gde.copy_(.3*torch.randn(8, 12, 12, generator=g)); b.logs_kd.copy_(5*torch.rand(24, 12, generator=g) - 1.9)
        b.mass_k.copy_(torch.rand(24, generator=g)**4); b.mass_k[:6] = 0; b.mass_k /= b.mass_k.sum()
        x = torch.cat([b.sample(torch.randint(24, (200,), generator=g), g), torch.randint(256, (50, 12), generator=g).float(), torch.zeros(1, 12), torch.full((1, 12), 255.)])
        full, near = (_chunked(f, b, x, elements=1<<20).double() for f in (_lattice, _near))
    best = full.gather(1, (full + b.mass_k.log()).argmax(1, keepdim=True)); exact = full > best - 40
    gap = (near - full)/(1 + full.abs())                                       # float32
    assert gap[exact].abs().max() < 1e-5 and gap.min() > -1e-4
    assert (near - best)[~exact].max() < 1e-3 and .05 < exact.double().mean() < .95
    both = [(t + b.mass_k.log()).logsumexp(1) for t in (near, full)]
    assert ((both[0] - both[1])/(1 + both[1].abs())).abs().max() < 1e-5

def test_some_bodies_at_a_time_are_all_bodies_at_once(monkeypatch):
    "The pooled shape is of all of them."
    import pcdistill.blocks as B
    def made(at_once):
        monkeypatch.setattr(B, 'AT_ONCE', at_once); g = rng(0)
        b, x = GaussianBlock(24, 10, bodies=6), 128 + 30*torch.randn(300, 10, generator=g)
        for lr in (1., .4): b.accumulate(x, torch.rand(300, 24, generator=g).softmax(1)); b.em_step_(lr, 1.)
        return b
    whole, parts = made(1<<30), made(1)
    assert all(torch.allclose(p, q, rtol=1e-4, atol=1e-5) for p, q in zip(whole.parameters(), parts.parameters())) and torch.allclose(whole.mass_k, parts.mass_k)
