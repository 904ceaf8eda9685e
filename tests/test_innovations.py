"A circuit over innovations: normalised for every mask, its moments and draws, the normal itself where K is 1, EM, files, the pad, refusals."
import copy, itertools, math
import pytest, torch
from pcdistill.circuit import Circuit
from pcdistill.core import Refused, rng
from pcdistill.data import images
from pcdistill.inpainting import inpaint, load_completer
from pcdistill.extra.innovations import Asked, Innovations, InnovationsConfig, dequantised, fit_innovations, fit_network
from pcdistill.inputs import Evidence
from pcdistill.extra.masked import MaskedConfig, MaskedNet, fit_masked
from pcdistill.runs import load, save
from pcdistill.structure import chain
from pcdistill.teacher import init_
from pcdistill.widgets import inpaint_pad
from cells import EXTRA, definitions
from stopping import Stopped, stopped

narrowed = definitions(EXTRA/'innovations.ipynb').narrowed

def small(K=3, seed=0, h=4, w=4, c=1, cell=2, network=False):
    "Images of 4×4, cells of 2×2, normals of very different size."
    g = rng(seed); d = c*h*w; A = torch.randn(d, d, generator=g)
    m = Innovations(128 + 10*torch.randn(d, generator=g), 30*(A @ A.T + d*torch.eye(d)), (c, h, w), cell, K)
    with torch.no_grad():
        B = torch.randn(K, *m.cells.Lam_kde.shape[1:], generator=g); size = torch.logspace(-.6, .6, K)[:, None, None] if K > 1 else torch.ones(1, 1, 1)
        if K > 1: m.cells.Lam_kde.copy_(torch.linalg.inv(size*(B @ B.mT/len(B[0]) + .3*torch.eye(len(B[0])))))
        m.prior = Circuit(chain(len(m.at_pe)), Evidence(len(m.at_pe), K), 1, g)
    if network: m.network = init_(MaskedNet(MaskedConfig(width=4), (c, h, w)), g)
    return m.requires_grad_(False)

def picture(b=2, seed=1, c=1): return torch.randint(60, 200, (b, c, 4, 4), generator=rng(seed), dtype=torch.uint8)

def mask(*hidden):
    seen = torch.ones(4, 4, dtype=torch.bool)
    for i, j in hidden: seen[i, j] = False
    return seen

PAIRS = [((0, 0), (3, 3)), ((1, 1), (1, 2)), ((2, 0), (2, 1)), ((0, 3), (1, 3))]      # in two cells, across a border, in one cell

@pytest.mark.parametrize('network', (False, True))
@pytest.mark.parametrize('hidden', PAIRS)
def test_two_hidden_values_by_a_grid(hidden, network):
    "Mass, mean and covariance of the density of two values are what they are said to be."
    m, x, seen = small(network=network), picture(1), mask(*hidden); asked = Asked(m, x, seen); sd = asked.sd()[0]
    at = [torch.linspace(float(mu - 9*s), float(mu + 9*s), 141).double() for mu, s in zip(asked.mean_bh[0], sd)]
    grid = torch.cartesian_prod(*at); many = Asked(m, x.expand(len(grid), -1, -1, -1), seen)
    rows = many.x_bd.index_copy(1, many.order.h, grid); p = many.log_prob(rows).exp().view(141, 141)
    cell = (at[0][1]-at[0][0])*(at[1][1]-at[1][0]); mass = p.sum()*cell
    first = [(p.sum(1-i)*at[i]).sum()*cell for i in (0, 1)]; second = [((p.sum(1-i)*(at[i]-first[i])**2).sum()*cell).sqrt() for i in (0, 1)]
    assert abs(mass - 1) < 1e-2 and torch.allclose(torch.stack(first), asked.mean_bh[0], atol=.2) and torch.allclose(torch.stack(second), sd, rtol=.03)

@pytest.mark.parametrize('hidden', PAIRS + [tuple(itertools.product(range(4), (0, 1))), tuple(itertools.product(range(4), range(4)))])
def test_with_one_normal_it_is_the_normal(hidden):
    "K = 1, T = I: the conditional of the normal, whatever the mask."
    m, x, seen = small(K=1), picture(), mask(*hidden); asked = Asked(m, x, seen); S, mu = m.S_dd.double(), m.mu_d.double()
    h, v = (~seen).flatten().nonzero().flatten(), seen.flatten().nonzero().flatten(); W = torch.linalg.solve(S[v][:, v], S[v][:, h]) if len(v) else torch.zeros(0, len(h)).double()
    mean, left = mu[h] + (asked.x_bd[:, v] - mu[v]) @ W, S[h][:, h] - S[h][:, v] @ W
    by_hand = torch.stack([torch.distributions.MultivariateNormal(mn, left).log_prob(r) for mn, r in zip(mean, asked.x_bd[:, h])])
    place = {int(d): i for i, d in enumerate(asked.order.h)}; back = [place[int(d)] for d in h]
    assert torch.allclose(asked.mean_bh[:, back], mean, atol=1e-6) and torch.allclose(asked.log_prob(asked.x_bd), by_hand, atol=1e-3)
    assert torch.allclose(asked.sd()[:, back], left.diagonal().sqrt().expand(2, -1), rtol=1e-4)

@pytest.mark.parametrize('hidden', PAIRS[1:3])
def test_log_prob_sums_over_all_latents(hidden):
    "Against the sum over every assignment of the four cells' latents."
    m, x, seen = small(), picture(1), mask(*hidden); asked = Asked(m, x, seen); o = asked.order; lp = asked.lp_bpk[0]
    y = asked.innovations(asked.x_bd); more = m.told(y, asked.parts)[0]
    def all_of(lp_pk): return torch.stack([sum(lp_pk[p, k] for p, k in enumerate(z)) + log_prior(z) for z in itertools.product(range(3), repeat=4)]).logsumexp(0)
    def log_prior(z):
        one = torch.full((1, 4, 3), -math.inf); one[0, range(4), z] = 0.
        return m.prior(one)[0, 0]
    assert abs(all_of(lp + more) - all_of(lp) - o.log_det - asked.log_prob(asked.x_bd)[0]) < 1e-3

@pytest.mark.parametrize('network', (False, True))
@pytest.mark.parametrize('hidden', PAIRS)
def test_the_integers_have_mass_one(hidden, network):
    "All 65,536 values of two hidden pixels; and close to the density where normals are wide."
    m, x, seen = small(network=network), picture(1), mask(*hidden); i, j = (a*4 + b for a, b in hidden)
    both = torch.cartesian_prod(torch.arange(256), torch.arange(256)).byte(); rows = x.view(1, 16).repeat(len(both), 1); rows[:, i], rows[:, j] = both.T
    asked = Asked(m, rows.view(-1, 1, 4, 4), seen); lp = asked.log_mass(); assert abs(lp.exp().sum() - 1) < 1e-3
    inside = ((both > 20) & (both < 235)).all(1) & (lp > lp.max() - 4); assert inside.any() and (lp - asked.log_prob(asked.x_bd))[inside].abs().mean() < .05

def test_the_integers_of_whole_images_by_the_chain():
    "Variable by variable, for one normal a cell: products of normal masses, by hand."
    m, x = small(K=1), picture(3); none = torch.zeros(4, 4, dtype=torch.bool); asked = Asked(m, x, none); o = asked.order
    L, r = o.L_hh, torch.zeros(3, 16).double(); nats = torch.zeros(3).double(); v = asked.x_bd[:, o.h]
    for d in range(16):
        mean = o.mu_h[d] + r[:, :d] @ L[d, :d]; n = torch.distributions.Normal(mean, L[d, d])
        up, low = (n.cdf(v[:, d] + s*.5) for s in (1, -1)); nats += (torch.where(v[:, d]==255, 1., up) - torch.where(v[:, d]==0, 0., low)).log(); r[:, d] = (v[:, d] - mean)/L[d, d]
    assert torch.allclose(asked.log_mass(), nats, atol=1e-3)

def test_draws_follow_mean_sd_and_keep_what_is_seen():
    m, n, seen = small(), 6000, mask((1, 1), (1, 2), (2, 2)); x = picture(1).expand(n, -1, -1, -1)
    asked = Asked(m, x, seen); made = asked.draw(rng(2)); inside = asked.sd()[0] < 60
    drawn = made.flatten(1)[:, asked.order.h].double(); mean, sd = asked.mean_bh[0], asked.sd()[0]
    keep = inside & (mean > 4*sd.clamp(max=30)) & (mean < 255 - 4*sd.clamp(max=30))
    assert torch.equal(made[:, :, seen], x[:, :, seen]) and (abs(drawn.mean(0) - mean)[keep] < 5*sd[keep]/n**.5 + .5).all()
    assert torch.equal(made, Asked(m, x, seen).draw(rng(2))) and not torch.equal(made, asked.draw(rng(3)))

def test_draws_have_the_covariance_of_the_density():
    "Without rounding and clamping: small normals in the middle of the range."
    m, n, seen = small(), 40_000, mask((1, 1), (1, 2)); m.S_dd /= 40; m.mu_d.fill_(128); x = torch.full((n, 1, 4, 4), 128, dtype=torch.uint8)
    asked = Asked(m, x, seen); drawn = asked.draw(rng(4)).flatten(1)[:, asked.order.h].double(); sd = asked.sd()[0]
    assert torch.allclose(drawn.var(0) - 1/12, sd**2, rtol=.06)

def test_em_never_loses_and_a_killed_fit_goes_on(tmp_path):
    x, v = images('digits', 'train', 600), images('digits', 'valid', 100); c = InnovationsConfig(cell=4, K=6, n_fit=600, epochs=3, batch=600, lr=(1., 1.), pseudocount=1e-3, shrink=1e-2)
    none = torch.zeros(8, 8, dtype=torch.bool); lp = []
    for epochs in (0, 1, 2, 3):
        m = fit_innovations(x, v, InnovationsConfig(**{**vars(c), 'epochs': epochs}), rng(0), progress=False)
        asked = Asked(m, v, none); lp.append(float(asked.log_prob(dequantised(asked.x_bd, rng(1))).mean()))
    assert lp[0] < lp[1] < lp[2] < lp[3]
    whole = fit_innovations(x, v, c, rng(0), tmp_path/'a', progress=False); again = fit_innovations(x, v, c, rng(0), tmp_path/'a', progress=False)
    assert torch.equal(whole.cells.Lam_kde, again.cells.Lam_kde)

def test_files(tmp_path):
    m, x, seen = small(c=3), picture(c=3), mask((1, 1), (2, 2)); save(tmp_path/'m.safetensors', *m.state()); back = load_completer(tmp_path/'m.safetensors')
    a, b = (Asked(n, x, seen) for n in (m, back))
    assert torch.equal(a.log_prob(a.x_bd), b.log_prob(b.x_bd)) and torch.equal(a.draw(rng(0)), b.draw(rng(0)))
    save(tmp_path/'other.safetensors', dict(t=torch.zeros(1)), dict(kind='image'))
    with pytest.raises(Refused, match="wanted a completer out of innovations, got 'image'"): load_completer(tmp_path/'other.safetensors')

def test_inpaint_takes_masks_of_their_own():
    m, x = small(), picture(4); seen = torch.stack([mask((1, 1)), mask((2, 2), (0, 0)), mask((1, 1)), mask()])
    r = inpaint(m, x, seen, 2, rng(0)); assert r.samples.shape==(2, 4, 1, 4, 4) and r.exact.all() and torch.equal(r.seen, seen)
    for i in range(4):
        one = inpaint(m, x[i:i+1], seen[i], 0, rng(0))
        for f in ('mean', 'entropy', 'log_hidden_b', 'log_seen_b'): assert torch.allclose(getattr(one, f).float(), getattr(r, f)[i:i+1].float(), atol=1e-3), f
    assert float(r.log_hidden_b[3])==0. and (r.entropy[0][seen[0]]==0).all() and r.entropy[0, 1, 1] > 0
    assert torch.equal(r.mean[:, 0][seen], x[:, 0][seen].float())

def test_the_pad_asks_the_model_that_is_chosen():
    a, b = small(), small(seed=5); box = inpaint_pad(dict(one=a, other=b), picture(2), mask((1, 1), (1, 2)), n=2); first = box.result
    assert box.model.layout.display is None and box.model.value=='one'
    box.model.value = 'other'; second = box.result
    assert torch.equal(first.seen, second.seen) and not torch.equal(first.mean, second.mean)
    assert torch.allclose(second.mean, inpaint(b, picture(2)[:1], mask((1, 1), (1, 2)), 0).mean)
    box.pad.at = [1, 1]; assert 'hidden' in box.pad.readout and 'density' not in box.pad.readout
    assert inpaint_pad(a, picture(1), mask((1, 1)), n=1).model.layout.display=='none'

def test_what_is_refused():
    m, x = small(), picture()
    for bad in (lambda: Asked(m, picture(c=3), mask()), lambda: Asked(m, x, mask()[:2]), lambda: Innovations(torch.zeros(9), torch.eye(9), (1, 3, 3), 2),
                lambda: inpaint(m, x, mask((1, 1)), soft=(x.float(), x.float())), lambda: fit_innovations(x, x, InnovationsConfig(cell=3), rng(0))):
        with pytest.raises(Refused, match='wanted'): bad()

def test_parameters_that_change_are_seen():
    a, b, x = small(), small(seed=7), picture(); first = inpaint(a, x, mask((1, 1)), 0).mean; a.load_state_dict(b.state_dict())
    assert torch.equal(inpaint(a, x, mask((1, 1)), 0).mean, inpaint(b, x, mask((1, 1)), 0).mean) and not torch.equal(first, inpaint(a, x, mask((1, 1)), 0).mean)

@pytest.mark.parametrize('n,cell', [(2, 4), (5, 8), (30, 8)])
def test_few_images(n, cell):
    x, v = images('photos', 'train', n), images('photos', 'valid', 20); m = fit_innovations(x, v, InnovationsConfig(K=4, cell=cell, epochs=1), rng(0), progress=False)
    assert inpaint(m, v[:2], 'left', 1).log_hidden_b.isfinite().all()

def test_in_float64():
    torch.set_default_dtype(torch.float64)
    try: r = inpaint(small(), picture(), mask((1, 1), (1, 2)), 2, rng(0))
    finally: torch.set_default_dtype(torch.float32)
    assert torch.allclose(r.mean, inpaint(small(), picture(), mask((1, 1), (1, 2)), 2, rng(0)).mean, atol=50) and r.samples.dtype==torch.uint8

def test_entropy_is_within_what_integers_have():
    m = small(c=3); r = inpaint(m, picture(c=3), mask((0, 0), (1, 2)), 0); assert (r.entropy <= 24).all() and (r.entropy[:, 0, 0] > 0).all()

def test_a_network_says_what_to_expect(tmp_path):
    "Its mean, from what is seen only; saved with the model; not asked where nothing is seen."
    m, x, seen = small(network=True), picture(), mask((0, 0), (1, 2)); asked, plain = Asked(m, x, seen), Asked(small(), x, seen)
    whole = plain.images(plain.mean_bh).float(); hidden = ~seen.expand(2, 1, 4, 4)
    said = m.network(x, ~hidden, whole)[hidden].view(2, 2).double(); mean = whole[hidden].view(2, 2).double()
    h, v, S = hidden[0].flatten(), seen.flatten(), m.S_dd.double(); left = S[h][:, h] - S[h][:, v] @ torch.linalg.solve(S[v][:, v], S[v][:, h])
    def by_hand(noise): return mean + (said - mean) @ torch.linalg.inv(left + noise**2*torch.eye(2)) @ left
    assert torch.allclose(asked.images(asked.mean_bh)[hidden].view(2, 2), by_hand(m.network.config.noise), atol=1e-2)
    for noise, want in ((.01, said), (1e5, mean), (9., by_hand(9.))): assert torch.allclose(asked.order.believed(said, mean, noise), want, atol=.02)
    assert (asked.mean_bh - plain.mean_bh).abs().max() > 1
    other = Asked(m, torch.where(hidden, 255 - x, x), seen); assert torch.allclose(other.mean_bh, asked.mean_bh, atol=1e-3)
    nothing = torch.zeros(4, 4, dtype=torch.bool); assert torch.equal(Asked(m, x, nothing).mean_bh, Asked(small(), x, nothing).mean_bh)
    save(tmp_path/'m.safetensors', *m.state()); again = load_completer(tmp_path/'m.safetensors')
    assert torch.equal(Asked(again, x, seen).mean_bh, asked.mean_bh)
    assert torch.equal(inpaint(m, x, seen, 2, rng(0)).mean, inpaint(again, x, seen, 2, rng(0)).mean)
    save(tmp_path/'n.safetensors', *narrowed(m)); narrow = load_completer(tmp_path/'n.safetensors')
    assert (tmp_path/'n.safetensors').stat().st_size < .7*(tmp_path/'m.safetensors').stat().st_size and torch.allclose(Asked(narrow, x, seen).mean_bh, asked.mean_bh, atol=.5)
    assert {t.dtype for t in narrow.state_dict().values()}=={torch.float}

def test_a_covariance_in_half_precision_stays_one(tmp_path):
    "What is stored is a factor: ill-conditioned, it has no negative direction when it comes back."
    m = small(); v = torch.linspace(1, 50, len(m.S_dd)); m.S_dd.copy_(torch.outer(v, v) + .01*torch.eye(len(v)))
    save(tmp_path/'n.safetensors', *narrowed(m)); back = load_completer(tmp_path/'n.safetensors')
    assert (back.S_dd - m.S_dd).abs().max() < 2e-3*m.S_dd.max() and torch.linalg.eigvalsh(back.S_dd.double()).min() > 0
    assert (tmp_path/'n.safetensors').stat().st_size < 2*len(v)*(len(v)+1)/2 + 4*sum(t.numel() for k, t in m.state_dict().items() if k!='S_dd') + 4000

def test_a_network_is_trained_through_the_circuit(tmp_path):
    "Its loss falls and nothing else learns; alone first; a run that is stopped twice goes on with the same numbers."
    x, config = images('digits', 'train')[:128], MaskedConfig(width=4, epochs=2, through=6, batch=32, lr=8e-3)
    plain = fit_innovations(x, x[:64], InnovationsConfig(K=3, epochs=1), rng(0), progress=False)
    before = {k: v.clone() for k, v in plain.state_dict().items()}
    def fit(*ckpt): return fit_network(copy.deepcopy(plain), x, config, rng(0), *ckpt, progress=False)
    def loss(m):
        with torch.no_grad(): return sum(float(m.loss(x, g, 0.)) for g in map(rng, range(20)))/20
    m = fit(); alone = copy.deepcopy(plain); alone.network = fit_masked(x, (m.mu_d, m.S_dd), config, rng(0), progress=False)
    assert loss(m) < loss(alone) - .05 and not any(p.requires_grad for p in m.parameters())
    assert all(torch.equal(v, m.state_dict()[k]) for k, v in before.items())
    for _ in range(3):
        with pytest.raises(Stopped), stopped(): fit(tmp_path/'c')
    assert m.S_dd.shape not in {t.shape for t in load(tmp_path/'c.through.ckpt')[0].values()}      # only the network is kept
    again = fit(tmp_path/'c'); assert all(torch.equal(a, b) for a, b in zip(m.state_dict().values(), again.state_dict().values()))

def test_log_p_is_learnt_from(hidden=((1, 1), (1, 2))):
    "The gradient of log p̂ at the network's last weights, against a difference."
    m, x, seen = small(network=True), picture(), mask(*hidden); bias = m.network.out.bias.requires_grad_(True)
    def lp(): return (a := Asked(m, x, seen)).log_prob(a.x_bd).sum()
    lp().backward(); to = torch.randn(bias.shape, generator=rng(5))
    def at(step):
        with torch.no_grad(): bias.add_(step*to); out = float(lp()); bias.sub_(step*to)
        return out
    by_hand = (at(.05) - at(-.05))/.1; assert abs(float(bias.grad @ to) - by_hand) < .02*abs(by_hand) + 1e-2
