"Priors that sum exactly, and the switching model on top of them: mass one, Bayes, EM, resumption, samples."
import pytest, torch
from torch.nn import functional as F
from einops import rearrange
from pcdistill import switching
from pcdistill.core import Refused, rng
from pcdistill.data import images
from pcdistill.latents import load_teacher, save_teacher
from pcdistill.priors import ForestPrior, choose, fit_forest, information, simple_priors, spanning
from pcdistill.switching import CELLS, SwitchingAR, SwitchingConfig, context, fit_switching, n_context
from pcdistill.teacher import Teacher, bound, uniform_prior

FORESTS = [((3, 2, 4), (-1, 0, 1)), ((2, 3, 3, 2), (1, -1, 1, -1)), ((4,), (-1,)), ((2, 2, 2), (-1, -1, -1)), ((2, 2, 3, 2, 2), (2, 2, -1, 1, 0))]

def random_forest(n_codes, parent, seed=0):
    "A forest with random tables."
    g = rng(seed); p = ForestPrior(n_codes, parent); here = p.present_mv
    n_evw = 9*torch.rand(p.lp_evw.shape, generator=g)*here[list(p.edge)][:, None]
    return p.learn(9*torch.rand(here.shape, generator=g)*here, n_evw, .5)

def toy(shape, parent=None, seed=0, patch=1, **changes):
    "A switching model of two predictors with random parameters."
    g = rng(seed); t = SwitchingAR(SwitchingConfig(patch, 2, **changes), shape, parent); c, f = shape[0], t.A_kcf.shape[-1]
    t.A_kcf.copy_(.3*torch.randn(t.A_kcf.shape, generator=g)*torch.ones(c, f).tril(f-c-1) + torch.eye(f)[-c:])
    t.var_kc.copy_(2+40*torch.rand(t.var_kc.shape, generator=g))
    t.prior = random_forest(t.n_codes, t.prior.parent, seed)
    return t

def every(n_codes): return torch.cartesian_prod(*map(torch.arange, n_codes)).view(-1, len(n_codes))
def same(a, b): return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())

@pytest.mark.parametrize('n_codes,parent', FORESTS)
def test_forest_equals_enumeration(n_codes, parent):
    p = random_forest(n_codes, parent).double(); z = every(n_codes); V = max(n_codes)
    assert abs(p.log_prob(z).exp().sum()-1) < 1e-6
    f = 5*torch.randn(4, len(n_codes), V, generator=rng(1)).double()
    joint = p.log_prob(z) + sum(f[:, m, z[:, m]] for m in range(len(n_codes))); hot = F.one_hot(z, V).double(); post = p.posterior(f)
    assert torch.allclose(post.lp_b, joint.logsumexp(-1)) and torch.allclose(post.r_bmv, torch.einsum('bz,zmv->bmv', joint.softmax(-1), hot))
    for m, e in p.edge.items(): assert torch.allclose(post.n_evw[e], torch.einsum('bz,zv,zw->vw', joint.softmax(-1), hot[:, parent[m]], hot[:, m]))

@pytest.mark.parametrize('n_codes,parent', FORESTS[:2])
def test_forest_samples_follow_it(n_codes, parent):
    p = random_forest(n_codes, parent); z = every(n_codes); drawn = p.sample(20_000, rng(2))
    share = torch.stack([(drawn==row).all(1).float().mean() for row in z]); q = p.log_prob(z).exp()
    assert ((share-q).abs() <= 5*(q*(1-q)/20_000).sqrt() + 1e-4).all()

@pytest.mark.parametrize('n,parent', [(2, (1, 0)), (2, (0, -1)), (2, (-1, 2)), (2, (-1,)), (3, (1, 2, 0))])
def test_forests_that_are_none_are_refused(n, parent):
    with pytest.raises(Refused): ForestPrior((2,)*n, parent)

def test_tables_are_the_maximum_of_likelihood():
    g = rng(0); ids = torch.randint(0, 3, (500, 3), generator=g); ids[:, 2] = (ids[:, 0]+ids[:, 1])//2
    p = fit_forest(ids, (3, 3, 3), (-1, 0, 0), 1e-4); best = p.log_prob(ids).mean()
    for s in range(10):
        q = fit_forest(ids, (3, 3, 3), (-1, 0, 0), 1e-4); noise = 1+.2*torch.rand(q.lp_evw.shape, generator=rng(s))
        q.lp_evw.copy_((q.lp_evw.exp()*noise/(q.lp_evw.exp()*noise).sum(-1, keepdim=True)).log())
        assert q.log_prob(ids).mean() < best

def test_information_is_that_of_the_counts():
    g = rng(0); a = torch.randint(0, 4, (4000,), generator=g); ids = torch.stack([a, a//2, torch.randint(0, 4, (4000,), generator=g)], 1)
    for chunk in (1, 1 << 24):
        mi = information(ids, 4, strength=1e-6, chunk=chunk)
        assert abs(mi[0, 1]-torch.tensor(2.).log()) < 1e-2 and mi[0, 2] < 2e-2 and torch.equal(mi, mi.T)
    assert spanning(torch.ones(1, 1))==(-1,)

def test_choice_is_made_on_validation_codes():
    g = rng(0); a = torch.randint(0, 4, (300, 1), generator=g); ids = torch.cat([a, (a+1) % 4], 1)
    made = choose(simple_priors(ids[:200], (4, 4)), ids[200:])
    assert made.name=='tree' and abs(made.nats['uniform']+uniform_prior((4, 4))) < 1e-4
    assert choose(simple_priors(ids[:200], (4, 4)), torch.randint(0, 4, (99, 2), generator=g)).name!='tree'
    with pytest.raises(Refused): choose({}, ids)

@pytest.mark.parametrize('cell', CELLS)
@pytest.mark.parametrize('s', [.05, 1., 30., 1e3])
def test_cells_have_mass_one(cell, s):
    mu = torch.tensor([-40., .2, 128., 300.]).double()[:, None]; v = torch.arange(256.).double()
    lp = CELLS[cell].log_mass(v, mu, torch.full_like(mu, s).log())
    assert (lp.exp().sum(-1)-1).abs().max() < 1e-9 and lp.isfinite().all()

@pytest.mark.parametrize('cell', CELLS)
def test_cells_draw_what_they_weigh(cell):
    c = CELLS[cell]; v = (100.3 + 4*c.draw((50_000,), rng(0))).round().clamp(0, 255)
    share = v.long().bincount(minlength=256)/50_000; q = c.log_mass(torch.arange(256.), torch.tensor(100.3), torch.tensor(4.).log()).exp()
    assert ((share-q).abs() <= 5*(q*(1-q)/50_000).sqrt() + 1e-4).all()

@pytest.mark.parametrize('c,h,w,r', [(1, 4, 5, 1), (3, 3, 4, 2), (3, 1, 5, 2), (1, 5, 1, 3)])
def test_context_is_causal(c, h, w, r):
    x = torch.randint(0, 256, (1, c, h, w), generator=rng(0), dtype=torch.uint8); u = context(x, r); f = n_context(c, r); assert u.shape==(1, h, w, f)
    for i in range(h):
        for j in range(w):
            for k in range(c):
                other = x.clone(); other[0, k, i, j] ^= 64; moved = (context(other, r)!=u)[0]
                assert not moved.flatten(0, 1)[:i*w+j].any() and moved[i, j].nonzero().flatten().tolist()==[f-c+k]

@pytest.mark.parametrize('cell', CELLS)
@pytest.mark.parametrize('parent', [(-1, 0), (-1, -1)])
def test_images_of_two_pixels_have_mass_one(cell, parent):
    x = rearrange(every((256, 256)), 'b w -> b 1 1 w').byte(); t = toy((1, 1, 2), parent, cell=cell)
    assert abs(t.log_prob(x).double().exp().sum()-1) < 1e-3

def test_channels_have_mass_one_given_the_first():
    t = toy((3, 1, 1)); gb = every((256, 256)); x = torch.cat([torch.full((65536, 1), 90), gb], 1).byte()[..., None, None]
    one = t.log_prob(x).double().exp().sum()
    s = ((t.var_kc[:, 0]-1/6).sqrt()*CELLS['logistic'].ratio).log(); v = torch.tensor(90.)
    mu = v - t.residuals(context(x[:1], 2))[0, 0, 0, :, 0]
    assert abs(one/(t.prior.lp_mv[0].exp()*CELLS['logistic'].log_mass(v, mu, s).exp()).sum()-1) < 1e-3

@pytest.mark.parametrize('parent', [(1, -1, 1, 2), (-1,)*4])
def test_posterior_is_bayes(parent):
    t = toy((3, 4, 4), parent, patch=2); x = torch.randint(90, 130, (5, 3, 4, 4), generator=rng(3), dtype=torch.uint8)
    z = every((2,)*4); f = t.evidence(x).double(); joint = t.prior.log_prob(z) + sum(f[:, n, z[:, n]] for n in range(4))
    r = torch.einsum('bz,znk->bnk', joint.softmax(-1), F.one_hot(z, 2).double())
    assert torch.allclose(t.log_prob(x).double(), joint.logsumexp(-1), rtol=1e-5) and torch.allclose(t.features(x).double(), r, atol=1e-3)
    L = bound(t, t.prior, x); assert (L.conditional_b+L.codes_prior_b <= t.log_prob(x)+.01).all() and isinstance(t, Teacher)
    assert torch.allclose(L.conditional_b.double(), f.gather(-1, t.codes(x)[..., None]).sum((1, 2)), rtol=1e-5)

def test_evidence_does_not_depend_on_later_pixels():
    t = toy((1, 4, 4), patch=2); x = torch.randint(0, 256, (1, 1, 4, 4), generator=rng(0), dtype=torch.uint8); other = x.clone(); other[..., 3, 2:] ^= 64
    assert torch.equal(t.evidence(x)[:, :3], t.evidence(other)[:, :3]) and not torch.equal(t.evidence(x)[:, 3], t.evidence(other)[:, 3])

@pytest.fixture(scope='module')
def photos(): return images('photos', 'train', 200)

@pytest.mark.parametrize('seed', range(3))
def test_em_never_lowers_its_objective(photos, seed):
    h = []; fit_switching(photos, SwitchingConfig.tiny(passes=10), rng(seed), progress=False, history=h)
    assert len(h)==9 and all(b >= a-1e-5 for a, b in zip(h, h[1:])) and h[-1] > h[0]+1e-3

class Killed(Exception): pass

@pytest.mark.parametrize('tree', [False, True])
def test_killed_and_resumed_is_the_same(photos, tree, tmp_path, monkeypatch):
    config = SwitchingConfig.tiny(passes=4, tree=tree); whole = fit_switching(photos, config, rng(5), progress=False)
    assert same(fit_switching(photos, config, rng(5), progress=False), whole)
    plain, calls, keep = SwitchingAR.em_pass, [], switching.resumable
    monkeypatch.setattr(switching, 'resumable', lambda *a, **k: keep(*a, **{**k, 'every_s': 0.}))
    def dying(*args):
        calls.append(1)
        if len(calls)==3: raise Killed
        return plain(*args)
    with monkeypatch.context() as m, pytest.raises(Killed):
        m.setattr(SwitchingAR, 'em_pass', dying); fit_switching(photos, config, rng(5), tmp_path/'c', progress=False)
    again = fit_switching(photos, config, rng(5), tmp_path/'c', progress=False)
    assert same(again, whole) and again.prior.parent==whole.prior.parent

def test_more_predictors_and_smaller_patches_say_more(photos):
    x = images('photos', 'valid', 100)
    lp = lambda **c: fit_switching(photos, SwitchingConfig.tiny(**c), rng(0), progress=False).log_prob(x).mean()
    assert lp(K=1) < lp(patch=8) < lp(patch=4) < lp(patch=4, tree=True)

@pytest.mark.parametrize('shape,parent', [((1, 2, 4), (-1, 0)), ((3, 2, 2), None)])
def test_samples_follow_the_model(shape, parent):
    "Mean of log p over samples against importance weights of another model: E_p[q/p] = 1."
    p, q = toy(shape, parent, patch=2), toy(shape, parent, seed=0, patch=2); q.var_kc.mul_(.8)
    x = p.sample(4000, rng(1)); w = (q.log_prob(x)-p.log_prob(x)).double().exp()
    assert abs(w.mean()-1) < 5*w.std()/4000**.5 and w.std() > .05
    wrong = (q.log_prob(x.flip(-1))-p.log_prob(x.flip(-1))).double().exp(); assert abs(wrong.mean()-1) > 5*wrong.std()/4000**.5

@pytest.mark.parametrize('c,h,w,p', [(1, 8, 8, 2), (3, 16, 16, 8), (1, 28, 28, 7), (3, 6, 9, 3)])
def test_any_shape_fits_saves_and_loads(c, h, w, p, tmp_path):
    x = torch.randint(0, 256, (30, c, h, w), generator=rng(0), dtype=torch.uint8)
    t = fit_switching(x, SwitchingConfig.tiny(p, K=3, passes=2, tree=True), rng(0), progress=False)
    save_teacher(tmp_path/'t', t); again = load_teacher(tmp_path/'t')
    assert t.log_prob(x).isfinite().all() and torch.equal(again.log_prob(x), t.log_prob(x)) and again.prior.parent==t.prior.parent
    assert t.sample(2, rng(0)).shape==(2, c, h, w)

def test_constant_images_are_survived():
    x = torch.full((20, 3, 8, 8), 255, dtype=torch.uint8); t = fit_switching(x, SwitchingConfig.tiny(K=2, passes=2), rng(0), progress=False)
    assert t.log_prob(x).isfinite().all() and (t.log_prob(x) > t.log_prob(255-x)).all()

def test_what_is_no_image_is_refused(photos):
    t = toy((3, 16, 16), patch=4)
    for bad in (photos[:2].float(), photos[:2, :, :8], photos[0]):
        with pytest.raises(Refused): t.log_prob(bad)
    for change in (dict(patch=5), dict(cell='cauchy'), dict(radius=0)):
        with pytest.raises(Refused): fit_switching(photos, SwitchingConfig.tiny(**change), rng(0), progress=False)
