"Masks, and every answer about hidden pixels as a sum over all completions."
import io, itertools, math
import numpy as np, pytest, torch
from PIL import Image
from pcdistill.colour import COLOURS
from pcdistill.core import rng
from pcdistill.data import images
from pcdistill.emission import Labelled
from pcdistill.evaluate import fit_plain_hclt
from pcdistill.image import Image as Student
from pcdistill.inpainting import MASKS, Inpainted, figure, fit_image, fit_mask, inpaint, mask
from pcdistill.patches import to_patches
from pcdistill.teacher import ControlConfig, PixelTeacher
from pcdistill.latent_prior import fit_latent_prior
from pcdistill.trees import TreesConfig, fit_trees
from small_images import BYTES, CHAINS, DENSE, DISCRETE, every_image, exact_masks, log_joint, masks, mixture, patches, trees, two_terms
from test_evaluate import ALL_X, toy

@pytest.mark.parametrize('name', list(MASKS))
def test_masks(name):
    for h, w in [(1, 1), (5, 7), (8, 8), (28, 28), (32, 32)]:
        seen = mask(name, 3, h, w, rng(0))
        assert seen.shape==(3, h, w) and seen.dtype==torch.bool
        if h >= 28: assert seen.any() and not seen.all()
        assert torch.equal(seen, mask(name, 3, h, w, rng(0)))
        seen[0] = True                                                    # masks are the caller's own memory, image by image

def test_what_is_hidden():
    m = {n: mask(n, 1, 8, 8, rng(0))[0] for n in MASKS}
    assert not m['top'][:4].any() and m['top'][4:].all()
    assert not m['left'][:, :4].any() and m['left'][:, 4:].all()
    assert not m['centre'][2:6, 2:6].any() and int(m['centre'].sum())==48
    assert torch.equal(m['expand'], ~m['centre'])
    assert not m['eyes'][2:4].any() and int(m['eyes'].sum())==48
    assert torch.equal(m['strips'].any(0), m['strips'].all(0)) and int(m['strips'].sum())==32

def test_masks_of_ones_own(refuses):
    own = torch.rand(2, 8, 8, generator=rng(0)) > .5
    assert torch.equal(mask(own, 2, 8, 8, rng(0)), own)
    assert torch.equal(mask(own[0], 2, 8, 8, rng(0)), own[:1].expand(2, -1, -1))
    refuses(lambda: mask('nose', 2, 8, 8, rng(0)), 'nose', 'centre')
    refuses(lambda: mask(own[:, :7], 2, 8, 8, rng(0)), '(2, 7, 8)')
    refuses(lambda: mask(own, 3, 8, 8, rng(0)), '(2, 8, 8)', '(3, 8, 8)')
    refuses(lambda: mask(own.float(), 2, 8, 8, rng(0)), 'float32')
    assert torch.equal(mask(own.numpy(), 2, 8, 8, rng(0)), own)
    for bad in (None, own.tolist()): refuses(lambda: mask(bad, 2, 8, 8, rng(0)), 'mask', type(bad).__name__)

def test_inpaint_refuses(refuses):
    joint, x = toy(0), ALL_X[:3]
    refuses(lambda: inpaint(joint, x, torch.ones(3, 2, 3).bool(), 1, rng(0)), 'mask', '(3, 2, 3)')
    refuses(lambda: inpaint(joint, x, torch.ones(2, 2, 4).bool(), 1, rng(0)), 'mask')
    refuses(lambda: inpaint(joint, x.float(), torch.ones(3, 2, 4).bool(), 1, rng(0)), 'uint8')

# ---- by enumeration: every family and combinator, every kind of evidence

KINDS = ('seen', 'soft', 'belief', 'both')

def evidence(kind, image, b, gen):
    "Beliefs of a kind about b images: about pixels (some with precision 0) and about latents."
    shape, latents = (b, *image.shape), (b, len(image.tiles.at_pd), image.emission.n_heads)
    V = image.emission.n_values
    value = V*(.3 + .4*torch.rand(shape, generator=gen))
    precision = torch.rand(shape, generator=gen)*(torch.rand(shape, generator=gen) > .3)*(4/V)**2
    soft = (value, precision) if kind in ('soft', 'both') else None
    belief = 2*torch.randn(latents, generator=gen) if kind in ('belief', 'both') else None
    return dict(soft=soft, belief_bnk=belief)

def check_by_enumeration(image, seen, kind, gen, tol, dense=False, n=400):
    "Everything that `inpaint` says, from the values of all images."
    all_x, b = every_image(image), len(seen)
    V = image.emission.n_values
    x = torch.randint(V//4, V - V//4, (b, *image.shape), generator=gen).to(torch.uint8)
    more = evidence(kind, image, b, gen)
    r = inpaint(image, x, seen, 1, gen, batch=3, **more)
    many = lambda t: t.repeat(n, *[1]*(t.ndim-1))
    also = dict(soft=more['soft'] and tuple(map(many, more['soft'])), belief_bnk=more['belief_bnk'])
    also['belief_bnk'] = None if more['belief_bnk'] is None else many(more['belief_bnk'])
    drawn = inpaint(image, many(x), many(seen), 1, gen, batch=b*n, **also).samples[0]
    drawn = drawn.view(n, *x.shape).double()
    exact = not dense and (more['soft'] is None or image.emission.soft_exact)
    v = torch.arange(image.emission.n_values).double()
    with torch.no_grad(): lp_xnk = image.evidence(all_x, density=not exact)
    plain_x = log_joint(image, lp_xnk)
    for i in range(b):
        assert bool(r.exact[i])==exact or dense and more['soft'] is None and bool(image.exact(seen[i:i+1]))
        if bool(r.exact[i])!=exact:
            continue                     # a mask with a probability among those with densities
        lp_x = plain_x
        if more['belief_bnk'] is not None:
            lp_x = log_joint(image, lp_xnk, more['belief_bnk'][i])
        if more['soft'] is not None:
            value, precision = (t[i] for t in more['soft'])
            lp_x = lp_x - .5*(precision*(all_x-value)**2*~seen[i]).flatten(1).sum(1).double()
        same = ((all_x==x[i]) | ~seen[i]).flatten(1).all(1)
        those, log_seen = all_x[same].double(), lp_x[same].logsumexp(0)
        truth = lp_x[(all_x==x[i]).flatten(1).all(1)] - log_seen
        w = (lp_x[same] - log_seen).exp()
        assert abs(r.log_seen_b[i]-log_seen) < tol and abs(r.log_hidden_b[i]-truth) < tol
        assert (drawn[:, i, 0][:, seen[i]]==x[i, 0][seen[i]]).all()
        if exact and not image.emission.soft_exact:
            continue                     # means and draws are the density's, whatever the mask
        p_chwv = torch.einsum('x,xchwv->chwv', w, (those[..., None]==v).double())
        mean, entropy = p_chwv @ v, torch.special.entr(p_chwv).sum((0, 3))/math.log(2)
        assert torch.allclose(r.mean[i].double(), mean, atol=tol*len(v))
        assert torch.allclose(r.entropy[i].double(), entropy, atol=10*tol)
        s = drawn[:, i]
        pairs = lambda t: torch.einsum('xd,xe->xde', t, t).flatten(1)      # jointly, not only one by one
        for f, off in (lambda t: t, .05*dense), (pairs, .05*dense*len(v)):
            known, got = f(those.flatten(1)), f(s.flatten(1))
            want = w @ known
            spread = (w @ (known-want)**2).sqrt()
            assert ((got.mean(0)-want).abs() <= 5*spread/n**.5 + 5*known.amax(0)/n + off).all()

@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', DISCRETE)
def test_by_enumeration(name, kind):
    image, gen = DISCRETE[name](0), rng(1)
    check_by_enumeration(image, masks(image, 6, gen), kind, gen, 3e-4)

@pytest.mark.parametrize('name', CHAINS)
def test_chains_by_enumeration(name):
    image, gen = CHAINS[name](0), rng(1)
    check_by_enumeration(image, exact_masks(image, 4, gen), 'belief', gen, 1e-3, n=20)

@pytest.mark.parametrize('kind', ('seen', 'soft', 'both'))
@pytest.mark.parametrize('name', DENSE)
def test_densities_by_enumeration(name, kind):
    image, gen = DENSE[name](0), rng(2)
    check_by_enumeration(image, masks(image, 5, gen), kind, gen, .06, dense=True, n=60)

def test_ends():
    joint, x = toy(3), ALL_X[40:46]
    with torch.no_grad(): lp_b = joint(x)
    full = inpaint(joint, x, torch.ones(6, 2, 4).bool(), 2, rng(0))
    assert torch.equal(full.mean, x.float()) and (full.samples==x).all() and (full.entropy==0).all() and (full.log_hidden_b==0).all()
    assert torch.allclose(full.log_seen_b, lp_b)
    none = inpaint(joint, x, torch.zeros(6, 2, 4).bool(), 0, rng(0))
    assert none.log_seen_b.abs().max() < 1e-5 and torch.allclose(none.log_hidden_b, lp_b, atol=1e-5) and none.samples.shape==(0, *x.shape)
    assert torch.allclose(none.mean, none.mean[:1].expand_as(none.mean))                  # the truth has no say

def test_the_hidden_truth_is_not_looked_at():
    joint, seen = toy(4), torch.rand(8, 2, 4, generator=rng(1)) > .5
    a, b = ALL_X[100:108], torch.where(seen[:, None], ALL_X[100:108], 1-ALL_X[100:108])
    ra, rb = (inpaint(joint, x, seen, 3, rng(2)) for x in (a, b))
    assert torch.equal(ra.mean, rb.mean) and torch.equal(ra.samples, rb.samples) and torch.equal(ra.log_seen_b, rb.log_seen_b)
    assert not torch.equal(ra.log_hidden_b, rb.log_hidden_b)

def test_figure():
    r = inpaint(toy(0), ALL_X[:5], torch.rand(5, 2, 4, generator=rng(0)) > .5, 3, rng(0))
    labels = [t.get_text().split('\n')[0] for t in figure(r).axes[0].get_yticklabels()]
    assert labels==['image', 'seen', 'sample 1', 'sample 2', 'sample 3', 'mean', 'entropy'] and isinstance(r, Inpainted)

def test_single_channels(refuses):
    for seen in (torch.ones(2, 3, 8, 8).bool(), torch.ones(2, 1, 8, 8).bool()): refuses(lambda: mask(seen, 2, 8, 8, rng(0)), 'mask of pixels', str(tuple(seen.shape)))

def file(im, kind='TIFF'): im.save(out := io.BytesIO(), kind); return out.getvalue()

def test_fit_image(tmp_path, refuses):
    a = np.arange(6*8*3, dtype=np.uint8).reshape(6, 8, 3); Image.fromarray(a).save(tmp_path/'a.png')
    assert torch.equal(fit_image(tmp_path/'a.png', (3, 6, 8)), torch.from_numpy(a).permute(2, 0, 1)[None])
    for mode, size in (('L', (1, 1)), ('RGB', (100, 3)), ('RGBA', (5, 9)), ('P', (7, 7)), ('CMYK', (40, 30)), ('1', (9, 4)), ('LA', (3, 3))):
        for shape in ((1, 8, 8), (3, 4, 6)):
            x = fit_image(file(Image.new(mode, size)), shape); assert x.shape==(1, *shape) and x.dtype==torch.uint8
    turned = Image.new('RGB', (4, 2)); turned.putpixel((0, 0), (255, 0, 0)); exif = turned.getexif(); exif[0x0112] = 6; turned.save(tmp_path/'t.png', exif=exif)
    x = fit_image(tmp_path/'t.png', (3, 4, 2)); assert x[0, 0, 0, 1]==255 and x.sum()==255                  # on its side in the file, upright here
    (tmp_path/'b.png').write_bytes(b'nothing'); Image.fromarray(torch.randint(0, 256, (40, 40), generator=rng(0)).byte().numpy()).save(tmp_path/'cut.png'); (tmp_path/'cut.png').write_bytes((tmp_path/'cut.png').read_bytes()[:800])
    for bad in ('b.png', 'none.png', 'cut.png', ''): refuses(lambda: fit_image(tmp_path/bad, (3, 6, 8)), 'picture')
    refuses(lambda: fit_image(file(Image.new('I;16', (4, 4))), (1, 4, 4)), '8-bit')
    for bad in (a.astype(np.int64), a.astype(np.float32), torch.from_numpy(a).permute(2, 0, 1) > 3): refuses(lambda: fit_image(bad, (3, 6, 8)), 'uint8')
    for bad in (np.zeros((2, 3, 5), np.uint8), np.zeros((2, 3, 4, 3, 1), np.uint8), None): refuses(lambda: fit_image(bad, (3, 6, 8)), 'picture')

def test_a_picture_in_any_form_is_one_picture(tmp_path):
    a = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8); im = Image.fromarray(a); im.save(tmp_path/'a.png'); t = torch.from_numpy(a).permute(2, 0, 1)
    for shape in ((3, 6, 8), (1, 5, 5)):
        one = fit_image(tmp_path/'a.png', shape)
        for same in (str(tmp_path/'a.png'), (tmp_path/'a.png').read_bytes(), im, a, t): assert torch.equal(fit_image(same, shape), one)
        for batch in (t.expand(2, -1, -1, -1), [a, im], [t, t]): assert torch.equal(fit_image(batch, shape), one.expand(2, -1, -1, -1))
    grey = torch.from_numpy(a[..., 0])
    for same in (grey, grey[None], a[..., 0], a[..., :1]): assert torch.equal(fit_image(same, (1, 30, 50)), grey[None, None])
    held = fit_image(x := t[None], (3, 30, 50)); assert held is x                       # nothing is copied that fits

def test_inpaint_takes_pictures_and_gives_pictures(refuses):
    joint, big = toy(0), np.random.default_rng(0).integers(0, 2, (40, 80), np.uint8)
    hidden = np.zeros((20, 40), np.uint8); hidden[:, :20] = 255                          # white: the left half is hidden
    r = inpaint(joint, Image.fromarray(big), Image.fromarray(hidden), 3)
    assert torch.equal(r.image, fit_image(big, (1, 2, 4))) and r.seen[0].tolist()==[[False]*2 + [True]*2]*2
    by_hand = inpaint(joint, fit_image(big, (1, 2, 4)), r.seen, 3); assert all(torch.equal(a, b) for a, b in zip(r, by_hand))
    made = r.pictures(); assert len(made)==3 and all(np.array_equal(np.array(m), s[0, 0]) for m, s in zip(made, r.samples))
    assert [p.size for p in r.pictures('mean')]==[(4, 2)] and np.array_equal(np.array(r.pictures('mean')[0]), r.mean[0, 0].round())
    assert np.array(r._replace(mean=r.mean + 250.6).pictures('mean')[0])[0, 0]>=251 and (np.array(r._replace(mean=r.mean + 300).pictures('mean')[0])==255).all()
    two = torch.stack([torch.arange(24).byte().view(3, 2, 4)]*2); colour = r._replace(samples=two[None]).pictures(); assert len(colour)==2 and torch.equal(torch.from_numpy(np.array(colour[0])), two[0].permute(1, 2, 0))
    refuses(lambda: inpaint(joint, r.image[:0], 'top'), 'images'); refuses(lambda: inpaint(joint, r.image.float(), 'top'), 'uint8')

def test_pictures_of_masks(tmp_path, refuses):
    hidden = np.zeros((40, 60), np.uint8); hidden[3, 17] = hidden[30:, 50:] = 255; im = Image.fromarray(hidden); im.save(tmp_path/'m.png')
    seen = fit_mask(tmp_path/'m.png', 4, 6); want = torch.ones(4, 6).bool(); want[0, 1] = want[3, 5] = False
    assert torch.equal(seen, want)                                                       # a single white pixel hides all of the one it falls into
    flat = Image.new('L', im.size, 255); drawn = Image.merge('RGBA', [flat, flat, flat, im])         # white everywhere, opaque where hidden
    for same in (im, im.convert('RGB'), im.convert('1'), im.convert('RGBA'), drawn, hidden, str(tmp_path/'m.png')): assert torch.equal(fit_mask(same, 4, 6), want)
    for same in (tmp_path/'m.png', str(tmp_path/'m.png'), im): assert torch.equal(mask(same, 2, 4, 6, rng(0)), want.expand(2, 4, 6))
    assert fit_mask(Image.new('L', (9, 9), 127), 3, 3).all() and not fit_mask(Image.new('L', (9, 9), 128), 3, 3).any()
    refuses(lambda: mask('nose.png', 1, 4, 6, rng(0)), 'nose.png', 'centre'); refuses(lambda: mask(tmp_path/'none.png', 1, 4, 6, rng(0)), 'none.png')

# ---- 256 values: too many to enumerate, so one pixel at a time

def one_pixel(image, x, seen, row, col):
    "p(v | seen) of the 256 values of a pixel of a grey image, in the reading that inpaint uses for moments."
    values, also = x.repeat(256, 1, 1, 1), seen.clone()
    values[:, 0, row, col], also[0, row, col] = torch.arange(256).byte(), True
    dense = not image.emission.soft_exact
    with torch.no_grad(): return (image(values, also.expand(256, -1, -1), density=dense) - image(x, seen, density=dense)).double().exp()

@pytest.mark.parametrize('name', [n for n in BYTES if BYTES[n](0).shape[0]==1])
def test_one_pixel_at_a_time(name):
    "Mean, entropy and draws of a hidden pixel, from 256 masked likelihoods."
    image, n, v = BYTES[name](0), 120, torch.arange(256).double(); x = image.sample(1, rng(1)); seen = masks(image, 3, rng(2))[2:]
    many = inpaint(image, x.expand(n, -1, -1, -1), seen.expand(n, -1, -1), 1, rng(3), batch=n)
    r, drawn = Inpainted(*(t[:1] for t in many)), many.samples[0, :, 0]
    for row, col in (~seen[0]).nonzero()[:2].tolist():
        p_v = one_pixel(image, x, seen, row, col); mean, entropy = p_v @ v, torch.special.entr(p_v).sum()/math.log(2); surprise_v = -p_v.log2()
        assert abs(p_v.sum()-1) < 2e-3 and abs(r.mean[0, 0, row, col]-mean) < .2 and abs(r.entropy[0, row, col]-entropy) < .02
        there = drawn[:, row, col].long()
        assert abs(there.double().mean()-mean) < 5*(p_v @ (v-mean)**2/n).sqrt() + .1
        assert abs(surprise_v[there].mean()-entropy) < 5*(p_v @ (surprise_v-entropy)**2/n).sqrt() + .05

@pytest.mark.parametrize('name', BYTES)
def test_no_image_mixes_a_probability_with_a_density(name):
    "log p(seen) and log p(hidden | seen) add up to log p(x), of one reading."
    image = BYTES[name](1); x, seen = image.sample(6, rng(0)), masks(image, 6, rng(1)); r = inpaint(image, x, seen, 2, rng(2))
    assert torch.equal(r.exact, image.exact(seen))
    with torch.no_grad():
        of = lambda x: torch.where(r.exact, image(x), image(x, density=True))
        assert torch.allclose(r.log_seen_b + r.log_hidden_b, of(x), atol=2e-3)
        assert torch.allclose(r.log_seen_b, image(x, seen), atol=2e-3)
    shown = seen[:, None].expand_as(x)
    assert (r.samples[:, shown]==x[shown]).all() and (r.mean[shown]==x[shown].float()).all()

@pytest.fixture(scope='module')
def digits():
    "Circuits of digits, trained for a moment: one tree, a tree for each label, all pixels at once."
    train, g, K = images('digits', 'train'), rng(0), 12; z_bn = PixelTeacher.fit(train, ControlConfig(4, K), g).codes(train)
    rows, out = Labelled(to_patches(train.long(), 4).flatten(0, 1), z_bn.flatten(), 256, K, 4), {}
    for name, own in dict(one=False, own=True).items():
        e, _ = fit_trees(rows, TreesConfig(states=6, own=own, epochs=2, batch=1024), g, progress=False)
        out[name] = Student(e, fit_latent_prior(z_bn, K), COLOURS['rgb'], 4, (1, 8, 8))
    out['whole'] = fit_plain_hclt(train, COLOURS['rgb'], 60_000, g, epochs=1, batch=200, progress=False)
    return out

@pytest.mark.parametrize('name', ['one', 'own', 'whole'])
def test_averages_over_samples(name, digits):
    "On real images: mean, entropy and the means of every fourth hidden pixel over conditional samples, within 4 standard errors."
    image, n, x, v = digits[name], 1500, images('digits', 'test')[7:8], torch.arange(256).double()
    for what in ('top', 'strips'):
        seen = mask(what, 1, 8, 8, rng(5)); r = inpaint(image, x, seen, 1, rng(6))
        with torch.no_grad(): drawn = image.draw(x.expand(n, -1, -1, -1), seen.expand(n, -1, -1), rng(7))[:, 0]
        for row, col in (~seen[0]).nonzero()[::4].tolist():
            p_v = one_pixel(image, x, seen, row, col); surprise_v = -p_v.log2(); mean, entropy = p_v @ v, torch.special.entr(p_v).sum()/math.log(2)
            there = drawn[:, row, col].long()
            assert abs(p_v.sum()-1) < 1e-3 and abs(r.mean[0, 0, row, col]-mean) < .05 and abs(r.entropy[0, row, col]-entropy) < .01
            assert abs(there.double().mean()-mean) < 4*(p_v @ (v-mean)**2/n).sqrt() + .05
            assert abs(surprise_v[there].mean()-entropy) < 4*(p_v @ (surprise_v-entropy)**2/n).sqrt() + .01

def test_mean_colours():
    "Means over draws in RGB are the mean that is shown, though the circuit's variables are luma and chroma."
    image, n = BYTES['colours'](2), 3000; x = image.sample(1, rng(0)); seen = torch.zeros(1, 2, 4, dtype=torch.bool); seen[0, 0, 1] = True
    with torch.no_grad():
        for p in image.emission.pc.inputs.parameters():                    # luma in the middle, chroma near grey: every triple is a colour
            at, luma = torch.arange(511.)[:, None], torch.arange(12)[:, None, None] % 3==0
            middle = torch.where(luma, 128, 255) + 15*torch.randn(12, 1, p.shape[2], generator=rng(3)).clamp(-2, 2)
            p.copy_((-((at-middle)/6)**2/2).log_softmax(1))
    r = inpaint(image, x, seen, 1, rng(1)); drawn = image.draw(x.expand(n, -1, -1, -1), seen.expand(n, -1, -1), rng(2)).float()
    assert ((drawn.mean(0)-r.mean[0]).abs() < 4*drawn.std(0)/n**.5 + .6).all() and (r.mean[0].amax(0)-r.mean[0].amin(0)).max() > 5

# ---- beliefs

@pytest.mark.parametrize('name', ['normals', 'squares', 'own_trees', 'colours', 'joined'])
def test_ends_of_beliefs(name):
    "Precision 0 and a flat belief say nothing; a very precise one is an observation; a certain latent is that latent."
    image = BYTES[name](0); x, seen = image.sample(4, rng(0)), masks(image, 4, rng(1)); soft_exact = image.emission.soft_exact
    y = image.pixels(image.rows(x)).float(); n, K = image.tiles.n_pieces, image.emission.n_heads
    plain = inpaint(image, x, seen, 1, rng(2)); flat = inpaint(image, x, seen, 1, rng(2), belief_bnk=torch.zeros(4, n, K))
    assert torch.equal(plain.samples, flat.samples) and torch.allclose(plain.mean, flat.mean) and torch.allclose(plain.log_hidden_b, flat.log_hidden_b)
    none = inpaint(image, x, seen, 1, rng(2), soft=(y, torch.zeros_like(y)))
    assert torch.allclose(none.mean, plain.mean, atol=.05) and (soft_exact==bool(none.exact.all()))
    if soft_exact: assert torch.allclose(none.log_seen_b, plain.log_seen_b, atol=1e-3)
    sure = inpaint(image, x, seen, 1, rng(2), soft=(y, torch.full_like(y, 400.)))
    assert (sure.mean-x).abs().max() < .6 and (sure.entropy < .05).all()
    z = torch.randint(K, (4, n), generator=rng(3)); only = torch.full((4, n, K), -1e4).scatter(2, z[..., None], 0.)
    fixed = inpaint(image, x, torch.zeros_like(seen), 1, rng(4), belief_bnk=only)
    assert torch.allclose(fixed.log_hidden_b, two_terms(image, x, z)[0], atol=.05)

def test_a_noisy_picture_is_cleaned(digits):
    "Soft evidence of noise's own precision: the posterior mean is nearer to the truth than the noisy picture."
    x = images('digits', 'test')[:20]; noisy = x + 50*torch.randn(x.shape, generator=rng(0))
    r = inpaint(digits['one'], x, torch.zeros(8, 8).bool(), 0, rng(0), soft=(noisy, torch.full(x.shape, 50.**-2)))
    assert (r.mean-x).square().mean() < .4*(noisy-x).square().mean()

def test_beliefs_are_refused(refuses):
    image, x = toy(0), ALL_X[:3]; ask = lambda value, precision: inpaint(image, x, torch.zeros(3, 2, 4).bool(), 0, rng(0), soft=(value, precision))
    refuses(lambda: ask(torch.zeros(3, 1, 2, 3), torch.zeros(3, 1, 2, 3)), '(1, 2, 4)', '(1, 2, 3)')
    refuses(lambda: ask(torch.zeros(3, 1, 2, 4), -torch.ones(3, 1, 2, 4)), 'negative')

# ---- what was found by trying

@pytest.mark.parametrize('name', ['trees', 'normals'])
def test_in_inference_mode(name):
    "Posteriors are gradients; the caller's mode does not matter."
    image = BYTES[name](0); x = image.sample(2, rng(0)); seen = masks(image, 2, rng(1)); soft = x.float(), torch.full(x.shape, .01)
    want = inpaint(image, x, seen, 1, rng(1), soft=soft)
    with torch.inference_mode(): got = inpaint(image, x.clone(), seen.clone(), 1, rng(1), soft=tuple(t.clone() for t in soft))
    assert torch.equal(got.mean, want.mean) and torch.equal(got.samples, want.samples)

def test_a_lossy_map_is_refused(refuses):
    image = patches(trees(D=12, V=256), (3, 2, 4), colour='bt709_lossy')
    refuses(lambda: inpaint(image, torch.zeros(1, 3, 2, 4, dtype=torch.uint8), torch.ones(2, 4).bool(), 0, rng(0)), 'bt709_lossy', 'lossy')

def test_images_of_one_pixel():
    image = mixture(trees((2,), D=1, V=256), (1, 1, 1)); x = torch.tensor([[[[7]]], [[[200]]]], dtype=torch.uint8)
    for name in MASKS:
        seen = mask(name, 2, 1, 1, rng(0)); r = inpaint(image, x, seen, 1, rng(0)); assert torch.allclose(r.log_seen_b + r.log_hidden_b, image(x), atol=1e-5)
    assert len(figure(r).axes[0].get_yticklabels())==5

@pytest.mark.parametrize('name', ['normals', 'own_trees', 'logistic'])
def test_a_default_of_float64_changes_nothing(name):
    image = BYTES[name](0); x, seen = image.sample(3, rng(0)), masks(image, 3, rng(1)); want = inpaint(image, x, seen, 1, rng(2)); torch.set_default_dtype(torch.float64)
    try: got = inpaint(image, x, seen, 1, rng(2))
    finally: torch.set_default_dtype(torch.float32)
    assert torch.allclose(got.mean.float(), want.mean, atol=1e-2) and torch.equal(got.samples, want.samples) and got.log_seen_b.dtype==torch.float32

# --- pictures larger than the model's images

def test_a_large_picture_is_completed_tile_by_tile(refuses):
    "Tiles of the largest centred window, side by side; each is what it is alone, and their log-probabilities add up."
    image, c = toy(0), 1
    h, w = image.shape[1:]
    large = torch.randint(0, 2, (c, 2*h + 1, 3*w + 2), generator=rng(0), dtype=torch.uint8)
    seen = torch.rand(2*h + 1, 3*w + 2, generator=rng(1)) < .5
    r = inpaint(image, large, seen, 3, rng(2), tiled=True)
    top, left = 0, 1
    assert torch.equal(r.image[0], large[:, top:top + 2*h, left:left + 3*w]) and torch.equal(r.seen[0], seen[top:top + 2*h, left:left + 3*w])
    total = torch.zeros(2)
    for i, j in itertools.product(range(2), range(3)):
        at = slice(top + i*h, top + (i+1)*h), slice(left + j*w, left + (j+1)*w); here = slice(i*h, (i+1)*h), slice(j*w, (j+1)*w)
        tile = inpaint(image, large[:, *at][None], seen[at], 0)
        assert torch.allclose(r.mean[0][:, *here], tile.mean[0], atol=1e-4) and torch.allclose(r.entropy[0][here], tile.entropy[0], atol=1e-4)
        total += torch.stack([tile.log_seen_b[0], tile.log_hidden_b[0]])
    assert torch.allclose(total, torch.stack([r.log_seen_b[0], r.log_hidden_b[0]]), atol=1e-4) and r.exact.tolist()==[True]
    assert r.samples.shape==(3, 1, c, 2*h, 3*w) and (r.samples[:, :, :, r.seen[0]]==r.image[:, :, r.seen[0]]).all()
    refuses(lambda: inpaint(image, large[:, :h-1], 'left', tiled=True), 'at least')
