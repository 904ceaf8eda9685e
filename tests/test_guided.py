"A circuit guided by one normal: normalised, the circuit at weight 0, the normal itself where the circuit is its patches; draws, mean, refusals."
import math
import pytest, torch
from pcdistill.circuit import Circuit
from pcdistill.colour import RGB
from pcdistill.core import Refused, rng
from pcdistill.guided import Guided, choose_weight, whole_of
from pcdistill.image import Image, whole_image
from pcdistill.inputs import Evidence
from pcdistill.normals import Normals
from pcdistill.structure import chain
from small_images import trees

def normal_of(mu_d, S_dd, order=None):
    "A normal with this mean and covariance."
    D = len(mu_d); order = order or list(range(D)); e = Normals(1, D, order=order)
    L = torch.linalg.cholesky(S_dd[order][:, order].double())
    with torch.no_grad():
        e.mu_gd.copy_(mu_d[order][None]); e.logs_kd.copy_(L.diagonal().log()[None])
        e.U_gde.copy_(torch.linalg.solve_triangular(L/L.diagonal(), torch.eye(D).double(), upper=False)[None])
    return e

def two(seed, K=3, heads=None):
    "Four pixels in a square: a circuit of one-pixel patches, and a normal over all four."
    g = rng(seed); A = 12*torch.randn(4, 4, generator=g); S = A @ A.T + 60*torch.eye(4); mu = 128 + 20*torch.randn(4, generator=g)
    e = heads or Normals(K, 1)
    if heads is None:
        with torch.no_grad(): e.mu_gd.copy_(128 + 40*torch.randn(K, 1, generator=g)); e.logs_kd.copy_(2.5 + torch.rand(K, 1, generator=g))
    return Image(e, Circuit(chain(4), Evidence(4, e.n_heads), 1, g), RGB, 1, (1, 2, 2)), whole_image(normal_of(mu, S, [2, 0, 3, 1]), RGB, (1, 2, 2))

SEEN = [torch.tensor(m).view(2, 2) for m in ((True, False, False, True), (False, True, False, False), (False,)*4)]

@pytest.mark.parametrize('seed', range(3))
def test_the_whole_normal_is_read_in_the_order_of_rows(seed):
    _, whole = two(seed); w = whole_of(whole); x = torch.randint(60, 200, (20, 1, 2, 2), generator=rng(seed), dtype=torch.uint8)
    by_hand = torch.distributions.MultivariateNormal(w.mu_d, w.S_dd).log_prob(x.flatten(1).double())
    e = whole.emission; without_grain = e.normal_part(*e.observed(x.flatten(1), None, None), True)[:, 0]
    assert torch.allclose(by_hand, without_grain.double(), rtol=1e-4)

@pytest.mark.parametrize('seen', SEEN)
@pytest.mark.parametrize('weight', [.3, 1.])
def test_a_round_is_normalised_whatever_is_known(seen, weight):
    image, whole = two(1); guided = Guided(image, whole, weight); x = torch.randint(60, 200, (3, 1, 2, 2), generator=rng(2), dtype=torch.uint8)
    grid = torch.linspace(-800, 1100, 4001).double()
    def integrate(told, x_bh):
        p = torch.stack([told.log_prob(v.expand(3, 1)) for v in grid], 1).exp()
        assert torch.allclose(torch.trapezoid(p, grid), torch.ones(3).double(), atol=1e-4)
        assert torch.allclose(torch.trapezoid(p*grid, grid)[:, None], told.mean(), atol=1e-2)
        return x_bh
    guided.rounds(x, seen, integrate)

@pytest.mark.parametrize('seen', SEEN)
def test_weight_zero_is_the_circuit(seen):
    image, whole = two(3); x = torch.randint(60, 200, (6, 1, 2, 2), generator=rng(4), dtype=torch.uint8); nats = []
    Guided(image, whole, 0.).rounds(x, seen, lambda told, x_bh: nats.append(told.log_prob(x_bh)) or x_bh)
    with torch.no_grad(): by_circuit = image(x, density=True) - image(x, seen.expand(6, -1, -1), density=True)
    assert torch.allclose(torch.stack(nats).sum(0), by_circuit.double(), atol=2e-3)

@pytest.mark.parametrize('seen', SEEN)
def test_a_circuit_of_the_normal_s_own_patches_makes_the_normal(seen):
    "All pixels alike: mean 128, variance 900, correlated; the circuit knows the pixels, the normal adds all the rest."
    S = 900*torch.tensor([[1., .6, .3, .2], [.6, 1., .5, .3], [.3, .5, 1., .4], [.2, .3, .4, 1.]]); mu = torch.full((4,), 128.)
    image, _ = two(0, heads=normal_of(mu[:1], S[:1, :1])); whole = whole_image(normal_of(mu, S), RGB, (1, 2, 2))
    x = torch.randint(60, 200, (5, 1, 2, 2), generator=rng(6), dtype=torch.uint8); nats, guided = [], Guided(image, whole, 1.)
    guided.rounds(x, seen, lambda told, x_bh: nats.append(told.log_prob(x_bh)) or x_bh)
    h, v, row = (~seen).flatten().nonzero().flatten(), seen.flatten().nonzero().flatten(), x.flatten(1).double()
    full = torch.distributions.MultivariateNormal(mu.double(), S.double()).log_prob(row)
    part = torch.distributions.MultivariateNormal(mu[v].double(), S[v][:, v].double()).log_prob(row[:, v]) if len(v) else 0
    assert torch.allclose(torch.stack(nats).sum(0), full - part, atol=1e-3)
    m_bh, _ = guided.whole.given(h, v, row)
    assert torch.allclose(guided.mean(x, seen).flatten(1)[:, h].double(), m_bh, atol=1e-2)

def test_draws_follow():
    image, whole = two(5); guided = Guided(image, whole, .6); n = 4000; seen = SEEN[0]; row = []
    x = torch.randint(90, 160, (1, 1, 2, 2), generator=rng(7), dtype=torch.uint8).expand(n, -1, -1, -1)
    out = guided.rounds(x, seen, lambda told, x_bh: row.append(told.mean()) or told.draw(rng(len(row))))
    drawn = out[:, 1]; assert abs(drawn.mean() - row[0][0, 0]) < 4*drawn.std()/n**.5                       # the first hidden pixel
    assert torch.equal(out[:, [0, 3]], x.flatten(1)[:, [0, 3]].double())                                 # what is seen stays
    made = guided.draw(x[:50], seen, rng(8)); assert made.dtype==torch.uint8 and torch.equal(made[:, :, seen], x[:50][:, :, seen]) and made[:, :, ~seen].float().std() > 1
    assert torch.equal(made, guided.draw(x[:50], seen, rng(8)))

def test_the_weight_is_chosen_by_validation():
    image, whole = two(9); x = torch.randint(60, 200, (30, 1, 2, 2), generator=rng(1), dtype=torch.uint8); values = {}
    best = choose_weight(image, whole, x, SEEN[:2], (0., .5, 1.))
    for a in (0., .5, 1.): values[a] = sum(float(Guided(image, whole, a).log_prob(x, m, rng(0)).mean()) for m in SEEN[:2])
    assert best.weight==max(values, key=values.get) and all(map(math.isfinite, values.values()))

def test_what_cannot_guide_or_be_guided_is_refused():
    image, whole = two(0); x = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    for bad in (lambda: Guided(image, whole, 1.5), lambda: Guided(image, image), lambda: Guided(image, whole_image(normal_of(torch.zeros(9), torch.eye(9)), RGB, (1, 3, 3)))):
        with pytest.raises(Refused, match='wanted'): bad()
    hclt = Image(trees(D=1, V=256), Circuit(chain(4), Evidence(4, trees(D=1, V=256).n_heads), 1, rng(0)), RGB, 1, (1, 2, 2))
    with pytest.raises(Refused, match='normals'): Guided(hclt, whole).draw(x, SEEN[0], rng(0))
