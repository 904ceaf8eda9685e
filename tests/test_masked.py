"The network of `masked`: orders and their beginnings, what it looks at, training that stops and goes on."
import pytest, torch
from einops import rearrange
from pcdistill.core import Refused, rng
from pcdistill.data import images
from pcdistill.extra.masked import MaskedConfig, MaskedNet, beginnings, fit_masked, random_mask, random_order
from pcdistill.teacher import init_
from stopping import in_slices

def normal_of(x):
    x_bd = rearrange(x, 'b c h w -> b (h w c)').double()
    return x_bd.mean(0), x_bd.T.cov() + torch.eye(x_bd.shape[1])

@pytest.mark.parametrize('data', ('digits', 'photos'))
def test_means_of_beginnings(data):
    "Each image's own mask: the textbook's conditional mean and variance, the seen pixels as they are."
    x = images(data, 'train')[:, :, :8, :8]; mu, S = normal_of(x); g = rng(0); d = len(mu); c = x.shape[1]
    for _ in range(6):
        n = torch.tensor([0., .1, .5, .9, 1.]); seen, mean, error = beginnings(x[:5], mu, S, random_order(8, 8, g), n)
        assert seen.sum((1, 2, 3)).tolist()==(n*64).round().tolist()
        for m, x_hat, e, x_true in zip(seen, mean, error, x):
            s = m.expand(c, -1, -1).permute(1, 2, 0).flatten(); row = x_true.permute(1, 2, 0).flatten().double()
            W = torch.linalg.solve(S[s][:, s], S[s][:, ~s]) if s.any() else torch.zeros(0, d).double()
            by_hand = row.clone(); by_hand[~s] = mu[~s] + (row[s] - mu[s]) @ W
            assert torch.allclose(x_hat.permute(1, 2, 0).flatten(), by_hand.float(), atol=.05)
            assert abs(e - (S[~s][:, ~s] - S[~s][:, s] @ W).trace()) <= 1e-3*abs(e) + 1e-2

@pytest.mark.parametrize('h, w', ((8, 8), (28, 28), (6, 32)))
def test_orders_differ_and_have_the_shape(h, w):
    g = rng(0); orders = [random_order(h, w, g) for _ in range(40)]
    assert all(o.shape==(h, w) and o.isfinite().all() for o in orders) and len({tuple(o.flatten().argsort().tolist()) for o in orders}) > 30

def test_masks_show_something_and_hide_something():
    g = rng(0); shares = torch.tensor([float(random_mask(6, 8, g).float().mean()) for _ in range(400)])
    assert shares.min()*48 >= 1 and shares.max() <= .95 and shares.min() < .1 and shares.max() > .85

@pytest.mark.parametrize('shape', ((1, 8, 8), (3, 28, 28), (3, 10, 6)))
def test_what_is_hidden_is_not_looked_at(shape):
    net, g = init_(MaskedNet(MaskedConfig(width=16), shape), rng(0)), rng(1)
    x = torch.randint(256, (2, *shape), generator=g, dtype=torch.uint8); seen = torch.rand(2, 1, *shape[1:], generator=g) < .5
    mean = torch.full((2, *shape), 100.); out = net(x, seen, mean); assert out.shape==x.shape
    assert torch.equal(net(torch.where(seen, x, 255 - x), seen, mean), out) and not torch.allclose(net(torch.where(seen, 255 - x, x), seen, mean), out)

def test_training_resumes_with_the_same_numbers(tmp_path):
    x = images('digits', 'train')[:64]; normal, config = normal_of(x), MaskedConfig(width=4, epochs=3, mirror=True)
    def fit(*ckpt): return fit_masked(x, normal, config, rng(0), *ckpt, progress=False)
    whole, (again, n) = fit(), in_slices(lambda: fit(tmp_path/'c')); assert n==3
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values()))
    made = MaskedNet.from_state(*whole.state()); assert made.config==config and made.shape==(1, 8, 8)

def test_refusals():
    with pytest.raises(Refused, match='noise of more than 0 grey levels, got 0'): MaskedNet(MaskedConfig(noise=0.), (1, 8, 8))
    with pytest.raises(Refused, match='even number of rows and columns, got 7×8'): MaskedNet(MaskedConfig(), (1, 7, 8))
