"Teachers: exact pmfs, patch independence, repetition, resumption, files, clusters."
import math, sys
from dataclasses import replace
from pathlib import Path
import pytest, torch
sys.path.insert(0, str(Path(__file__).parents[1]/'benchmarks'))
from cells import EXTRA, definitions
from pcdistill.clusters import assign, kmeans
from pcdistill.core import Refused, rng
from pcdistill.data import images
from pcdistill.latents import extract, features, load_teacher
from pcdistill.patches import to_patches
from pcdistill.runs import save
from pcdistill import teacher, latents
from pcdistill.masses import log_mass_logistic
from pcdistill.priors import CodePrior, PriorConfig, choose_prior, fit_prior, simple_priors
from pcdistill.teacher import ControlConfig, PixelTeacher, Teacher, bound, init_, train
from pcdistill.vqvae import Codebook, VQConfig, VQVAE2, log_mixture, n_theta

CONTROLS, CONV = (definitions(EXTRA/f'{name}.ipynb') for name in ('controls', 'conv'))
fit_noise, ConvVQVAE2 = CONTROLS.fit_noise, CONV.ConvVQVAE2 # of notebooks to copy from
SHORT = VQConfig.tiny(epochs=3, per_epoch=96)

@pytest.fixture
def by_name(monkeypatch):
    "Teachers of notebooks have a place to be read from."
    for name, made in dict(controls=CONTROLS, conv=CONV).items(): monkeypatch.setitem(sys.modules, name, made)
    for kind, where in dict(noise='controls:NoiseTeacher', vqconv='conv:ConvVQVAE2').items(): monkeypatch.setitem(latents.TEACHERS, kind, where)

def noise_images(b, c, h, w, seed=0): return torch.randint(0, 256, (b, c, h, w), generator=rng(seed), dtype=torch.uint8)

def random_vq(p, shape, make=VQVAE2):
    "An untrained teacher whose codebooks are not all the same vector."
    t = init_(make(VQConfig.tiny(p), shape), rng(0)).eval().requires_grad_(False)
    for book in (t.book_top, t.book_bottom): book.e_kf.copy_(torch.randn(book.e_kf.shape, generator=rng(2)))
    return t

@pytest.fixture(scope='module')
def photos(): return images('photos', 'train', 256)

@pytest.fixture(scope='module')
def teachers(photos): return {'vqvae': VQVAE2.fit(photos, SHORT, rng(0), progress=False), 'vqconv': ConvVQVAE2.fit(photos, SHORT, rng(0), progress=False),
                              'pixels': PixelTeacher.fit(photos, ControlConfig(4, 16), rng(0)), 'noise': fit_noise(photos, 4, 16, rng(0))}

@pytest.mark.parametrize('levels', [2, 5, 256])
def test_logistic_has_mass_one(levels):
    v = torch.arange(float(levels)).double()
    for mu in (-50., 0., levels/2, levels+200.):
        for s in (1e-3, .3, 40., 1e4):
            m = log_mass_logistic(v, torch.tensor(mu).double(), torch.tensor(s).double().log(), levels).exp().sum()
            assert abs(m-1) < 1e-9, (mu, s)

@pytest.mark.parametrize('seed', range(4))
def test_mixture_has_mass_one_in_grey(seed):
    theta = 4*torch.randn(1, n_theta(1), 3, 1, generator=rng(seed), dtype=torch.double)
    assert abs(log_mixture(torch.arange(256.).double().reshape(256, 1, 1), theta.expand(256, -1, -1, -1)).exp().sum()-1) < 1e-9

@pytest.mark.parametrize('seed', range(2))
def test_mixture_has_mass_one_in_colour(seed):
    theta = 2*torch.randn(1, n_theta(3), 3, 1, generator=rng(seed)).expand(-1, -1, -1, 65536)
    gb = torch.cartesian_prod(torch.arange(256.), torch.arange(256.)).T
    mass = sum(log_mixture(torch.cat([torch.full((1, 65536), r), gb])[None], theta).double().exp().sum() for r in range(256))
    assert abs(mass-1) < 1e-4

def test_log_scale_has_a_floor():
    theta = torch.zeros(1, n_theta(1), 3, 1); sharp, sharper = theta.clone(), theta.clone()
    sharp[:, 2], sharper[:, 2] = -7, -30
    y = torch.tensor([[[90.]]])
    assert torch.equal(log_mixture(y, sharp), log_mixture(y, sharper)) and log_mixture(y, sharp).isfinite().all()

@pytest.mark.parametrize('make', [VQVAE2, ConvVQVAE2])
@pytest.mark.parametrize('c,h,w,p', [(1,8,8,4), (1,8,8,2), (1,28,28,4), (1,28,28,7), (3,32,32,4), (3,32,32,8), (3,12,18,6), (3,4,4,4), (3,5,3,1), (2,6,6,3)])
def test_any_patch_size_and_grid(c, h, w, p, make):
    t, x = random_vq(p, (c, h, w), make), noise_images(3, c, h, w)
    ids = t.codes(x)
    assert isinstance(t, Teacher) and ids.shape==(3, len(t.n_codes)) and (ids < torch.tensor(t.n_codes)).all()
    assert t.features(x).shape==(3, (h//p)*(w//p), 2*t.config.f) and torch.equal(t.features(x), t.features(None, ids))
    assert t.log_cond(x).isfinite().all()
    for t in (PixelTeacher.fit(noise_images(40, c, h, w), ControlConfig(p, 5), rng(0)), fit_noise(noise_images(40, c, h, w), p, 5, rng(0))): assert bound(t, None, x).conditional_b.isfinite().all()

@pytest.mark.parametrize('h,p', [(28, 4), (16, 4), (8, 4), (14, 7)])
def test_a_code_changes_its_patches_and_no_other(h, p):
    t = random_vq(p, (3, h, h)); g, gt = h//p, -(-h//p//2)
    ids = torch.zeros(1, len(t.n_codes), dtype=torch.long); base = t.decode(t.features(None, ids))
    for m in range(len(t.n_codes)):
        other = ids.clone(); other[0, m] = 1
        moved = (t.decode(t.features(None, other)) != base).flatten(1).any(1)
        i, j = divmod(m, g) if m < g*g else divmod(m-g*g, gt)
        own = torch.zeros(g, g, dtype=torch.bool)
        if m < g*g: own[i, j] = True
        else: own[2*i:2*i+2, 2*j:2*j+2] = True
        assert torch.equal(moved, own.flatten())

@pytest.mark.parametrize('h,p,m', [(44, 4, 60), (44, 4, 0), (22, 2, 27), (63, 7, 40)])
def test_with_convolutions_a_code_changes_its_neighbours_and_no_more_than_the_reach(h, p, m):
    t = random_vq(p, (3, h, h), ConvVQVAE2); g = h//p; far = lambda a: max(abs(a//g-m//g), abs(a%g-m%g))
    ids = torch.zeros(2, len(t.n_codes), dtype=torch.long); ids[1, m] = 1
    moved = torch.ne(*t.decode(t.features(None, ids)).unflatten(0, (2, g*g))).flatten(1).any(1)
    assert all(moved[a] for a in range(g*g) if far(a) <= 1) and not any(moved[a] for a in range(g*g) if far(a) > t.config.blocks + 2)

def test_decoded_patches_are_picked_in_order():
    for make in (VQVAE2, ConvVQVAE2):
        t = random_vq(4, (3, 8, 12), make); f = t.features(noise_images(2, 3, 8, 12)); pick = torch.tensor([7, 0, 11])
        assert torch.allclose(t.decode(f, pick), t.decode(f)[pick], atol=1e-6)

def test_pixels_of_the_convolutional_decoder_are_where_they_belong():
    x = noise_images(2, 3, 8, 12); t = random_vq(4, (3, 8, 12), ConvVQVAE2)
    f = t.features(x); theta = t.decoder(f.mT.unflatten(2, (2, 3))).unflatten(1, (n_theta(3), 3))            # b j m h w
    lp_bhw = log_mixture(x.flatten(2).float(), theta.flatten(3)).view(2, 8, 12)
    assert torch.allclose(lp_bhw.sum((1, 2)), t.log_cond(x), rtol=1e-4)

def test_conditional_is_the_product_over_patches(teachers, photos):
    t = teachers['vqvae']; x = photos[:4]
    lp_bn = torch.stack([torch.stack([log_mixture(y.view(1, 16, 3).mT, t.decode(f[None, None])).sum() for y, f in zip(ys, fs)])
                         for ys, fs in zip(to_patches(x, 4).float(), t.features(x))])
    assert torch.allclose(lp_bn.sum(1), t.log_cond(x), rtol=1e-5)

def same(a, b): return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())

def test_same_seed_same_numbers(photos, teachers):
    assert same(VQVAE2.fit(photos, SHORT, rng(0), progress=False), teachers['vqvae'])
    assert not same(VQVAE2.fit(photos, SHORT, rng(1), progress=False), teachers['vqvae'])
    state = torch.get_rng_state(); torch.manual_seed(99)           # the global generator plays no part
    try: assert same(VQVAE2.fit(photos, SHORT, rng(0), progress=False), teachers['vqvae'])
    finally: torch.set_rng_state(state)

class Killed(Exception): pass

def kill_at(monkeypatch, where, name, step):
    "Make the training raise in its `step`-th step."
    plain, calls = getattr(where, name), []
    def dying(*args, **kwargs):
        calls.append(1)
        if len(calls)==step: raise Killed
        return plain(*args, **kwargs)
    monkeypatch.setattr(where, name, dying)

@pytest.fixture
def eager(monkeypatch):
    "Checkpoints after every epoch, so that a short run has some."
    plain = teacher.resumable
    monkeypatch.setattr(teacher, 'resumable', lambda *a, **k: plain(*a, **{**k, 'every_s': 0.}))

@pytest.mark.parametrize('make', [VQVAE2, ConvVQVAE2])
def test_killed_and_resumed_teacher_is_the_same(make, photos, teachers, tmp_path, monkeypatch, eager):
    with monkeypatch.context() as m, pytest.raises(Killed):
        kill_at(m, VQVAE2, 'loss', 8); make.fit(photos, SHORT, rng(0), tmp_path/'c', progress=False)
    assert (tmp_path/'c').exists()
    assert same(make.fit(photos, SHORT, rng(123), tmp_path/'c', progress=False), teachers[make.kind])   # the generator comes from the file

def test_codes_move_to_their_vectors():
    z = torch.randn(500, 1, 2, generator=rng(0)); book = Codebook(4, 2)
    for _ in range(300): book.learn(z, rng(1))
    ids = book(z).id_bn.flatten(); assert torch.allclose(torch.stack([z[ids==k, 0].mean(0) for k in range(4)]), book.e_kf, atol=.05)

def test_killed_and_resumed_prior_is_the_same(photos, teachers, tmp_path, monkeypatch, eager):
    t = teachers['vqvae']; ids, config = t.codes(photos), PriorConfig.tiny(epochs=4)
    whole = fit_prior(ids, t.n_codes, config, rng(5), progress=False)
    for i, p in enumerate((whole, simple_priors(ids, t.n_codes)['tree'])):
        save(tmp_path/f'{i}', *p.state()); assert torch.equal(load_teacher(tmp_path/f'{i}').log_prob(ids), p.log_prob(ids))
    with monkeypatch.context() as m, pytest.raises(Killed):
        kill_at(m, teacher, 'warm_cosine', 9); fit_prior(ids, t.n_codes, config, rng(5), tmp_path/'c', progress=False)
    assert same(fit_prior(ids, t.n_codes, config, rng(5), tmp_path/'c', progress=False), whole)

def test_codebooks_are_used(photos):
    t = VQVAE2.fit(photos, VQConfig.tiny(epochs=40), rng(0), progress=False); bottom, top = t.codes(photos).tensor_split([t.gh*t.gw], 1)
    assert len(bottom.unique()) > .6*t.config.K_bottom and len(top.unique()) > .6*t.config.K_top

def test_bounds_are_finite_and_ordered(photos, teachers):
    xv = images('photos', 'test', 40)
    for t in teachers.values():
        prior = fit_prior(t.codes(photos), t.n_codes, PriorConfig.tiny(epochs=2), rng(0), progress=False)
        L = bound(t, prior, xv, batch=7)
        assert all(l.shape==(40,) and l.isfinite().all() and (l < 0).all() for l in L)
        uniform_b = bound(t, None, xv).codes_prior_b; assert torch.allclose(uniform_b, torch.tensor(-sum(map(math.log, t.n_codes))))
        assert L.codes_prior_b.mean() > uniform_b.mean()*1.1
        assert torch.allclose(L.conditional_b, bound(t, prior, xv, batch=40).conditional_b, rtol=1e-4)

@pytest.mark.parametrize('n_codes', [(3, 2, 4), (5, 5), (2, 2, 2, 3, 3)])
def test_prior_has_mass_one(n_codes):
    p = init_(CodePrior(PriorConfig(16, 2, 2), n_codes), rng(0))
    every = torch.cartesian_prod(*map(torch.arange, n_codes))
    for mode in (p.train(), p.eval()):
        with torch.no_grad(): lp = mode.log_prob(every)
        assert abs(lp.exp().sum()-1) < 1e-5 and lp.isfinite().all() and lp.std() > .01
    with pytest.raises(Refused): p.log_prob(every[:, :-1])

def test_prior_learns_what_there_is(photos):
    g = rng(0); a = torch.randint(0, 6, (600, 1), generator=g); ids = torch.cat([a, (a+1)%6, a], 1)    # one free code, two copies
    p = fit_prior(ids, (6, 6, 6), PriorConfig.tiny(epochs=30), rng(1), progress=False)
    assert abs(p.log_prob(ids).mean() + torch.tensor(6.).log()) < .1

@pytest.mark.parametrize('n', range(1, 7))
def test_tiny_sets_have_teachers(n, photos):
    "Batch normalisation, priors and k-means with almost nothing."
    x = photos[:n, :, :4, :4]                                            # a single patch an image
    t = VQVAE2.fit(x, SHORT, rng(0), progress=False); ids = t.codes(x)
    assert all(v.isfinite().all() for v in t.state_dict().values()) and t.log_cond(x).isfinite().all()
    priors = simple_priors(ids, t.n_codes) | dict(own=fit_prior(ids, t.n_codes, PriorConfig.tiny(epochs=1), rng(0), progress=False))
    assert all(v < float('inf') for v in choose_prior(priors, ids).nats.values())
    assert bound(PixelTeacher.fit(x, ControlConfig(1, min(5, n)), rng(0)), None, photos[:9, :, :4, :4]).conditional_b.isfinite().all()

@pytest.mark.parametrize('kind', list(latents.TEACHERS))
def test_the_default_type_of_the_process_does_not_matter(kind, photos):
    "Weights and random numbers are float32: the same teacher, and the same priors."
    make = latents.kind_of(kind); config = ControlConfig(4, 8) if not make.trained else make.preset('tiny', 4, 8)
    if make.trained: config = replace(config, epochs=1, per_epoch=64)
    def run():
        t = make.fit(photos[:64], config, rng(0), progress=False); ids = t.codes(photos[:64])
        p = simple_priors(ids, t.n_codes) | dict(own=fit_prior(ids, t.n_codes, PriorConfig.tiny(epochs=1), rng(1), progress=False))
        return t, ids, {k: v.log_prob(ids) for k, v in p.items()}
    t, ids, lp = run(); torch.set_default_dtype(torch.float64)
    try: u, ids2, lp2 = run(); tensors, meta = t.state(); again = latents.kind_of(kind).from_state(tensors, meta)
    finally: torch.set_default_dtype(torch.float32)
    assert all(not v.is_floating_point() or v.dtype==torch.float32 for v in u.state_dict().values())
    assert same(again, t) and (ids==ids2).float().mean() > .99
    for k, v in t.state_dict().items(): assert torch.allclose(v.double(), u.state_dict()[k].double(), rtol=1e-3, atol=1e-3), k
    for k in lp: assert lp2[k].dtype==torch.float32 and torch.allclose(lp[k], lp2[k], rtol=2e-3)

def test_channels_lean_on_the_values_of_earlier_ones():
    "One component whose green is red's: its mass follows the red that is there, not the red that was expected."
    theta = torch.zeros(1, n_theta(3), 1, 1); theta[:, 4:7] = -3; theta[:, 7] = 5.                      # tanh 5 ≈ 1
    for r in (30., 128., 220.):
        y = torch.tensor([[r], [r], [128.]])[None]; other = torch.tensor([[r], [255-r], [128.]])[None]
        near, far = log_mixture(y, theta), log_mixture(other, theta)
        assert near > far + 3 or r==128.

def test_locations_of_mean_channels():
    "Each channel at its own location, the later ones at what follows from them."
    from pcdistill.vqvae import locations
    mean, a = torch.tensor([.2, -.1, .3]).view(1, 3, 1, 1), torch.tensor([.5, -1., 2.]).view(1, 3, 1, 1); t = a.tanh().flatten()
    r = .2; g = -.1 + t[0]*r; b = .3 + t[1]*r + t[2]*g
    at = torch.zeros_like(mean)
    for _ in range(3): at = locations(mean, a, at)
    assert torch.allclose(at.flatten(), torch.tensor([r, g, b]))
    u = torch.tensor([.9, -.8, 0.]).view(1, 3, 1, 1)
    assert torch.allclose(locations(mean, a, u).flatten(), torch.tensor([.2, -.1 + t[0]*.9, .3 + t[1]*.9 - t[2]*.8]))

def test_the_prior_of_the_best_epoch_is_kept():
    "Codes without a rule, learnt by heart: the last epoch is worse than nothing, what is returned is not."
    free, config = torch.randint(0, 8, (60, 6), generator=rng(0)), PriorConfig(32, epochs=40, lr=.02, held_out=.5)
    kept = fit_prior(free, (8,)*6, config, rng(1), progress=False); held, seen = free[torch.randperm(60, generator=rng(1))].split(30)
    last = train(init_(CodePrior(config, (8,)*6), rng(1)), seen, config, rng(1), progress=False)
    assert kept.log_prob(held).mean() >= -6*math.log(8) - 1e-4 > last.log_prob(held).mean() + 1

def test_a_teacher_of_ones_own_is_registered(photos, tmp_path, monkeypatch, refuses):
    class Mine(PixelTeacher): kind = 'mine'
    monkeypatch.setitem(globals(), 'Mine', Mine); monkeypatch.setitem(sys.modules, 'of_mine', sys.modules[__name__])
    monkeypatch.setitem(latents.TEACHERS, 'mine', 'of_mine:Mine')
    t = Mine.fit(photos, ControlConfig(4, 8), rng(0)); save(tmp_path/'t', *t.state())
    assert type(load_teacher(tmp_path/'t')) is Mine
    refuses(lambda: latents.kind_of('forest'), "got 'forest'")
    refuses(lambda: latents.kind_of('pixels').from_state({}, dict(kind='pixels', shape=[3, 16, 16], patch=4, K=8)), 'another version', 'fit it again')

def test_nothing_of_the_core_imports_what_is_extra():
    import subprocess
    code = 'import sys, pcdistill.chain, pcdistill.cli; assert not [m for m in sys.modules if "pcdistill.extra" in m]'
    assert subprocess.run([sys.executable, '-c', code]).returncode==0

def test_state_round_trip(teachers, photos, tmp_path, by_name):
    for name, t in teachers.items():
        save(tmp_path/name, *t.state()); again = load_teacher(tmp_path/name)
        assert type(again) is type(t) and again.n_codes==t.n_codes and again.shape==t.shape and same(t, again)
        assert torch.equal(again.log_cond(photos[:9]), t.log_cond(photos[:9])) and torch.equal(again.codes(photos[:9]), t.codes(photos[:9]))
    with pytest.raises(Refused): load_teacher(tmp_path/'absent')

def test_extract(teachers, photos):
    for t in teachers.values():
        x = photos.repeat(2, 1, 1, 1)[:300]                                # more than go through the teacher at once
        ids = extract(t, x); assert ids.dtype==torch.uint8 and torch.equal(ids, t.codes(x))
        assert torch.equal(features(t, x, ids), features(t, x))

def test_noise_codes_know_nothing_but_the_image(photos):
    t = fit_noise(photos, 4, 8, rng(0)); ids = t.codes(photos)
    assert torch.equal(ids[7:8], t.codes(photos[7:8]))
    near = photos.clone(); near[:, 0, 0, 0] ^= 1                                  # one bit of one pixel
    assert abs((t.codes(near)==ids).float().mean()-1/8) < .03
    assert abs(ids.flatten().bincount(minlength=8)/ids.numel()-1/8).max() < .03

def test_wrong_images_are_refused(teachers, photos):
    for t in teachers.values():
        for bad in (photos[:2].float(), photos[:2, :, :8], photos[0]):
            with pytest.raises(Refused): t.codes(bad)
            with pytest.raises(Refused): t.log_cond(bad)
    for fit in (lambda p: ConvVQVAE2.fit(photos, VQConfig.tiny(p), rng(0), progress=False), lambda p: PixelTeacher.fit(photos, ControlConfig(p, 4), rng(0)), lambda p: fit_noise(photos, p, 4, rng(0)), lambda p: VQVAE2.fit(photos, VQConfig.tiny(p), rng(0), progress=False)):
        for p in (0, 3, 5):
            with pytest.raises(Refused): fit(p)
    with pytest.raises(Refused): PixelTeacher.fit(photos[:1], ControlConfig(4, 17), rng(0))

def test_kmeans_repeats_and_uses_every_mean():
    f = torch.randn(3000, 6, generator=rng(0))
    mu = kmeans(f, 40, rng(1)); assert torch.equal(mu, kmeans(f, 40, rng(1))) and not torch.equal(mu, kmeans(f, 40, rng(2)))
    assert assign(f, mu).bincount(minlength=40).min() > 0
    few = torch.tensor([[0., 0.], [1., 0.], [5., 5.]]).repeat_interleave(torch.tensor([400, 3, 2]), 0)
    assert assign(few, kmeans(few, 3, rng(0))).unique().numel()==3               # rare points get their means
    assert kmeans(f, 40, rng(1), n_fit=500).isfinite().all()

@pytest.mark.filterwarnings('ignore:invalid value:RuntimeWarning') # NaN, which scikit-learn looks for itself
def test_kmeans_refuses():
    f = torch.randn(30, 2, generator=rng(0))
    for bad in (lambda: kmeans(f[:5].repeat(50, 1), 6, rng(0)), lambda: kmeans(f, 0, rng(0)), lambda: kmeans(f, 31, rng(0)), lambda: kmeans(f/0, 2, rng(0)),
                lambda: kmeans(f, 3, rng(0), start_kf=torch.zeros(2, 2))):
        with pytest.raises(ValueError): bad()

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
def test_the_same_code_runs_on_cuda(photos):
    x = photos.cuda(); t = VQVAE2.fit(x, SHORT, rng(0), progress=False)
    prior = fit_prior(extract(t, x), t.n_codes, PriorConfig.tiny(epochs=1), rng(0), progress=False)
    assert all(l.is_cuda and l.isfinite().all() for l in bound(t, prior, x[:20]))
    for u in (PixelTeacher.fit(x, ControlConfig(4, 8), rng(0)), fit_noise(x, 4, 8, rng(0))): assert bound(u, None, x[:20]).conditional_b.is_cuda
    assert kmeans(features(t, x).flatten(0, 1), 8, rng(0)).is_cuda
