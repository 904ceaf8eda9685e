"Masks, and every answer about hidden pixels as a sum over all completions."
import math
import numpy as np, pytest, torch
from PIL import Image
from pcdistill.core import rng
from pcdistill.data import images
from pcdistill.inpaint import MASKS, Inpainted, figure, fit_image, inpaint, mask, soft_rows
from small_images import BYTES, CHAINS, DENSE, DISCRETE, every_image, exact_masks, log_joint, masks
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
    value = V*torch.rand(shape, generator=gen)
    precision = torch.rand(shape, generator=gen)*(torch.rand(shape, generator=gen) > .3)*(4/V)**2
    soft = (value, precision) if kind in ('soft', 'both') else None
    belief = 2*torch.randn(latents, generator=gen) if kind in ('belief', 'both') else None
    return dict(soft=soft, belief_bnk=belief)

def check_by_enumeration(image, seen, kind, gen, tol, dense=False, n=400):
    "Everything that `inpaint` says, from the values of all images."
    all_x, b = every_image(image), len(seen)
    x = all_x[torch.randint(len(all_x), (b,), generator=gen)]
    more = evidence(kind, image, b, gen)
    r = inpaint(image, x, seen, 1, gen, batch=3, **more)
    many = lambda t: t.repeat(n, *[1]*(t.ndim-1))
    also = dict(soft=more['soft'] and tuple(map(many, more['soft'])), belief_bnk=more['belief_bnk'])
    also['belief_bnk'] = None if more['belief_bnk'] is None else many(more['belief_bnk'])
    drawn = inpaint(image, many(x), many(seen), 1, gen, batch=b*n, **also).samples[0]
    drawn = drawn.view(n, *x.shape).double()
    exact = not dense and (more['soft'] is None or image.emission.soft_exact)
    v = torch.arange(image.emission.n_values).double()
    plain_x = log_joint(image, all_x, not exact)
    for i in range(b):
        assert bool(r.exact[i])==exact or dense and more['soft'] is None and bool(image.exact(seen[i:i+1]))
        if bool(r.exact[i])!=exact:
            continue                     # a mask with a probability among those with densities
        lp_x = plain_x
        if more['belief_bnk'] is not None:
            lp_x = log_joint(image, all_x, not exact, more['belief_bnk'][i])
        if more['soft'] is not None:
            value, precision = (t[i] for t in more['soft'])
            lp_x = lp_x - .5*(precision*(all_x-value)**2*~seen[i]).flatten(1).sum(1).double()
        same = ((all_x==x[i]) | ~seen[i]).flatten(1).all(1)
        those, log_seen = all_x[same].double(), lp_x[same].logsumexp(0)
        truth, best = lp_x[(all_x==x[i]).flatten(1).all(1)] - log_seen, lp_x[same].max() - log_seen
        w = (lp_x[same] - log_seen).exp()
        assert abs(r.log_seen_b[i]-log_seen) < tol and abs(r.log_hidden_b[i]-truth) < tol
        assert (drawn[:, i, 0][:, seen[i]]==x[i, 0][seen[i]]).all()
        at = (all_x==r.likely[i]).flatten(1).all(1) & same
        assert at.any() and abs(lp_x[at] - log_seen - r.log_likely_b[i]) < tol and r.log_likely_b[i] <= best+tol
        at = (all_x==torch.where(seen[i], x[i], r.mean[i].round())).flatten(1).all(1)
        assert r.log_likely_b[i] >= lp_x[at] - log_seen - tol
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

@pytest.mark.parametrize('kind', ('seen', 'belief'))
@pytest.mark.parametrize('name', CHAINS)
def test_chains_by_enumeration(name, kind):
    image, gen = CHAINS[name](0), rng(1)
    check_by_enumeration(image, exact_masks(image, 5, gen), kind, gen, 1e-3, n=150)

@pytest.mark.parametrize('kind', KINDS)
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
    labels = [a.get_ylabel().split('\n')[0] for a in figure(r, images=4, samples=2).axes]
    assert labels==['image', 'seen', 'sample 1', 'sample 2', 'likely', 'mean', 'entropy'] and isinstance(r, Inpainted)

def test_single_channels(refuses):
    all_alike = torch.rand(2, 1, 8, 8, generator=rng(0)).expand(2, 3, 8, 8) > .5
    assert torch.equal(mask(all_alike, 2, 8, 8, rng(0)), all_alike[:, 0])
    green = all_alike.clone(); green[1, 1, 0, 0] ^= True
    refuses(lambda: mask(green, 2, 8, 8, rng(0)), 'channels', 'colour map')

@pytest.mark.parametrize('seed', range(5))
def test_likely_completions(seed):
    joint, gen = toy(seed), rng(seed); x = ALL_X[torch.randint(0, 256, (40,), generator=gen)]; seen = torch.rand(40, 2, 4, generator=gen) > .6
    r = inpaint(joint, x, seen, 3, gen, batch=17)
    with torch.no_grad(): p_x, lp_b = joint(ALL_X), joint(r.likely)
    assert torch.equal(torch.where(seen[:, None], r.likely, 0), torch.where(seen[:, None], x, 0))
    whole = seen.all((1, 2)); assert torch.allclose(r.log_likely_b[~whole], (lp_b - r.log_seen_b)[~whole], atol=1e-5) and (r.log_likely_b[whole]==0).all()
    best = torch.stack([p_x[((ALL_X==x[i]) | ~seen[i]).flatten(1).all(1)].max() for i in range(40)])
    with torch.no_grad(): mean_b = joint(torch.where(seen[:, None], x, r.mean.round().to(torch.uint8)))
    assert (lp_b <= best + 1e-5).all() and (lp_b >= mean_b - 1e-5).all()
    assert (lp_b >= best - 1e-5).double().mean() > .5                       # not guaranteed, but usual

def test_fit_image(tmp_path, refuses):
    a = np.arange(6*8*3, dtype=np.uint8).reshape(6, 8, 3); Image.fromarray(a).save(tmp_path/'a.png')
    assert torch.equal(fit_image(tmp_path/'a.png', (3, 6, 8)), torch.from_numpy(a).permute(2, 0, 1)[None])
    for mode, size in (('L', (1, 1)), ('RGB', (100, 3)), ('RGBA', (5, 9)), ('P', (7, 7)), ('CMYK', (40, 30)), ('1', (9, 4)), ('LA', (3, 3))):
        for shape in ((1, 8, 8), (3, 4, 6)):
            x = fit_image(Image.new(mode, size), shape); assert x.shape==(1, *shape) and x.dtype==torch.uint8
    turned = Image.new('RGB', (4, 2)); turned.putpixel((0, 0), (255, 0, 0)); exif = turned.getexif(); exif[0x0112] = 6; turned.save(tmp_path/'t.png', exif=exif)
    x = fit_image(tmp_path/'t.png', (3, 4, 2)); assert x[0, 0, 0, 1]==255 and x.sum()==255                  # on its side in the file, upright here
    (tmp_path/'b.png').write_bytes(b'nothing'); Image.fromarray(torch.randint(0, 256, (40, 40), generator=rng(0)).byte().numpy()).save(tmp_path/'cut.png'); (tmp_path/'cut.png').write_bytes((tmp_path/'cut.png').read_bytes()[:800])
    for bad in ('b.png', 'none.png', 'cut.png', ''): refuses(lambda: fit_image(tmp_path/bad, (3, 6, 8)), 'picture')
    refuses(lambda: fit_image(Image.new('I;16', (4, 4)), (1, 4, 4)), '8-bit')
    refuses(lambda: fit_image(tmp_path/'a.png', (2, 4, 4)), 'channels')
    refuses(lambda: inpaint(toy(0), fit_image(tmp_path/'a.png', (1, 3, 4)), torch.ones(3, 4).bool(), 1, rng(0)), '(1, 2, 4)', 'fit_image')

