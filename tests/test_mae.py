"The masked auto-encoder: what a feature may depend on, learning, resumption, files, refusals."
import pytest, torch
from pcdistill import teacher
from pcdistill.core import Refused, rng
from pcdistill.data import images
from pcdistill.latents import extract, features, load_teacher
from pcdistill.extra.mae import MAE, MAEConfig
from pcdistill.runs import save
from pcdistill.teacher import Teacher, bound, init_

SHORT = MAEConfig.tiny(2, K=8, epochs=3, per_epoch=128)

@pytest.fixture(scope='module')
def digits(): return images('digits', 'train', 256)

@pytest.fixture(scope='module')
def model(digits): return MAE.fit(digits, SHORT, rng(0), progress=False)

def same(a, b): return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())

@pytest.mark.parametrize('gh,gw', [(1, 2), (3, 4), (4, 4), (5, 5)])
def test_a_feature_depends_on_its_neighbourhood_only(gh, gw):
    t = init_(MAE(SHORT, (1, 2*gh, 2*gw)), rng(0)).eval().requires_grad_(False)
    x = torch.randint(0, 256, (3, 1, 2*gh, 2*gw), generator=rng(1), dtype=torch.uint8); f = t.features(x)
    for n in range(gh*gw):
        other = x.clone(); i, j = divmod(n, gw); other[:, :, 2*i, 2*j] ^= 128
        moved = (t.features(other)-f).abs().amax((0, 2)) > 1e-4
        assert moved.tolist()==[abs(m//gw-i) <= 1 and abs(m % gw-j) <= 1 for m in range(gh*gw)]

def test_a_feature_is_the_token_among_its_neighbours(digits, model):
    "A corner: its encoder sees four tokens and nothing else."
    t = model.tokens(model.pixels(digits[:3])); at = [0, 1, 4, 5]
    with torch.no_grad(): e = model.encoder(t[:, at])[:, 0] - model.mid_nf[0]
    assert torch.allclose(model.features(digits[:3])[:, 0], e, atol=1e-5)

def test_hidden_patches_are_not_seen(digits, model):
    x = digits[:4]; seen = torch.arange(16) % 3==0; other = x.clone(); other[:, :, 0:2, 2:4] = 99     # patch 1 is hidden
    def guess(x, seen): return model.guess(model.pixels(x), seen.nonzero().flatten().expand(len(x), -1))
    assert torch.equal(guess(x, seen), guess(other, seen)) and not torch.equal(guess(x, ~seen), guess(other, ~seen))

def test_it_learns(digits, model):
    fresh = init_(MAE(SHORT, (1, 8, 8)), rng(0)); loss = lambda m: torch.stack([m.loss(digits, rng(s)) for s in range(5)]).mean()
    longer = MAE.fit(digits, MAEConfig.tiny(2, K=8, epochs=12), rng(0), progress=False)
    with torch.no_grad(): assert loss(longer) < .8*loss(model) and loss(model) < .9*loss(fresh)

def test_same_seed_same_numbers_also_when_killed(digits, model, tmp_path, monkeypatch):
    assert same(MAE.fit(digits, SHORT, rng(0), progress=False), model) and not same(MAE.fit(digits, SHORT, rng(1), progress=False), model)
    plain, keep, calls = MAE.loss, teacher.resumable, []
    monkeypatch.setattr(teacher, 'resumable', lambda *a, **k: keep(*a, **{**k, 'every_s': 0.}))
    def dying(*args):
        calls.append(1)
        if len(calls)==6: raise RuntimeError('killed')
        return plain(*args)
    with monkeypatch.context() as m, pytest.raises(RuntimeError, match='killed'):
        m.setattr(MAE, 'loss', dying); MAE.fit(digits, SHORT, rng(0), tmp_path/'c', progress=False)
    assert same(MAE.fit(digits, SHORT, rng(77), tmp_path/'c', progress=False), model)       # the generator comes from the file

def test_it_is_a_teacher_without_a_likelihood(digits, model, refuses):
    assert isinstance(model, Teacher) and model.codes(digits).shape==(256, 16) and model.features(digits).shape==(256, 16, 48)
    refuses(lambda: bound(model, None, digits[:2]), 'no likelihood')
    assert model.features(digits).mean((0,)).abs().max() < 1e-3                              # what only tells the place is taken off
    ids = extract(model, digits); assert torch.equal(ids, model.codes(digits).byte()) and torch.equal(features(model, digits, ids), model.features(digits))

@pytest.mark.parametrize('c,h,w,p', [(3, 12, 18, 6), (1, 28, 28, 7), (3, 4, 8, 4)])
def test_any_shape_saves_and_loads(c, h, w, p, tmp_path):
    x = torch.randint(0, 256, (20, c, h, w), generator=rng(0), dtype=torch.uint8)
    t = MAE.fit(x, MAEConfig.tiny(p, K=4, epochs=1, batch=8), rng(0), progress=False); save(tmp_path/'t', *t.state())
    assert torch.equal(load_teacher(tmp_path/'t').codes(x), t.codes(x))

def test_what_cannot_be_is_refused(digits, model, refuses):
    for bad in (digits[:2].float(), digits[:2, :, :4], digits[0]):
        with pytest.raises(Refused): model.codes(bad)
    refuses(lambda: MAE.fit(digits, MAEConfig.tiny(3), rng(0), progress=False), 'patch size')
    refuses(lambda: MAE.fit(digits, MAEConfig.tiny(8), rng(0), progress=False), 'two patches')
    refuses(lambda: MAE.fit(digits[:1], MAEConfig.tiny(2, K=32), rng(0), progress=False), '32 codes')
