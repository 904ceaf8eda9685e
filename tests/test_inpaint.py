"Masks, and every answer about hidden pixels as a sum over all completions."
import math
import numpy as np, pytest, torch
from PIL import Image
from pcdistill.core import rng
from pcdistill.data import images
from pcdistill.inpaint import MASKS, Inpainted, figure, fit_image, inpaint, mask
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

@pytest.mark.parametrize('seed', range(5))
def test_by_enumeration(seed):
    joint, gen = toy(seed), rng(seed)
    with torch.no_grad(): p_x = joint(ALL_X).double().exp()
    rows = torch.randint(0, 256, (9,), generator=gen); x = ALL_X[rows]
    seen = torch.rand(9, 2, 4, generator=gen) > .5; seen[0], seen[1] = True, False
    n = 1500; many = lambda t: t.repeat(n, *[1]*(t.ndim-1))
    r, drawn = inpaint(joint, x, seen, 1, gen, batch=4), inpaint(joint, many(x), many(seen), 1, gen, batch=9*n).samples[0].view(n, 9, 1, 2, 4)
    for i in range(9):
        same = ((ALL_X==x[i]) | ~seen[i]).flatten(1).all(1)
        p_seen, w = p_x[same].sum(), p_x[same]/p_x[same].sum()
        assert abs(r.log_seen_b[i]-p_seen.log()) < 1e-4 and abs(r.log_hidden_b[i]-(p_x[rows[i]]/p_seen).log()) < 1e-4
        mean = (w[:, None, None, None]*ALL_X[same]).sum(0)
        assert torch.allclose(r.mean[i].double(), mean, atol=1e-4)
        mean = mean.clamp(0, 1); h = (torch.special.entr(mean) + torch.special.entr(1-mean))[0]/math.log(2)
        assert torch.allclose(r.entropy[i].double(), h, atol=1e-3)
        assert ((drawn[:, i].double().mean(0)-mean).abs() <= 4*(mean*(1-mean)/n).sqrt() + 1e-6).all()
        pattern = torch.stack([(drawn[:, i]==c).flatten(1).all(1).double().mean() for c in ALL_X[same]])     # jointly, not only pixel by pixel
        assert abs(pattern.sum()-1) < 1e-9 and ((pattern-w).abs() <= 4.5*(w*(1-w)/n).sqrt() + 1.5/n).all()

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

@pytest.fixture(scope='module')
def digits_joint():
    "A circuit of digits, trained for a moment."
    from pcdistill.colour import COLOURS
    from pcdistill.joint import Joint
    from pcdistill.leaf import LeafConfig, fit_leaf
    from pcdistill.patches import to_patches
    from pcdistill.teacher import fit_pixels
    from pcdistill.top import fit_top
    train, g = images('digits', 'train'), rng(0); z_bn = fit_pixels(train, 4, 12, g).codes(train)
    leaf, _ = fit_leaf(to_patches(train.long(), 4).flatten(0, 1), z_bn.flatten(), 256, 12, LeafConfig(states=8, epochs=3, batch=1024), g, progress=False)
    return Joint(leaf, fit_top(z_bn, 12), COLOURS['rgb'], 4, (1, 8, 8))

@pytest.mark.parametrize('name', ['top', 'centre', 'strips', 'random90'])
def test_averages_over_samples(name, digits_joint):
    "On real images: mean, entropy and the means of every hidden pixel over 3,000 conditional samples, within 4 standard errors."
    n, x, v = 3000, images('digits', 'test')[7:8], torch.arange(256).double()
    seen = mask(name, 1, 8, 8, rng(5)); r = inpaint(digits_joint, x, seen, n, rng(6), batch=1000)
    for i, (row, col) in enumerate((~seen[0]).nonzero().tolist()):
        values, also = x.repeat(256, 1, 1, 1), seen.clone(); values[:, 0, row, col] = v.byte(); also[0, row, col] = True
        with torch.no_grad(): p_v = (digits_joint(values, also.expand(256, -1, -1)) - digits_joint(x, seen)).double().exp()
        drawn = r.samples[:, 0, 0, row, col].long(); surprise_v = -p_v.log2(); mean, entropy = p_v @ v, torch.special.entr(p_v).sum()/math.log(2)
        assert abs(p_v.sum()-1) < 1e-3 and abs(r.mean[0, 0, row, col]-mean) < .05 and abs(r.entropy[0, row, col]-entropy) < .01
        assert abs(drawn.double().mean()-mean) < 4*(p_v @ (v-mean)**2/n).sqrt() + .05
        assert abs(surprise_v[drawn].mean()-entropy) < 4*(p_v @ (surprise_v-entropy)**2/n).sqrt() + .01

# ---- Gaussian leaves: probabilities where there are any, densities else, never a mixture of both

def gauss(seed:int, K:int=3):
    "Two 2×2 patches, one normal a latent value."
    from pcdistill.blocks import GaussianBlock
    from pcdistill.circuit import Circuit
    from pcdistill.colour import COLOURS
    from pcdistill.inputs import Evidence
    from pcdistill.joint import Joint
    from pcdistill.structure import chain
    block = GaussianBlock(K, 4)
    with torch.no_grad():
        block.mu_gd.copy_(90 + 70*torch.rand(block.mu_gd.shape, generator=rng(seed)))
        block.U_gde.copy_(.3*torch.randn(block.U_gde.shape, generator=rng(seed+1)).tril(-1))
        block.logs_kd.fill_(math.log(8.))
    return Joint(block, Circuit(chain(2), Evidence(2, K), 1, rng(seed+2)), COLOURS['rgb'], 2, (1, 2, 4))

def test_gaussian_whole_patches_are_exact():
    joint, x = gauss(0), torch.randint(60, 200, (4, 1, 2, 4), dtype=torch.uint8, generator=rng(0))
    seen = torch.zeros(4, 2, 4, dtype=torch.bool); seen[..., :2] = True; seen[0, 0, 2] = True      # a patch, and a prefix of the next
    r, view = inpaint(joint, x, seen, 2, rng(1)), joint.leaf.view
    with torch.no_grad(): assert torch.allclose(r.log_seen_b + r.log_hidden_b, joint(x), atol=1e-3)
    assert r.exact and joint.leaf.view==view and (r.samples[:, :, 0][:, seen]==x[:, 0][seen]).all()

def test_gaussian_holes_are_densities():
    joint, x = gauss(1), torch.full((256, 1, 2, 4), 120, dtype=torch.uint8)
    x[:, 0, 0, 0] = torch.arange(256).byte()
    seen = torch.ones(256, 2, 4, dtype=torch.bool); seen[:, 0, 0] = False                          # a hole: the patch's first variable
    r = inpaint(joint, x, seen, 0, rng(0), batch=100)
    assert not r.exact and torch.allclose(r.log_seen_b, r.log_seen_b[:1].expand(256), atol=1e-3)
    p_v = r.log_hidden_b.double().exp()                                                            # far narrower than 256 levels, far wider than one
    assert abs(p_v.sum()-1) < 1e-3 and abs(p_v @ torch.arange(256.).double() - r.mean[0, 0, 0, 0]) < .1
    assert abs(torch.special.entr(p_v).sum()/math.log(2) - r.entropy[0, 0, 0]) < .02

def test_gaussian_likely_completions():
    for seed in range(3):
        joint, x = gauss(seed), torch.randint(60, 200, (6, 1, 2, 4), dtype=torch.uint8, generator=rng(seed)); seen = torch.rand(6, 2, 4, generator=rng(seed)) > .5; seen[0], seen[1] = True, False
        r = inpaint(joint, x, seen, 200, rng(1))
        assert torch.equal(torch.where(seen[:, None], r.likely, 0), torch.where(seen[:, None], x, 0)) and r.log_likely_b[0]==0 and (r.log_likely_b[1:] >= r.log_hidden_b[1:] - 1e-3).all()
        view = joint.leaf.view; joint.leaf.view = 'auto' if r.exact else 'density'
        with torch.no_grad(): lp_nb = torch.stack([joint(s) for s in (r.likely, *r.samples)])
        joint.leaf.view = view
        assert torch.allclose(lp_nb[0] - r.log_seen_b, r.log_likely_b, atol=1e-3) and (lp_nb[0] >= lp_nb[1:].amax(0) - 1e-3).all()
