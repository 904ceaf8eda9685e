"Half a circuit that hears what another model expects, half that model: normalised for every mask, its mean and draws, the bit it costs, refusals."
import math, sys
from pathlib import Path
import pytest, torch
sys.path.insert(0, str(Path(__file__).parents[1]/'benchmarks'))
from completions import nearest
from fused import Fused, Heard
from pcdistill.core import Refused, rng
from pcdistill.inpainting import inpaint
from small_images import patches, trees
from test_emission import normals
from test_innovations import mask, picture, small

def circuit(h=4, w=4): return patches(trees(V=256), (1, h, w)).requires_grad_(False)

def every(x, *hidden):
    "All values of some pixels."
    all_of = torch.cartesian_prod(*[torch.arange(256)]*len(hidden)).byte().view(-1, len(hidden)); rows = x.repeat(len(all_of), 1, 1, 1)
    for (i, j), v in zip(hidden, all_of.T): rows[:, 0, i, j] = v
    return rows, all_of

@pytest.mark.parametrize('hidden,network,noise', [([(0, 1), (1, 0)], False, 20.), ([(0, 1), (1, 3)], True, 150.)])
def test_hidden_pixels_by_enumeration(hidden, network, noise):
    m, x = Fused(circuit(2), small(h=2, network=network), noise), picture(1)[:, :, :2]; seen = torch.ones(2, 4, dtype=torch.bool)
    (rows, all_of), at = every(x, *hidden), [*torch.tensor(hidden).T]; seen[*at] = False
    lp = inpaint(m, rows, seen, 0, batch=2048).log_hidden_b; assert abs(lp.exp().sum() - 1) < 1e-3
    by_circuit, said = m.circuit(rows).double(), inpaint(m.other, x, seen, 0).mean[0, 0, *at].double()
    heard = (by_circuit - ((all_of - said)**2).sum(1)/2/noise**2).softmax(0); other = inpaint(m.other, rows, seen, 0, batch=8192).log_hidden_b.exp()
    assert torch.allclose(lp.exp(), (heard + other)/2, rtol=1e-3, atol=1e-9)
    mean = inpaint(m, x, seen, 0).mean[0, 0, *at]; assert torch.allclose(mean.double(), (heard @ all_of.double() + said)/2, atol=.05)

def test_half_of_the_draws_are_of_each():
    n, seen = 1000, mask((1, 1)); m = Fused(circuit(), small()); x = picture(1).expand(n, -1, -1, -1)
    drawn = inpaint(m, x, seen, 1, rng(3), batch=n).samples[0, :, 0, 1, 1].long()
    rows, _ = every(picture(1), (1, 1))
    p = inpaint(m, rows, seen, 0, batch=256).log_hidden_b.exp(); by = lambda p: p.view(16, 16).sum(1)                                      # sixteen bins
    share = torch.bincount(drawn, minlength=256)/n; assert ((by(share) - by(p)).abs() < 4*(by(p)*(1 - by(p))/n).sqrt() + 2e-3).all()
    assert torch.equal(inpaint(m, x[:5], seen, 2, rng(0)).samples[:, :, :, seen], x[None, :5, :, seen].expand(2, -1, -1, -1))

def test_it_costs_one_bit_at_most():
    m, x, seen = Fused(circuit(), small()), picture(20), mask((1, 1), (1, 2), (3, 0), (3, 1)); r, b = (inpaint(w, x, seen, 0) for w in (m, m.other))
    a = inpaint(m.circuit, x, seen, 0, soft=(b.mean, torch.full_like(b.mean, m.noise**-2))); best = torch.maximum(a.log_hidden_b, b.log_hidden_b)
    assert (r.log_hidden_b >= best - math.log(2) - 1e-4).all() and (r.log_hidden_b <= best + 1e-4).all() and r.exact.all()

def test_nothing_hidden_nothing_seen():
    m, x = Fused(circuit(), small()), picture(3)
    full, none = (inpaint(m, x, torch.full((4, 4), seen), 0) for seen in (True, False))
    assert (full.log_hidden_b.abs() < 1e-6).all() and torch.equal(full.mean, x.float()) and none.log_hidden_b.isfinite().all()

def test_what_is_refused():
    dense = patches(normals(3, 4, 256), (1, 4, 4))
    for bad in (lambda: Fused(dense, small()), lambda: Fused(circuit(), small(), 0.), lambda: inpaint(Fused(circuit(), small()), picture(), mask((1, 1)), soft=(picture().float(),)*2)):
        with pytest.raises(Refused, match='wanted'): bad()

def test_neighbours_are_heard_and_all_stays_normalised():
    m, train, at = small(network=True), picture(40, seed=5), [(0, 1), (1, 0)]; alone, net = inpaint(m, picture(1), mask(*at), 0).mean, m.network
    m.network, seen = Heard(net, train, 3), mask(*at); rows, _ = every(picture(1), *at); r = inpaint(m, rows, seen, 0, batch=2048)
    assert abs(r.log_hidden_b.double().exp().sum() - 1) < 1e-3 and (r.mean[:, 0, ~seen] - r.mean[:1, 0, ~seen]).abs().max() < 1e-3    # a function of what is seen
    x, prior = picture(1), torch.full((1, 1, 4, 4), 128.); near = nearest(train, x, seen, 3)
    off = (train.float() - x.float())[:, 0, seen].square().sum(1); assert torch.allclose(near[0], train[off.topk(3, largest=False).indices].float().mean(0))
    assert torch.allclose(m.network(x, seen[None, None], prior), (net(x, seen[None, None], prior) + near)/2, atol=1e-3)
    assert (inpaint(m, x, seen, 0).mean - alone)[0, 0, ~seen].abs().max() > .1
