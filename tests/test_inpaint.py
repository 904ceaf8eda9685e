"Masks, and every answer about hidden pixels as a sum over all completions."
import math
import pytest, torch
from pcdistill.core import rng
from pcdistill.inpaint import MASKS, Inpainted, figure, inpaint, mask
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
