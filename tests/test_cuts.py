"Squares that are one block or are cut into halves or quarters, against enumeration; and the whole chain, coder and inpainting on them."
import itertools
import pytest, torch
from pcdistill.blocks import GaussianBlock
from pcdistill.circuit import Circuit
from pcdistill.colour import COLOURS
from pcdistill.compress import decode, encode, unpack
from pcdistill.core import Refused, rng
from pcdistill.em import EM
from pcdistill.inpaint import inpaint, mask
from pcdistill.inputs import Evidence
from pcdistill.joint import Joint, joint_from_state, joint_state
from pcdistill.leaf import LeafConfig
from pcdistill.cuts import CUTS, Cut, any_leaf, coding, fit_any, fit_cut, pieces
from pcdistill.structure import chain
from pcdistill.top import fit_top

def block(n, d, levels, g, centre=0.):
    b = GaussianBlock(n, d, levels)
    with torch.no_grad(): b.mu_gd += centre + levels/4*torch.randn(n, d, generator=g); b.U_gde.copy_(.5*torch.randn(n, d, d, generator=g)/d**.5); b.logs_kd.copy_(.4*torch.randn(n, d, generator=g) + torch.tensor(levels/5).log())
    return b

def cut_of(side, c=1, levels=4, K=3, Z=2, M=2, seed=0, nested=False, how=tuple(CUTS)):
    g, d, ways = rng(seed), side*side*c, {}
    for name in how:
        n = CUTS[name][0]*CUTS[name][1]
        piece = cut_of(side//2, c, levels, K, Z, M, seed+1) if nested and name=='quarters' else block(Z, d//n, levels, g)
        ways[name] = piece, Circuit(chain(n), Evidence(n, piece.n_heads), M, g)
    q = Cut(block(K, d, levels, g), ways, side, c)
    with torch.no_grad(): q.prior_k.copy_(torch.randn(q.n_heads, generator=g).log_softmax(0))
    return q

everything = lambda levels, d: torch.cartesian_prod(*[torch.arange(levels)]*d)

@pytest.mark.parametrize('seed,how', [(s, h) for s in range(2) for h in (('tall',), ('wide',), ('quarters',), tuple(CUTS))])
def test_every_head_is_a_distribution(seed, how):
    with torch.no_grad(): assert (cut_of(2, seed=seed, how=how)(everything(4, 4), None, 'lattice').exp().sum(0) - 1).abs().max() < 1e-5

@pytest.mark.parametrize('seed,n', list(itertools.product(range(3), range(5))))
def test_prefixes_in_coding_order_are_marginals(seed, n):
    leaf, x = cut_of(2, seed=seed), everything(4, 4)
    with torch.no_grad(): p_xk = leaf(x, None, 'lattice').exp()
    seen = torch.zeros(1, 4, dtype=torch.bool); seen[:, leaf.order[:n]] = True
    row = x[37:38]; fits = (x[:, leaf.order[:n]]==row[:, leaf.order[:n]]).all(1)
    with torch.no_grad(): assert torch.allclose(leaf(row, seen, 'lattice').exp()[0], p_xk[fits].sum(0), atol=1e-6)

@pytest.mark.parametrize('nested', [False, True])
def test_order_goes_quarter_by_quarter_at_every_level(nested):
    leaf = cut_of(4, nested=nested)
    assert leaf.order.sort().values.tolist()==list(range(16)) and set(leaf.order[:4].tolist())=={0, 1, 4, 5}
    x = torch.randint(4, (5, 16), generator=rng(0)); rank = leaf.order.argsort()
    for how, way in leaf.ways.items():
        assert torch.equal(way.whole_again(way.cut(x)), x)
        for at, row in zip(way.at_pd, pieces(4, 1, how)):                       # each piece in the order of the square
            inner = way.leaf.order if isinstance(way.leaf, Cut) else torch.arange(len(at))
            assert sorted(at.tolist())==row.tolist() and (rank[at[inner]].diff() > 0).all()

@pytest.mark.parametrize('seed', range(3))
def test_marginals_are_those_of_the_densities(seed):
    "Smooth on the integers and far from the ends, so that densities and probabilities agree; every mask of two by two pixels."
    leaf, g = cut_of(2, levels=24, seed=seed), rng(seed); x = everything(24, 4)
    for m in leaf.modules():
        if hasattr(m, 'logs_kd'): m.logs_kd.data.clamp_(0., .4); m.mu_gd.data = 11.5 + .25*(m.mu_gd.data - 11.5)
    with torch.no_grad(): p_x = (leaf(x, None, 'density') + leaf.prior_k).logsumexp(1).exp().double()
    row = torch.tensor([[11, 13, 9, 12]])
    for mask_d in everything(2, 4).bool()[1:-1]:
        fits = (x[:, mask_d]==row[:, mask_d]).all(1); w = p_x[fits]/p_x[fits].sum()
        with torch.no_grad(): post = (leaf(row, mask_d[None], 'density') + leaf.prior_k).softmax(1)
        leaf.view = 'density'; mean, H = leaf.moments(row, mask_d[None], post)
        exact = (w[:, None]*x[fits]).sum(0)
        assert (mean[0] - exact)[~mask_d].abs().max() < .15 and torch.equal(mean[0][mask_d], row[0][mask_d].float()) and (H[0][mask_d]==0).all()

def test_em_of_everything_never_falls():
    leaf, x = cut_of(2, levels=16, seed=3), torch.randint(16, (400, 4), generator=rng(1)); opt, last = EM(leaf), -torch.inf
    for m in leaf.modules():
        if isinstance(m, GaussianBlock): m.sheppard, m.shrink = False, 0.
    for _ in range(6):
        lp = leaf.log_own(x, 'density').sum(); (-lp).backward(); opt.step(); lp = lp.item()
        assert lp > last - 1e-2; last = lp

@pytest.mark.parametrize('nested', [False, True])
def test_files_have_the_bits_the_circuit_says(nested):
    g, leaf = rng(5), cut_of(4, 1, 256, 3, 4, 2, 7, nested)
    joint = Joint(leaf, fit_top(torch.randint(leaf.n_heads, (50, 4), generator=g), leaf.n_heads), COLOURS['rgb'], 4, (1, 8, 8))
    x = joint.sample(12, g); data = encode(x, joint, b'0'*16)
    assert torch.equal(decode(data, joint, b'0'*16)[0], x)
    with torch.no_grad(): bits = -joint(x).double().sum().item()/torch.log(torch.tensor(2.)).item()
    assert 0 <= 8*len(unpack(data).payload) - bits < 80

@pytest.mark.parametrize('nested', [False, True])
def test_inpainting_and_state(nested):
    g, leaf = rng(6), cut_of(4, 1, 256, 3, 4, 2, 8, nested)
    joint = Joint(leaf, fit_top(torch.randint(leaf.n_heads, (50, 4), generator=g), leaf.n_heads), COLOURS['rgb'], 4, (1, 8, 8)); x = joint.sample(3, g)
    for name in ('left', 'centre', 'random90'):
        seen = mask(name, len(x), 8, 8, g); r = inpaint(joint, x, seen, 2, g)
        assert (r.samples[:, :, 0][:, seen]==x[:, 0][seen]).all() and (r.likely[:, 0][seen]==x[:, 0][seen]).all() and r.entropy[seen].max()==0
        assert r.log_seen_b.isfinite().all() and (r.log_likely_b >= r.log_hidden_b.min() - 1e3).all() and leaf.view=='auto'
    again = joint_from_state(*joint_state(joint)); assert torch.equal(again(x), joint(x))

@pytest.mark.parametrize('joined', [0, 1])
def test_fit_is_the_same_again_and_refuses_what_it_cannot(joined):
    y = torch.randint(256, (400, 64 if joined else 16), generator=rng(2)); z = torch.randint(3, (400, 4) if joined else (400,), generator=rng(3))
    fit = lambda: fit_cut(y, z, 3, LeafConfig('gaussian', epochs=2, batch=100, quarters=4, halves=4, joined=4*joined, splits=2), 4*(1+joined), rng(0), progress=False)
    (a, ha), (b, hb) = fit(), fit()
    assert ha==hb and all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values()))
    assert any_leaf(a.spec()).spec()==a.spec()
    with pytest.raises(Refused, match='quarters'): fit_cut(y, z, 3, LeafConfig(), 4, rng(0))
    with pytest.raises(Refused, match='even side'): pieces(3, 1)
    with pytest.raises(Refused, match='wanted a cut of'): pieces(4, 1, 'thirds')

def test_every_block_is_fitted_to_rows_in_the_order_in_which_it_scores_them(monkeypatch):
    "A block that learnt its variables in another order than it is asked for them never recovers."
    import pcdistill.cuts as C
    fitted, real = {}, C.fit_blocks
    def fit_blocks(x_xd, z_x, n, *more, **named): fitted.setdefault(tuple(x_xd.shape[1:]), []).append(x_xd); return real(x_xd, z_x, n, *more, **named)
    monkeypatch.setattr(C, 'fit_blocks', fit_blocks); g = rng(4)
    y = torch.stack([torch.randperm(256, generator=g)[:64] for _ in range(60)])           # values that tell where they come from
    leaf, _ = fit_cut(y, torch.randint(2, (60, 4), generator=g), 2, LeafConfig('gaussian', epochs=1, batch=50, halves=2, quarters=2, joined=4, splits=2), 8, rng(0), progress=False)
    rows = lambda t: sorted(map(tuple, t.int().tolist())); inner = leaf.ways['quarters']; small = inner.cut(y)
    assert [rows(t) for t in fitted[(32,)]]==[rows(leaf.ways[how].cut(y)) for how in ('tall', 'wide')]
    assert [rows(t) for t in fitted[(64,)]]==[rows(y[:, leaf.order])]
    assert [rows(t) for t in fitted[(8,)]]==[rows(inner.leaf.ways[how].cut(small)) for how in ('tall', 'wide')]
    assert [rows(t) for t in fitted[(4,)]]==[rows(inner.leaf.ways['quarters'].cut(small))]
