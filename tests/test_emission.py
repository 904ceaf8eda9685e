"The contract: every family and every combinator passes the same enumeration; a broken one does not."
import math, sys
from pathlib import Path
import pytest, torch
from pcdistill.circuit import Circuit
from pcdistill.core import rng
from pcdistill.either import PARTITIONS, Either, SquaresConfig, fit_squares, piece_order, places, square_order
from pcdistill.emission import FAMILIES, Labelled, Soft, from_spec, prefix
from pcdistill.extra.checks import check_emission
from pcdistill.inputs import Evidence
from pcdistill.normals import GRAIN, Normals, NormalsConfig, fit_normals
from pcdistill.structure import chain
from pcdistill.tiles import Tiles
from pcdistill.trees import Trees, TreesConfig, fit_trees, stack, unstack
sys.path.insert(0, str(Path(__file__).parents[1]/'benchmarks'))
from cells import EXTRA, definitions
import brute # knows logistic inputs

PREDICTED = definitions(EXTRA/'predicted.ipynb') # an emission to copy, as one of your own would be
del FAMILIES['residuals'] # which its last definition adds

def trees(heads=(2,), states=(3,), D=3, V=4, inputs='categorical', seed=0):
    g = rng(seed)
    parts = [Trees([chain(D)], V, [h], [s], inputs, g) for h, s in zip(heads, states)]
    return stack(parts) if len(parts) > 1 else parts[0]

def normals(K=3, D=2, V=30, shapes=None, order=None, seed=0):
    "Wide and far from the ends, so that sums over integers stand for integrals."
    g, e = rng(seed), Normals(K, D, V, shapes, order)
    with torch.no_grad():
        e.mu_gd.copy_((V-1)/2 + .5*torch.randn(e.mu_gd.shape, generator=g))
        e.U_gde.copy_(.3*torch.randn(e.U_gde.shape, generator=g))
        e.logs_kd.copy_(math.log(V/14) + .1*torch.randn(e.logs_kd.shape, generator=g))
    return e

def predicted(inner, seed=0):
    "Behind a prediction that says something, with draws enough for an estimate that is to be compared."
    e, g = PREDICTED.Predicted(inner), rng(seed)
    e.linear.W_dc.copy_((.6*torch.randn(e.n_vars, e.n_vars, generator=g)*PREDICTED.UNIT).tril(-1))
    e.linear.b_d.copy_((e.n_values/2 + torch.randn(e.n_vars, generator=g))*PREDICTED.UNIT)
    e.draws = 4000
    return e

def over(K, p, heads, seed=0): return Circuit(chain(p), Evidence(p, K), heads, rng(seed))

def square(side, V, K=2, inner=None):
    order = square_order(side, 1, None if inner is None else inner.order_d)
    parts = [normals(K, side*side, V, order=order)]
    for how, (u, v) in PARTITIONS.items():
        piece = inner if how=='quarters' and inner is not None else normals(K, side*side//(u*v), V, order=piece_order(side, 1, how, order))
        parts.append(Tiles(piece, over(piece.n_heads, u*v, 2), places(side, 1, how), order))
    e = Either(parts)
    with torch.no_grad(): e.prior_k.copy_(torch.randn(e.n_heads, generator=rng(3)).log_softmax(0))
    return e

TWO = torch.tensor([[0, 2], [1, 3]])
SMALL = dict(
    one_tree=lambda: trees(), three_trees=lambda: trees((2, 1, 3), (3, 2, 4)), logistic=lambda: trees(inputs='logistic'),
    logistic_trees=lambda: trees((1, 2), (2, 3), inputs='logistic'), one_variable=lambda: trees(D=1),
    normals=lambda: normals(), scales=lambda: normals(4, 3, 24, 2), ordered=lambda: normals(2, 3, 24, None, [2, 0, 1]),
    tiles_of_trees=lambda: Tiles(trees((3,), (2,), 2), over(3, 2, 2), TWO),
    tiles_in_turns=lambda: Tiles(normals(3, 2, 14), over(3, 2, 2), TWO, order=[0, 1, 2, 3]),
    tiles_of_tiles=lambda: Tiles(Tiles(trees((2,), (2,), 1, 3), over(2, 2, 3), torch.tensor([[0], [1]])), over(3, 2, 1), TWO),
    either=lambda: Either([trees((3,), (2,), 2), trees((1,), (3,), 2, seed=1)]), square=lambda: square(2, 12),
    predicted=lambda: predicted(trees()), predicted_normals=lambda: predicted(normals(2, 2, 30)), predicted_each=lambda: Either([predicted(trees((h,), (2,), seed=h), h) for h in (1, 2)]),
    tiles_of_predicted=lambda: Tiles(predicted(trees((3,), (2,), 2)), over(3, 2, 2), TWO))

@pytest.mark.parametrize('name', SMALL)
def test_contract(name):
    if 'predicted' not in name: check_emission(SMALL[name](), rng(1), tol_density=.06 if name in ('square', 'tiles_in_turns') else .02)
    elif 'tiles' in name: PREDICTED.check_prefixes(SMALL[name](), rng(1), lambda seen_1d: prefix(seen_1d[0, TWO]))
    else: PREDICTED.check_prefixes(SMALL[name](), rng(1))

@pytest.mark.parametrize('name', ['three_trees', 'scales', 'tiles_in_turns', 'square'])
def test_a_coder_may_be_given_other_weights_on_the_way(name):
    "Weights that change between variables are evidence that came in: the table is that of all of it."
    e = SMALL[name]().double(); w = [torch.randn(2, e.n_heads, generator=rng(s)).double() for s in (0, 1)]
    a, b = e.coder(2), e.coder(2); order = e.order_d.tolist(); x = torch.tensor([5 % e.n_values, 1])
    a.table(w[0]); a.tell(x); b.table(w[1]); b.tell(x)
    if len(order) > 1: assert torch.allclose(a.table(w[1]), b.table(w[1]), atol=1e-9)

def test_squares_of_squares_code_what_they_say():
    e = square(4, 9, inner=square(2, 9)).double(); x = torch.randint(2, 7, (3, 16), generator=rng(2)); w = torch.randn(3, e.n_heads, generator=rng(4)).double()
    coder, lp = e.coder(3), 0.
    for d in e.order_d.tolist(): lp = lp + coder.table(w).gather(1, x[:, d, None])[:, 0].log(); coder.tell(x[:, d])
    assert (lp - (e(x) + w).logsumexp(1) + w.logsumexp(1)).abs().max() < 1e-5
    again = from_spec(e.spec() | dict(kind=e.kind)).double(); again.load_state_dict(e.state_dict()); assert torch.equal(again(x), e(x))

def test_every_row_has_a_probability():
    "Normals refuse no row: the uniform's grain holds what they cannot, in the likelihood and in the coder alike."
    e = Normals(4, 6)
    with torch.no_grad(): e.logs_kd.fill_(-1.5); e.U_gde.copy_(torch.randn(4, 6, 6, generator=rng(0)))
    x = torch.tensor([[0]*6, [255]*6, [0, 255]*3, [127, 128, 0, 255, 3, 200]]); least = math.log(GRAIN) - 6*math.log(256)
    assert (e(x) >= least - 1e-3).all() and (e(x, density=True) >= least - 1e-3).all()
    coder, lp, w = e.double().coder(4), 0., torch.zeros(4, 4).double()
    for d in range(6): lp = lp + coder.table(w).gather(1, x[:, d, None])[:, 0].log(); coder.tell(x[:, d])
    assert torch.allclose(lp, (e(x).double() - math.log(4)).logsumexp(1), atol=1e-4)

@pytest.mark.parametrize('fit,config', [(fit_trees, TreesConfig(states=4, epochs=3, batch=200)), (fit_trees, TreesConfig(states=4, own=True)), (fit_trees, TreesConfig(states=4, inputs='logistic')), *((PREDICTED.fit_predicted, PREDICTED.PredictedConfig(states=4, own=own)) for own in (False, True)),
                                        (fit_normals, NormalsConfig(scales=2, epochs=3)), (fit_squares, SquaresConfig(halves=4, quarters=4, epochs=2, batch=200, heads=2))])
def test_a_fit_learns_and_is_the_same_again(fit, config):
    y = (128 + 30*torch.randn(400, 1, generator=rng(0)) + 8*torch.randn(400, 16, generator=rng(1))).clamp(0, 255).long(); z = (y.float().mean(1) > 128).long()
    rows = Labelled(y, z, 256, 2, 4); (a, ha), (b, hb) = (fit(rows, config, rng(2), None, False) for _ in range(2))
    assert ha==hb and ha[-1] > ha[0] and all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values()))

def test_sheppards_correction_takes_rounding_off():
    y = (10 + torch.randn(4000, 3, generator=rng(0))).round().long(); rows = Labelled(y, torch.zeros(4000).long(), 256, 1, 1)
    e, _ = fit_normals(rows, NormalsConfig(shrink=0.), rng(1), None, False); plain = Normals(1, 3, shrink=0., sheppard=False)
    from pcdistill.normals import start_, fit_mixture
    start_(plain, y, rows.z_xq); fit_mixture(plain, y, rng(1), 6, progress=False)
    off = plain.logs_kd.exp()**2 - e.logs_kd.exp()**2; assert torch.allclose(off, torch.full_like(off, 1/12), atol=1e-3)

def test_no_row_mixes_a_probability_with_a_density():
    "One half seen to its end, the other cut: all of it is a density, in both parts."
    e = Tiles(normals(2, 2, 14), over(2, 2, 1), torch.tensor([[0, 1], [2, 3]])); x = torch.tensor([[7, 6, 5, 8]]); seen = torch.tensor([[True, True, False, True]])
    assert not e.exact(seen)[0] and torch.allclose(e(x, seen), e(x, seen, density=True))
    assert not torch.allclose(e(x), e(x, density=True), atol=1e-4)

@pytest.mark.parametrize('name', SMALL)
def test_beliefs_say_nothing_where_all_is_seen(name):
    e = SMALL[name](); x = torch.randint(e.n_values, (3, e.n_vars), generator=rng(4)); soft = Soft(torch.full(x.shape, 1.5), torch.ones(x.shape))
    assert torch.equal(e(x, None, soft), e(x)) and torch.equal(e(x, None, soft, True), e(x, density=True))
    if e.soft_exact: assert torch.allclose(e(x, torch.ones_like(x).bool(), soft), e(x), atol=1e-5)

def test_trees_use_no_more_states_than_they_have():
    "Forward and coder agree on trees of several sizes, also before anything is put into them."
    e = Trees([chain(3)]*3, 4, [2, 1, 2], [4, 2, 3], gen=rng(1)); check_emission(e, rng(2))
    alone = Trees([chain(3)], 4, [2], [4], gen=rng(1)); x = torch.randint(4, (5, 3), generator=rng(3))
    again = stack(unstack(e)); assert torch.allclose(again(x), e(x), atol=1e-5) and alone.pc.edges_est.isfinite().all()
