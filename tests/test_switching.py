"Priors that sum exactly, and the switching model of a notebook on top of them: mass one, Bayes, EM, resumption."
import math, sys
from pathlib import Path
import pytest, torch
from torch.nn import functional as F
from einops import rearrange
from pcdistill.core import Refused, rng
from pcdistill.data import images
from pcdistill.latents import TEACHERS, load_teacher
from pcdistill.priors import TreePrior, choose_prior, simple_priors
from pcdistill.runs import save
from pcdistill.circuit import soft_posterior
from pcdistill.structure import Tree
from pcdistill.latent_prior import fit_latent_prior
from pcdistill.masses import log_mass_logistic
from pcdistill.teacher import Teacher, bound
sys.path.insert(0, str(Path(__file__).parents[1]/'benchmarks'))
from cells import EXTRA, definitions

switching = definitions(EXTRA/'switching.ipynb') # a notebook to copy from
del TEACHERS['switching'] # which its last definition adds
SwitchingAR, SwitchingConfig, context = switching.SwitchingAR, switching.SwitchingConfig, switching.context

TREES = [((3, 2, 4), (-1, 0, 1)), ((2, 3, 3, 2), (1, -1, 1, 2)), ((4,), (-1,)), ((2, 2, 3, 2, 2), (2, 2, -1, 1, 0))]

def random_tree(n_codes, parent, seed=0):
    "A prior with random tables, counted from random codes."
    ids = (torch.rand(30, len(n_codes), generator=rng(seed)).square()*torch.tensor(n_codes)).long()
    return TreePrior(n_codes, fit_latent_prior(ids, max(n_codes), .5, Tree(parent, tuple(range(len(parent)))), n_values=n_codes).requires_grad_(False))

def toy(shape, parent=None, seed=0, patch=1, **changes):
    "A switching model of two predictors with random parameters."
    g = rng(seed); t = SwitchingAR(SwitchingConfig(patch, 2, **changes), shape, parent); c, f = shape[0], t.A_kcf.shape[-1]
    t.A_kcf.copy_(.3*torch.randn(t.A_kcf.shape, generator=g)*torch.ones(c, f).tril(f-c-1) + torch.eye(f)[-c:])
    t.var_kc.copy_(2+40*torch.rand(t.var_kc.shape, generator=g))
    t.prior = random_tree(t.n_codes, t.prior.circuit.tree.parent, seed)
    return t

def every(n_codes): return torch.cartesian_prod(*map(torch.arange, n_codes)).view(-1, len(n_codes))
def same(a, b): return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())

@pytest.mark.parametrize('n_codes,parent', TREES)
def test_tree_equals_enumeration(n_codes, parent):
    p = random_tree(n_codes, parent); z, V = every(n_codes), max(n_codes)
    assert abs(p.log_prob(z).exp().sum()-1) < 1e-5
    p = p.double(); pc = p.circuit.requires_grad_()
    f = 5*torch.randn(4, len(n_codes), V, generator=rng(1)).double()
    with torch.no_grad(): joint = p.log_prob(z).double() + sum(f[:, m, z[:, m]] for m in range(len(n_codes)))
    hot = F.one_hot(z, V).double()
    lp_b = pc(f)[:, 0]; lp_b.sum().backward()
    assert torch.allclose(lp_b, joint.logsumexp(-1), atol=1e-4) and torch.allclose(soft_posterior(pc, f), torch.einsum('bz,zmv->bmv', joint.softmax(-1), hot), atol=1e-5)
    at = pc.plan().place_of_node
    for m, above in enumerate(parent):
        if above >= 0: assert torch.allclose(pc.edges_est.grad[at[m]-1], torch.einsum('bz,zv,zw->wv', joint.softmax(-1), hot[:, above], hot[:, m]), atol=1e-4)

@pytest.mark.parametrize('n_codes,parent', TREES)
def test_what_an_alphabet_lacks_is_impossible(n_codes, parent):
    p = random_tree(n_codes, parent); V = max(n_codes); z = every((V,)*len(n_codes)); lp = p.log_prob(z)
    inside = (z < torch.tensor(n_codes)).all(1)
    assert lp[inside].isfinite().all() and (lp[~inside]==-torch.inf).all()

def test_tables_are_the_maximum_of_likelihood():
    g = rng(0); ids = torch.randint(0, 3, (500, 3), generator=g); ids[:, 2] = (ids[:, 0]+ids[:, 1])//2
    def fitted(): return TreePrior((3, 3, 3), fit_latent_prior(ids, 3, 1e-4, Tree((-1, 0, 0), (0, 1, 2))).requires_grad_(False))
    best = fitted().log_prob(ids).mean()
    for s in range(10):
        q = fitted(); w = q.circuit.edges_est; noise = w.exp()*(1+.2*torch.rand(w.shape, generator=rng(s)))
        w.copy_((noise/noise.sum(1, keepdim=True)).log())
        assert q.log_prob(ids).mean() < best

def test_priors_know_what_their_names_say():
    g = rng(0); a = torch.randint(0, 4, (4000,), generator=g); ids = torch.stack([a, a//2, torch.randint(0, 3, (4000,), generator=g)], 1); n_codes = (4, 2, 3)
    z = every(n_codes); p = {k: v.log_prob(z).exp().view(n_codes) for k, v in simple_priors(ids, n_codes).items()}
    assert torch.allclose(p['uniform'], torch.full(n_codes, 1/24))
    one = [ids[:, m].bincount(minlength=n).float()/4000 for m, n in enumerate(n_codes)]
    assert torch.allclose(p['position'], torch.einsum('i,j,k->ijk', *one), atol=1e-3)
    joint = torch.zeros(n_codes).index_put_(tuple(ids.T), torch.tensor(1/4000), accumulate=True)
    assert torch.allclose(p['tree'].sum(2), joint.sum(2), atol=1e-2) and not torch.allclose(p['position'].sum(2), joint.sum(2), atol=.05)

def test_choice_is_made_on_validation_codes():
    g = rng(0); a = torch.randint(0, 4, (300, 1), generator=g); ids = torch.cat([a, (a+1) % 4], 1)
    made = choose_prior(simple_priors(ids[:200], (4, 4)), ids[200:])
    assert made.name=='tree' and abs(made.nats['uniform'] - 2*math.log(4)) < 1e-4
    assert choose_prior(simple_priors(ids[:200], (4, 4)), torch.randint(0, 4, (99, 2), generator=g)).name!='tree'

@pytest.mark.parametrize('s', [.05, 1., 30., 1e3])
def test_noise_has_mass_one(s):
    mu = torch.tensor([-40., .2, 128., 300.]).double()[:, None]; v = torch.arange(256.).double()
    lp = log_mass_logistic(v, mu, torch.full_like(mu, s).log())
    assert (lp.exp().sum(-1)-1).abs().max() < 1e-9 and lp.isfinite().all()

@pytest.mark.parametrize('c,h,w,r', [(1, 4, 5, 1), (3, 3, 4, 2), (3, 1, 5, 2), (1, 5, 1, 3)])
def test_context_is_causal(c, h, w, r):
    x = torch.randint(0, 256, (1, c, h, w), generator=rng(0), dtype=torch.uint8); u = context(x, r); f = 1 + c*(2*r*(r+1) + 1); assert u.shape==(1, h, w, f)
    for i in range(h):
        for j in range(w):
            for k in range(c):
                other = x.clone(); other[0, k, i, j] ^= 64; moved = (context(other, r)!=u)[0]
                assert not moved.flatten(0, 1)[:i*w+j].any() and moved[i, j].nonzero().flatten().tolist()==[f-c+k]

@pytest.mark.parametrize('parent', [(-1, 0), (1, -1)])
def test_images_of_two_pixels_have_mass_one(parent):
    x = rearrange(every((256, 256)), 'b w -> b 1 1 w').byte(); t = toy((1, 1, 2), parent)
    assert abs(t.log_prob(x).double().exp().sum()-1) < 1e-3

def test_channels_have_mass_one_given_the_first():
    t = toy((3, 1, 1)); gb = every((256, 256)); x = torch.cat([torch.full((65536, 1), 90), gb], 1).byte()[..., None, None]
    one = t.log_prob(x).double().exp().sum()
    s = ((t.var_kc[:, 0]-1/6).sqrt()*3**.5/torch.pi).log(); v = torch.tensor(90.)
    mu = v - t.residuals(context(x[:1], 2))[0, 0, 0, :, 0]
    assert abs(one/(t.prior.circuit.root_rsk[0, :, 0].exp()*log_mass_logistic(v, mu, s).exp()).sum()-1) < 1e-3

@pytest.mark.parametrize('parent', [(1, -1, 1, 2), (-1, 0, 0, 0)])
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
    t, h = SwitchingAR(SwitchingConfig.tiny(), (3, 16, 16)), []; a = t.config.ridge; G0, first = t.start_(photos, rng(seed))
    for i in range(10):
        t.em_pass(photos, G0, t.respond if i else first)
        A = t.A_kcf.double(); pseudo = t.lp_k.sum() - .5*((torch.einsum('kcf,fg,kcg->kc', A, G0, A) + a/12)/t.var_kc + a*t.var_kc.log()).sum()
        h.append(float(pseudo + sum((t.density(u) + t.lp_k).logsumexp(-1).double().sum() for _, u in t.contexts(photos)))/photos.numel())
    assert all(b >= a-1e-5 for a, b in zip(h, h[1:])) and h[-1] > h[0]+1e-3

class Killed(Exception): pass

def test_killed_and_resumed_is_the_same(photos, tmp_path, monkeypatch):
    config = SwitchingConfig.tiny(passes=4); whole = SwitchingAR.fit(photos, config, rng(5), progress=False)
    assert same(SwitchingAR.fit(photos, config, rng(5), progress=False), whole)
    plain, calls, space, keep = SwitchingAR.em_pass, [], SwitchingAR.fit_.__globals__, switching.resumable
    monkeypatch.setitem(space, 'resumable', lambda *a, **k: keep(*a, **{**k, 'every_s': 0.}))
    def dying(*args):
        calls.append(1)
        if len(calls)==3: raise Killed
        return plain(*args)
    with monkeypatch.context() as m, pytest.raises(Killed):
        m.setattr(SwitchingAR, 'em_pass', dying); SwitchingAR.fit(photos, config, rng(5), tmp_path/'c', progress=False)
    again = SwitchingAR.fit(photos, config, rng(5), tmp_path/'c', progress=False)
    assert same(again, whole) and again.prior.circuit.tree==whole.prior.circuit.tree

def test_more_predictors_and_smaller_patches_say_more(photos):
    x = images('photos', 'valid', 100)
    lp = lambda **c: SwitchingAR.fit(photos, SwitchingConfig.tiny(**c), rng(0), progress=False).log_prob(x).mean()
    assert lp(K=1) < lp(patch=8) < lp(patch=4)

@pytest.mark.parametrize('c,h,w,p', [(1, 8, 8, 2), (3, 16, 16, 8), (1, 28, 28, 7), (3, 6, 9, 3)])
def test_any_shape_fits_saves_and_loads(c, h, w, p, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'switching', switching); monkeypatch.setitem(TEACHERS, 'switching', 'switching:SwitchingAR')
    x = torch.randint(0, 256, (30, c, h, w), generator=rng(0), dtype=torch.uint8)
    t = SwitchingAR.fit(x, SwitchingConfig.tiny(p, K=3, passes=2), rng(0), progress=False)
    save(tmp_path/'t', *t.state()); again = load_teacher(tmp_path/'t')
    assert t.log_prob(x).isfinite().all() and torch.equal(again.log_prob(x), t.log_prob(x)) and again.prior.circuit.tree==t.prior.circuit.tree

def test_constant_images_are_survived():
    x = torch.full((20, 3, 8, 8), 255, dtype=torch.uint8); t = SwitchingAR.fit(x, SwitchingConfig.tiny(K=2, passes=2), rng(0), progress=False)
    assert t.log_prob(x).isfinite().all() and (t.log_prob(x) > t.log_prob(255-x)).all()

def test_what_is_no_image_is_refused(photos):
    t = toy((3, 16, 16), patch=4)
    for bad in (photos[:2].float(), photos[:2, :, :8], photos[0]):
        with pytest.raises(Refused): t.log_prob(bad)
    for change in (dict(patch=5), dict(radius=0)):
        with pytest.raises(Refused): SwitchingAR.fit(photos, SwitchingConfig.tiny(**change), rng(0), progress=False)
