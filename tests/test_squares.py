"Squares that are one normal or are cut into halves or quarters: coding order, marginals, EM of all parts, files, and what each part is fitted to."
import math
import pytest
import torch
import pcdistill.either as E
from pcdistill.circuit import Circuit
from pcdistill.core import Refused, rng
from pcdistill.either import PARTITIONS, Either, SquaresConfig, fit_squares, piece_order, places, square_order
from pcdistill.em import EM
from pcdistill.emission import Labelled, from_spec, moments_of_rows
from pcdistill.inputs import Evidence
from pcdistill.normals import Normals
from pcdistill.structure import chain
from pcdistill.tiles import Tiles, cut

def normals(K, D, V, g, order=None):
    e = Normals(K, D, V, None, order)
    with torch.no_grad():
        e.mu_gd += V/4*torch.randn(K, D, generator=g)
        e.U_gde.copy_(.5*torch.randn(K, D, D, generator=g)/D**.5)
        e.logs_kd.copy_(.4*torch.randn(K, D, generator=g) + math.log(V/5))
    return e

def square(side, V=4, K=3, Z=2, M=2, seed=0, nested=False, how=tuple(PARTITIONS)):
    g = rng(seed)
    inner = square(side//2, V, K, Z, M, seed+1) if nested else None
    order = square_order(side, 1, None if inner is None else inner.order_d)
    parts = [normals(K, side*side, V, g, order)]
    for name in how:
        n = math.prod(PARTITIONS[name])
        piece = inner if nested and name=='quarters' else normals(Z, side*side//n, V, g, piece_order(side, 1, name, order))
        parts.append(Tiles(piece, Circuit(chain(n), Evidence(n, piece.n_heads), M, g), places(side, 1, name), order))
    e = Either(parts)
    with torch.no_grad():
        e.prior_k.copy_(torch.randn(e.n_heads, generator=g).log_softmax(0))
    return e

def everything(V, D):
    return torch.cartesian_prod(*[torch.arange(V)]*D)

@pytest.mark.parametrize('how', [('tall',), ('wide',), ('quarters',), tuple(PARTITIONS)])
@pytest.mark.parametrize('seed', range(2))
def test_every_head_is_a_distribution(seed, how):
    with torch.no_grad():
        assert (square(2, seed=seed, how=how)(everything(4, 4)).exp().sum(0) - 1).abs().max() < 1e-5

@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('n', range(5))
def test_prefixes_in_coding_order_are_marginals(seed, n):
    e, x = square(2, seed=seed), everything(4, 4)
    order = e.order_d
    seen = torch.zeros(1, 4, dtype=torch.bool)
    seen[:, order[:n]] = True
    row = x[37:38]
    fits = (x[:, order[:n]]==row[:, order[:n]]).all(1)
    with torch.no_grad():
        assert torch.allclose(e(row, seen).exp()[0], e(x).exp()[fits].sum(0), atol=1e-6)

@pytest.mark.parametrize('nested', [False, True])
def test_order_goes_quarter_by_quarter_at_every_level(nested):
    e = square(4, nested=nested)
    assert e.order_d.sort().values.tolist()==list(range(16)) and set(e.order_d[:4].tolist())=={0, 1, 4, 5}
    x, rank = torch.randint(4, (5, 16), generator=rng(0)), e.order_d.argsort()
    for part in e.parts[1:]:
        assert torch.equal(part.join(part.pieces(x)[0]), x)
        for at in part.at_pd:                                  # each piece meets its variables in the order of the square
            assert (rank[at[part.emission.order_d]].diff() > 0).all()

@pytest.mark.parametrize('seed', range(3))
def test_marginals_are_those_of_the_densities(seed):
    "Smooth on the integers and far from the ends, so that densities and probabilities agree; every mask of two by two pixels."
    e, x = square(2, V=24, seed=seed), everything(24, 4)
    for m in e.modules():
        if isinstance(m, Normals):
            m.logs_kd.data.clamp_(0., .4)
            m.mu_gd.data = 11.5 + .25*(m.mu_gd.data - 11.5)
    with torch.no_grad():
        p_x = torch.cat([e.log_joint(r).logsumexp(1) for r in x.split(1 << 15)]).exp().double()
    row = torch.tensor([[11, 13, 9, 12]])
    for seen_d in everything(2, 4).bool()[1:-1]:
        fits = (x[:, seen_d]==row[:, seen_d]).all(1)
        w = p_x[fits]/p_x[fits].sum()
        with torch.no_grad():
            post = (e(row, seen_d[None], density=True) + e.prior_k).softmax(1)
        mean, entropy = moments_of_rows(e, row, seen_d[None], post)
        want = (w[:, None]*x[fits]).sum(0)
        assert (mean[0] - want)[~seen_d].abs().max() < .15
        assert torch.equal(mean[0][seen_d], row[0][seen_d].float()) and (entropy[0][seen_d]==0).all()

def test_em_of_everything_never_falls():
    e, x = square(2, V=16, seed=3), torch.randint(16, (400, 4), generator=rng(1))
    opt, last = EM(e), -math.inf
    for m in e.modules():
        if isinstance(m, Normals):
            m.sheppard, m.shrink = False, 0.
    for _ in range(6):
        lp = e.log_joint(x).logsumexp(1).sum()
        (-lp).backward()
        opt.step()
        assert lp.item() > last - 1e-2
        last = lp.item()

@pytest.mark.parametrize('nested', [False, True])
def test_tables_of_the_coder_multiply_to_the_bits(nested):
    "256 values, as files have them."
    g, e = rng(5), square(4, 256, 3, 4, 2, 7, nested)
    nothing = torch.zeros(12, 16, dtype=torch.long)
    x = e.draw(nothing, nothing > 0, torch.randint(e.n_heads, (12,), generator=g), g)
    e = e.double()
    coder, lp_b, w_bk = e.coder(12), 0., e.prior_k.detach().expand(12, -1)
    for d in e.order_d.tolist():
        lp_b = lp_b + coder.table(w_bk).gather(1, x[:, d, None])[:, 0].log()
        coder.tell(x[:, d])
    with torch.no_grad():
        assert (lp_b - (e(x) + e.prior_k).logsumexp(1)).abs().max() < 1e-5

def config(**settings):
    return SquaresConfig(epochs=2, batch=100, halves=4, quarters=4, heads=2, **settings)

@pytest.mark.parametrize('joined', [(), (4,)])
def test_fit_is_the_same_again_and_refuses_what_it_cannot(joined):
    across = 1 + len(joined)
    y = torch.randint(256, (400, (4*across)**2), generator=rng(2))
    z = torch.randint(3, (400, 4) if joined else (400,), generator=rng(3))
    rows = Labelled(y, z, 256, 3, 4*across)
    (a, ha), (b, hb) = (fit_squares(rows, config(joined=joined), rng(0), None, False) for _ in range(2))
    assert ha==hb and all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values()))
    assert from_spec(a.spec() | dict(kind=a.kind)).spec()==a.spec()
    with pytest.raises(Refused, match='even side'):
        places(3, 1)
    with pytest.raises(Refused, match='wanted a partition of'):
        places(4, 1, 'thirds')

def test_every_part_is_fitted_to_rows_in_the_order_in_which_it_scores_them(monkeypatch):
    "Normals that learnt their variables in another order than they are asked for them never recover."
    fitted, real = [], E.fit_mixture
    def fit_mixture(e, x_xd, *more):
        fitted.append((e, x_xd))
        return real(e, x_xd, *more)
    monkeypatch.setattr(E, 'fit_mixture', fit_mixture)
    g = rng(4)
    y = torch.stack([torch.randperm(256, generator=g)[:64] for _ in range(60)])         # values that tell where they come from
    few = SquaresConfig(epochs=1, batch=50, halves=2, quarters=2, joined=(4,), heads=2)
    e, _ = fit_squares(Labelled(y, torch.randint(2, (60, 4), generator=g), 256, 2, 8), few, rng(0), None, False)
    def rows(t):
        return sorted(map(tuple, t.int().tolist()))
    quarter = e.parts[3]
    inner, small = quarter.emission, cut(y, quarter.at_pd)
    want = [(part.emission, cut(x, part.at_pd)) for square, x in ((inner, small), (e, y)) for part in square.parts[1:]]
    want = [(m, x) for m, x in want if isinstance(m, Normals)] + [(e.parts[0], y)]
    scored = {tuple(m.order_d.tolist()): rows(x) for m, x in want}
    assert len(fitted)==len(want)
    for m, x in fitted:                                       # given as they are: `order` is applied within, in start, EM and score alike
        assert rows(x)==scored[tuple(m.order_d.tolist())]
    assert piece_order(8, 1, 'tall', e.order_d.tolist())==list(e.parts[1].emission.order_d)
