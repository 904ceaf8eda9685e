"Exact bits: the ledger against enumeration, baselines that are distributions, errors that are sentences."
import io, itertools, math
import numpy as np, pytest, torch
from PIL import Image
from pcdistill.circuit import Circuit
from pcdistill.colour import Colour, COLOURS
from pcdistill.core import rng
from pcdistill.data import images
from pcdistill.core import bpd
from pcdistill.evaluate import (bits, fit_one_normal, fit_plain_hclt, hclt_states, ledger_from, measure, png_bits,
                                readings, score, waterfall_bits, webp_bits)
from pcdistill.either import SquaresConfig, fit_squares
from pcdistill.emission import Labelled
from pcdistill.image import Image as Student, whole_image
from pcdistill.inputs import Evidence
from pcdistill.normals import Normals
from pcdistill.structure import chain
from pcdistill.patches import to_patches
from pcdistill.latent_prior import fit_latent_prior
from pcdistill.trees import Trees
from small_images import two_terms
from pcdistill.teacher import Bound

def toy(seed:int, K:int=3, values:int=2, spread:float=1.5) -> Student:
    "Two 2×2 patches of a 2×4 image, weights far from uniform."
    leaf = Trees([chain(4)], values, [K], [2], gen=rng(seed)); pc = leaf.pc
    joint = Student(leaf, Circuit(chain(2), Evidence(2, K), 1, rng(seed+2)), COLOURS['rgb'], 2, (1, 2, 4))
    with torch.no_grad():
        for p, dim in ((pc.inputs.logp_dvs, 1), (pc.edges_est, 1), (pc.root_rsk, 1), (joint.prior.edges_est, 1), (joint.prior.root_rsk, 1)):
            p.copy_((spread*torch.randn(p.shape, generator=rng(seed+3))).log_softmax(dim))
    return joint

ALL_X = torch.tensor(list(itertools.product(range(2), repeat=8)), dtype=torch.uint8).view(-1, 1, 2, 4)

def ledger(image, x, z_bn, b:Bound):
    return ledger_from(*measure(image, x, z_bn, 50), b.conditional_b, b.codes_prior_b)

def some_bound(n:int, seed:int) -> Bound:
    cond, prior = -20*torch.rand(2, n, generator=rng(seed))
    return Bound(cond, prior)

@pytest.mark.parametrize('seed', range(6))
def test_ledger_by_enumeration(seed):
    joint, b = toy(seed), some_bound(256, seed)
    z_bn = torch.randint(0, 3, (256, 2), generator=rng(seed))
    all_z = list(itertools.product(range(3), repeat=2))
    with torch.no_grad(): lp_xz = torch.stack([sum(two_terms(joint, ALL_X, torch.tensor([z]).expand(256, 2))) for z in all_z], 1).double()
    lp_x = lp_xz.logsumexp(1); row = torch.tensor([all_z.index(tuple(z)) for z in z_bn.tolist()])
    assert abs(lp_x.exp().sum()-1) < 1e-5
    led = ledger(joint, ALL_X, z_bn, b)
    slow = lp_x - lp_xz.gather(1, row[:, None])[:, 0]
    assert torch.allclose(led.marginal_b, slow, atol=1e-4) and led.marginal_b.min() >= 0
    terms = led.conditional_b + led.prior_b + led.marginal_b
    teacher = b.conditional_b + b.codes_prior_b
    assert (terms - (score(joint, ALL_X, progress=False) - teacher)).abs().max() < 1e-4
    assert torch.allclose(led.total_b, lp_x - teacher, atol=1e-4)
    saved = led.saved(8)
    assert abs(saved['conditional'] + saved['prior'] + saved['marginal'] - saved['total']) < 1e-9

def test_ledger_keeps_its_digits_where_float32_does_not():
    "Log-likelihoods near −10,000 nats and posteriors near certainty: the marginal term is small, not negative, and not noise."
    K, n = 4, 64
    leaf = Trees([chain(48)], 256, [K], [4], gen=rng(0))
    joint = Student(leaf, Circuit(chain(n), Evidence(n, K), 1, rng(2)), COLOURS['rgb'], 4, (3, 32, 32))
    with torch.no_grad(): leaf.pc.root_rsk[0] = torch.full((4, 4), 1e-9).fill_diagonal_(1.).log().log_softmax(0)
    x = torch.randint(0, 256, (6, 3, 32, 32), generator=rng(3), dtype=torch.uint8)
    z_bn = joint.evidence(x).argmax(2)
    m = measure(joint, x, z_bn)
    assert (m.student_b < -10_000).all() and m.student_b.dtype==torch.float64
    led = ledger_from(*m, torch.zeros(6), torch.zeros(6))
    assert led.marginal_b.min() >= -1e-9
    assert torch.allclose(m.student_b, score(joint, x, progress=False), rtol=1e-6)

def test_ledger_says_when_something_is_wrong(refuses):
    joint, z = toy(0), torch.zeros(256, 2).long()
    refuses(lambda: ledger(joint, ALL_X, z, some_bound(255, 0)), '256', '255')
    refuses(lambda: measure(joint, ALL_X, z[:3]), '256', '3')
    m = measure(joint, ALL_X, z); b = some_bound(256, 0)
    with pytest.raises(AssertionError): ledger_from(m.student_b - 1e3, m.parts_b2, b.conditional_b, b.codes_prior_b)
    with torch.no_grad(): joint.prior.root_rsk[0, 0] = -torch.inf
    refuses(lambda: measure(joint, ALL_X, torch.zeros(256, 2).long()), 'positive probability')

def test_score_and_bits(refuses):
    joint = toy(1)
    lp_b = score(joint, ALL_X, batch=7, progress=False)
    assert torch.allclose(lp_b, score(joint, ALL_X, batch=256, progress=False), atol=1e-6)
    e = bits(torch.tensor([-1., -3.])*math.log(2)*4, dims=4)
    assert abs(e.bits-2) < 1e-6 and abs(e.stderr-1) < 1e-6 and e.n==2
    assert math.isnan(bits(torch.tensor([-1.]), 1).stderr)
    refuses(lambda: score(joint, ALL_X[:0], progress=False), 'image', '0')
    refuses(lambda: score(joint, ALL_X.float(), progress=False), 'uint8')

# ---- the Gaussian on the integers

def test_one_normal(refuses):
    train, valid, test = (images('digits', s) for s in ('train', 'valid', 'test'))
    b = bpd(score(fit_one_normal(train, valid), test, progress=False), 64)
    assert b.isfinite().all() and (b > 0).all()                                           # digits have dead pixels
    few = bpd(score(fit_one_normal(train[:10], valid), test, progress=False), 64); assert few.isfinite().all() and few.mean() > b.mean()
    refuses(lambda: fit_one_normal(train, valid[..., :4]), '(1, 8, 4)', '(1, 8, 8)')

def test_the_ridge_of_one_normal_is_chosen_on_validation():
    "Validation images like the training ones want a small ridge, noisier ones a large one; test images are not even given."
    g = rng(0); base = 128 + 4*torch.randn(700, 3, generator=g) @ torch.randn(3, 12, generator=g)
    as_images = lambda t: t.round().clamp(0, 255).to(torch.uint8).view(-1, 1, 3, 4)
    width = lambda valid: fit_one_normal(as_images(base[:500]), as_images(valid)).emission.logs_kd.detach().exp().min().item()
    assert width(base[500:]) < 1.5 and width(base[500:] + 8*torch.randn(200, 12, generator=g)) > 3

def test_one_normal_is_the_covariance_it_was_given():
    g = rng(3); x = (128 + torch.randn(500, 6, generator=g) @ (8*torch.randn(6, 6, generator=g))).clamp(0, 255).to(torch.uint8).view(500, 1, 2, 3)
    m = fit_one_normal(x, x, ridges=(1.,)); A = m.emission.factor(torch.tensor([0]), torch.arange(m.emission.n_vars))[0]
    want = torch.cov(x.flatten(1).double().T, correction=0) + torch.eye(6)
    assert torch.allclose(A @ A.T, want, rtol=1e-4) and torch.allclose(m.emission.mu_gd[0].double(), x.flatten(1).double().mean(0), atol=1e-3)

def test_readings_of_normals_and_of_trees():
    "Wide normals: the GHK bound is close to the chain and below uniform dequantising; of trees all three are one number."
    e = Normals(2, 4); g = rng(0)
    with torch.no_grad(): e.mu_gd.copy_(128 + 5*torch.randn(2, 4, generator=g)); e.U_gde.copy_(.3*torch.randn(2, 4, 4, generator=g)); e.logs_kd.fill_(1.)
    m = whole_image(e, COLOURS['rgb'], (1, 2, 2)); r = readings(m, m.sample(400, rng(1)), rng(2), draws=16)
    assert abs(r.rounded.bits - r.chain.bits) < .01 and r.rounded.bits < r.dequantised.bits
    t = readings(toy(0), ALL_X, rng(0)); assert t.chain.bits==t.dequantised.bits==t.rounded.bits

@pytest.mark.parametrize('config', [None, SquaresConfig(epochs=2), SquaresConfig(epochs=2, halves=4, quarters=4, heads=2)])
def test_tiny_sets_do_not_explode(config):
    "3, 4 or 6 images, or 40 and one outlier: other images cost some bits more, not thousands."
    test, valid, train = images('digits', 'test', 40), images('digits', 'valid', 20), images('digits', 'train', 40)
    outlier = torch.randint(0, 256, (1, 1, 8, 8), dtype=torch.uint8, generator=rng(0))
    for x in (train[:3], train[:4], train[:6], torch.cat([train, outlier])):
        if config is None: m = fit_one_normal(x, valid)
        else:
            y = to_patches(x.long(), 4).flatten(0, 1); rows = Labelled(y, (y.float().mean(1) > 80).long(), 256, 2, 4)
            e, _ = fit_squares(rows, config, rng(1), None, False); z = e.label(y, rows.z_xq).view(-1, 4)
            m = Student(e, fit_latent_prior(z, e.n_heads), COLOURS['rgb'], 4, (1, 8, 8))
        assert 0 < bits(score(m, test, progress=False), 64).bits < 20 and 0 < bits(score(m, outlier, progress=False), 64).bits < 30

def test_one_image_has_no_error():
    e = bits(score(toy(0), ALL_X[:1], progress=False), 8); assert math.isnan(e.stderr) and e.n==1

# ---- files

@pytest.mark.parametrize('c', [1, 3])
def test_files_are_lossless_and_counted_in_full(c, refuses):
    x = torch.randint(0, 256, (2, c, 5, 7), dtype=torch.uint8, generator=rng(c))
    for fmt, f, kw in (('WEBP', webp_bits, dict(lossless=True, quality=100, method=6)), ('PNG', png_bits, dict(optimize=True))):
        for a_chw, got in zip(x, f(x)):
            a_hwc = a_chw.permute(1, 2, 0).numpy(); im = Image.fromarray(a_hwc if c==3 else a_hwc[..., 0])
            im.save(buffer := io.BytesIO(), fmt, **kw)
            assert abs(got - 8*len(buffer.getvalue())/(c*5*7)) < 1e-12
            back = torch.from_numpy(np.array(Image.open(buffer).convert('RGB' if c==3 else 'L')))
            assert torch.equal(back, torch.from_numpy(a_hwc if c==3 else a_hwc[..., 0]))
    refuses(lambda: webp_bits(x.float()), 'uint8'); refuses(lambda: png_bits(x[:, :1].expand(-1, 2, -1, -1)), 'channels')

# ---- the plain hidden Chow-Liu tree

def hclt_size(D, V, S): return (D-1)*S**2 + D*V*S + S

def test_states_for_a_parameter_count():
    for D, V, n in [(64, 256, 70_000), (3072, 511, 10_000_000), (1, 2, 5), (784, 256, 1), (48, 2, 10**6)]:
        S = hclt_states(D, V, n); miss = lambda s: abs(hclt_size(D, V, s)-n)
        assert S >= 1 and all(miss(S) <= miss(s) for s in (max(1, S-1), S+1))

def test_plain_hclt_is_a_distribution_of_rgb_integers():
    two = Colour('two', 2, lambda x: x.to(torch.int16), lambda y: y)
    all_x = torch.tensor(list(itertools.product(range(2), repeat=6)), dtype=torch.uint8).view(-1, 3, 1, 2)
    model = fit_plain_hclt(all_x[torch.randint(0, 64, (300,), generator=rng(0))], two, 60, rng(1), epochs=2, batch=100, progress=False)
    assert abs(score(model, all_x, progress=False).exp().sum()-1) < 1e-5
    assert hclt_size(6, 2, model.emission.states[0])==sum(p.numel() for p in model.emission.parameters())
    grey = fit_plain_hclt(images('digits', 'train', 200), COLOURS['ycocg_r'], 40_000, rng(1), epochs=2, batch=100, progress=False)
    assert grey.emission.n_values==256                                                   # one channel passes every map unchanged
    a, b = (fit_plain_hclt(images('digits', 'train', 300), COLOURS['rgb'], 40_000, rng(1), epochs=1, batch=100, progress=False) for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))         # same seed, same result

# ---- table and picture

def test_waterfall():
    fig = waterfall_bits(5., dict(conditional=.5, prior=-.2, marginal=.1))
    assert [t.get_text() for t in fig.axes[0].texts]==['5.000', '-0.500', '+0.200', '-0.100', '4.600']
    joint = toy(2); m = measure(joint, ALL_X, torch.zeros(256, 2).long()); b = some_bound(256, 1)
    saved = ledger_from(*m, b.conditional_b, b.codes_prior_b).saved(8)
    fig = waterfall_bits(bits(b.conditional_b + b.codes_prior_b, 8).bits, saved)
    assert fig.axes[0].texts[-1].get_text()==f'{bits(m.student_b, 8).bits:.3f}'
