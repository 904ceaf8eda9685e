"""Everything on another device (far.py: tensors that say so, and complain like a GPU): the same numbers as on the CPU,
no tensor in the wrong place, and nothing to wait for in the steps of training. And benchmarks/gpu.py, rehearsed."""
import copy, json, sys
from pathlib import Path
import pytest, torch
import brute
from far import FAR, far_away
from pcdistill import chain as R, normals as N
from pcdistill.circuit import Circuit, sample
from pcdistill.core import Refused, products, rng
from pcdistill.data import images
from pcdistill.either import Either
from pcdistill.em import EM, fit
from pcdistill.emission import Soft, moments_of_rows
from pcdistill.inputs import Categorical, Evidence
from pcdistill.extra.innovations import InnovationsConfig, fit_innovations, fit_network
from pcdistill.inpainting import inpaint
from pcdistill.latents import TEACHERS, kind_of
from pcdistill.extra.masked import MaskedConfig
from pcdistill.masses import log_mass_normal
from pcdistill.normals import Normals, fit_mixture, start_
from pcdistill.priors import PriorConfig, fit_prior, simple_priors
from pcdistill.recipes import recipe
from pcdistill.structure import binary_tree, chain
from pcdistill.teacher import bound, train
from pcdistill.tiles import Tiles
from pcdistill.trees import Trees
from test_emission import PREDICTED

def alike(here, there, atol=1e-5):
    "Numbers made here and far away."
    a, b = here.detach(), there.detach().cpu()
    assert there.device==FAR and torch.allclose(a.double(), b.double(), atol=atol, rtol=1e-4, equal_nan=True), (a, b)

# --- the device itself

def test_what_a_gpu_refuses_is_refused():
    with far_away() as device:
        x = torch.arange(6., device=FAR)
        assert (x + 1).sum()==21 and x[x > 3].shape==(2,) and x[[1, 2]].tolist()==[1, 2]
        for wrong in (lambda: x + torch.ones(6), lambda: torch.ones(6)[x.long()], lambda: torch.where(torch.ones(6) > 0, x, 0.),
                      lambda: torch.rand(3, generator=rng(0), device=FAR), lambda: torch.rand(3, generator=rng(0, FAR)), lambda: torch.bmm(x[None, None], torch.ones(1, 6, 1))):
            with pytest.raises(RuntimeError, match='devices|generator'): wrong()
        with pytest.raises(TypeError, match='numpy'): x.numpy()
        assert torch.equal(torch.rand(3, generator=rng(0, FAR), device=FAR).cpu(), torch.rand(3, generator=rng(0)))
        assert sum(device.waits.values()) >= 3 and sum(device.bus.values()) >= 2

# --- circuits

@pytest.mark.parametrize('kind', brute.KINDS)
def test_circuits(kind):
    pc = brute.circuit_of(kind, 0)
    n, V = pc.n_vars, pc.inputs.n_values
    x, seen = torch.randint(0, V, (9, n), generator=rng(3)), torch.rand(9, n, generator=rng(4)) < .5
    with far_away():
        far, y, shown = copy.deepcopy(pc).to(FAR), x.to(FAR), seen.to(FAR)
        alike(pc(x, seen), far(y, shown)); alike(brute.flows(pc, x, seen), brute.flows(far, y, shown))
        drawn = sample(far, y, shown, rng(5, FAR))
        assert torch.equal(drawn[shown].cpu(), x[seen])
        for c, rows in ((pc, x), (far, y)): (-c(rows).sum()).backward(); EM(c, .5, .1).step()
        alike(pc(x), far(y))

def test_nothing_waits_in_a_step_of_em():
    "No value is read, no mask looked up, nothing goes over the bus: a CUDA graph can hold it."
    with far_away() as device:
        pc = Circuit(binary_tree(15), Categorical(15, 8, 4, rng(0)), 2, rng(1)).to(FAR)
        x, em = torch.randint(0, 8, (20, 15), generator=rng(2)).to(FAR), EM(pc, .5, .1)
        for _ in range(2):
            device.waits.clear(); device.bus.clear()
            (-pc(x).sum()).backward(); em.step()
        assert not device.waits and not device.bus, (device.waits, device.bus)

def test_values_outside_are_told_at_the_end_of_an_epoch():
    with far_away():
        pc = Circuit(binary_tree(3), Categorical(3, 4, 2, rng(0)), 1, rng(1)).to(FAR)
        x = torch.tensor([[0, 1, 2], [3, 4, 0]]).to(FAR)
        assert pc(x).isnan().any() and not pc(x[:1]).isnan().any()
        with pytest.raises(Refused, match='finite'): fit(pc, lambda at: pc(x[at])[:, 0], 2, rng(0), epochs=1, progress=False)

# --- emissions

def tiles(part, n, heads=1):
    d = part.n_vars
    return Tiles(part, Circuit(chain(n), Evidence(n, part.n_heads), heads, rng(2)), torch.arange(n*d).view(n, d))

def normals(K, d):
    e, x = Normals(K, d, 8, max(1, K//2)), torch.randint(0, 8, (200, d), generator=rng(8))
    start_(e, x, torch.arange(200) % max(1, K//2))
    return e

EMISSIONS = {'trees': lambda: Trees([binary_tree(6)], 8, [3], [4], gen=rng(0)), 'logistic': lambda: Trees([chain(6)], 8, [2], [3], 'logistic', rng(0)),
             'trees side by side': lambda: Trees([binary_tree(6), chain(6)], 8, [3, 2], [4, 3], gen=rng(0), counts=[5, 1, 2, 2, 3]),
             'normals': lambda: normals(4, 6), 'residuals': lambda: PREDICTED.Predicted(Trees([binary_tree(6)], 8, [3], [4], gen=rng(0))),
             'cut normals': lambda: Either([normals(4, 6), tiles(normals(4, 3), 2, 2)])}

@pytest.mark.parametrize('name', EMISSIONS)
def test_emissions(name):
    e = EMISSIONS[name]()
    y, K = torch.randint(0, 8, (6, 6), generator=rng(3)), e.n_heads
    seen = torch.arange(6).expand(6, 6) < torch.arange(6)[:, None] + 1 if name=='residuals' else torch.rand(6, 6, generator=rng(4)) < .5
    w, k = torch.rand(6, K, generator=rng(5)).softmax(1), torch.arange(6) % K
    soft = Soft(y.float(), torch.where(seen, 0., .3))
    with far_away():
        far = copy.deepcopy(e).to(FAR)
        Y, S, W, k = (t.to(FAR) for t in (y, seen, w, k))
        beliefs = [(None, None)] if name=='residuals' else [(None, None), (soft, soft.each(lambda t: t.to(FAR)))]
        for here, there in beliefs:
            alike(e(y, seen, here), far(Y, S, there), 1e-4)
            if name!='residuals': alike(e.marginals(y, seen, w, here), far.marginals(Y, S, W, there), 1e-4)
            moments_of_rows(far, Y, S, W, there)
            drawn = far.draw(Y, S, k, rng(6, FAR), there)
            assert torch.equal(drawn[S].cpu(), y[seen]) and int(drawn.min()) >= 0 and int(drawn.max()) < 8
        alike(e.exact(seen).float(), far.exact(S).float()); alike(e.label(y, torch.arange(6) % 2).float(), far.label(Y, torch.arange(6, device=FAR) % 2).float())
        far.atoms(lambda a, x: a.dequantised(x, rng(7, FAR)) + a.rounded(x, rng(7, FAR)), Y)
        coder = copy.deepcopy(far).double().coder(6)
        for d in far.order_d.tolist()[:2]: coder.table(torch.zeros(6, K, dtype=torch.double, device=FAR)); coder.tell(Y[:, d])
        for m, x in ((e, y), (far, Y)):
            (-m(x, density=True).logsumexp(1).sum()).backward()
            if name!='logistic': EM(m.requires_grad_(), .5, 1.).step() # its derivatives forward (torch.func) do not know such tensors
        alike(e(y, density=True), far(Y, density=True), 1e-3)

def test_counts_of_normals_are_one_product():
    "On a GPU no component is looked up; the counts are those of the CPU, which takes components one by one."
    x = (128 + 40*torch.randn(300, 6, generator=rng(0))).round().clamp(0, 255)
    made = {}
    with far_away() as device:
        for dev in ('cpu', FAR):
            e = Normals(6, 6, 256, 3).to(dev)
            start_(e, x.to(dev), (torch.arange(300) % 3).to(dev))
            device.waits.clear(); device.bus.clear()
            (-e.log_joint(x.to(dev)).logsumexp(1).sum()).backward()
            made[dev] = e.count.cpu()
        assert not device.waits, device.waits
    assert torch.allclose(*made.values(), rtol=1e-4, atol=1e-3)

def test_masses_far_out():
    e, s = torch.tensor([[0., 30., 200., -200.]]), torch.tensor([[1., .5, 1., 2.]])
    low, high = torch.tensor([[False, False, True, False]]), torch.tensor([[False, False, False, False]])
    with far_away() as device:
        there = log_mass_normal(*(t.to(FAR) for t in (e, s, low, high)))
        assert not device.waits
        alike(log_mass_normal(e, s, low, high), there)

# --- teachers, priors, the chain, completions

@pytest.mark.parametrize('kind', TEACHERS)
def test_teachers(kind):
    x = images('digits', 'train', 40)
    made = kind_of(kind)
    changes = {k: v for k, v in dict(epochs=1, passes=1, batch=10).items() if k in made.Config.__dataclass_fields__}
    config = made.Config(**dict(getattr(made.Config, 'TINY', {}), patch=4, **changes) | dict({'K': 8} if 'K' in made.Config.__dataclass_fields__ else {}))
    with far_away():
        teacher = made.fit(x.to(FAR), config, rng(0), progress=False)
        ids = teacher.codes(x.to(FAR))
        assert ids.device==FAR and teacher.features(x.to(FAR)).device==FAR
        here = made.fit(x, config, rng(0), progress=False) # the same random numbers, the same training
        assert (here.codes(x)==ids.cpu()).float().mean() > .9
        if teacher.has_likelihood:
            prior = simple_priors(ids.long(), teacher.n_codes)['tree']
            assert bound(teacher, prior, x.to(FAR)).conditional_b.isfinite().all()

def test_code_priors():
    ids = torch.randint(0, 4, (60, 3), generator=rng(0))
    with far_away(): fit_prior(ids.to(FAR), (4, 4, 4), PriorConfig.tiny(epochs=1, width=8, heads=2, layers=1), rng(1), progress=False)

def test_the_chain(tmp_path):
    "All stages and pictures, with files between them: the bits of the CPU."
    r = recipe('digits', teacher='pixels', clusters=8, n_train=60, n_test=10, epochs=1, autoregressive=False, emission=dict(states=4, epochs=1))
    here = R.distill(r, tmp_path/'here', 'cpu', progress=False).results
    with far_away(): there = R.distill(r, tmp_path/'there', 'meta', progress=False).results
    for part in ('student', 'teacher', 'lvd_start'):
        assert abs(here[part]['bits'] - there[part]['bits']) < 1e-3
    assert there['baselines'].keys()==here['baselines'].keys()

def test_completions():
    x, seen = images('photos', 'train', 60)[:, :, :8, :8].contiguous(), torch.arange(8).expand(8, 8) < 4
    config = MaskedConfig(epochs=1, through=1, batch=20, width=4)
    with far_away():
        model = fit_innovations(x[:40].to(FAR), x[40:].to(FAR), InnovationsConfig(K=4, cell=4, epochs=1), rng(0), progress=False)
        r = inpaint(fit_network(model, x[:40].to(FAR), config, rng(1), progress=False), x[:3].to(FAR), seen, 2, rng(2, FAR))
        assert r.samples.device==FAR and r.log_hidden_b.isfinite().all()

# --- how exact products are

def test_training_rounds_factors_and_scores_do_not(monkeypatch):
    exact = torch.backends.cuda.matmul, torch.backends.cudnn
    rounds = lambda: tuple(b.allow_tf32 for b in exact)
    pc, said = Circuit(binary_tree(3), Categorical(3, 4, 2, rng(0)), 1, rng(1)), {}
    x = torch.randint(0, 4, (8, 3), generator=rng(2))
    def log_prob(at): said['circuit'] = rounds(); return pc(x[at])[:, 0]
    def validate(): said['score'] = rounds(); return 0.
    fit(pc, log_prob, 8, rng(0), epochs=1, progress=False, validate=validate)
    class Net(torch.nn.Linear):
        def loss(self, rows, gen, done): said['network'] = rounds(); return self(rows).sum()
    train(Net(3, 1), x.float(), MaskedConfig(epochs=1, batch=4), rng(0), progress=False)
    residuals, e = N._residuals, Normals(2, 3, 4)
    def seen(e): said['normals'] = said.get('normals', set()) | {rounds()}; return residuals(e)
    monkeypatch.setattr(N, '_residuals', seen)
    fit_mixture(e, x, rng(0), 1, progress=False)
    assert said==dict(circuit=(True, True), network=(True, True), score=(False, False), normals={(False, False)})
    assert rounds()==(False, False)
    with pytest.raises(ZeroDivisionError), products(tf32=True): 1/0
    assert rounds()==(False, False)

# --- the script for a card

def test_the_script_for_a_card_runs_whole(tmp_path, monkeypatch):
    "At sizes of no interest, on the CPU: every part gives rows, none fails, and the file is JSON."
    monkeypatch.syspath_prepend(Path(__file__).parents[1]/'benchmarks')
    for name in ('chain', 'w1', 'streaming'): sys.modules.pop(name, None)
    import gpu
    out = gpu.main(['--small', '--device', 'cpu', '--json', str(tmp_path/'gpu.json')])
    assert json.loads((tmp_path/'gpu.json').read_text())==json.loads(json.dumps(out))
    assert out['device']=='CPU' and out['torch']==torch.__version__ and out['chain_data'].startswith('crops') and out['whole_chain_minutes'] > 0
    for part in gpu.PARTS:
        wrong = {k: v for k, v in out[part].items() if 'failed' in v or 'left_out' in v}
        assert out[part] and not wrong, (part, wrong)
    assert all(row['ok'] for row in out['agreement'].values())
    assert gpu.work(lambda: torch.ones(4, 8) @ torch.ones(8, 2))[:2]==(2*4*8*2, 4*(32 + 16) + 4*(32 + 16 + 8))

def test_a_row_that_fails_or_comes_too_late_says_so(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1]/'benchmarks')
    import gpu
    bench = gpu.Bench(torch.device('cpu'), True, 1, tmp_path/'gpu.json')
    bench.row('part', 'fails', lambda: 1/0)
    bench.row('part', 'late', lambda: {}, 61)
    bench.row('part', 'fine', lambda: dict(seconds=1.))
    rows = json.loads((tmp_path/'gpu.json').read_text())['part']
    assert 'ZeroDivisionError' in rows['fails']['failed'] and '61 wanted' in rows['late']['left_out'] and rows['fine']['seconds']==1
