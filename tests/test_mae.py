"The masked auto-encoder and the PCA control: what a feature may depend on, learning, resumption, files, refusals."
import pytest, torch
from pcdistill import teacher
from pcdistill.core import Refused, rng
from pcdistill.data import images
from pcdistill.latents import extract, features, load_teacher
from pcdistill.mae import MAE, MAEConfig, around
from pcdistill.runs import save
from pcdistill.clusters import assign
from pcdistill.extra.controls import PCATeacher, fit_pca
from pcdistill.teacher import Teacher, bound, init_

SHORT = MAEConfig.tiny(2, K=8, epochs=3, per_epoch=128)

@pytest.fixture(scope='module')
def digits(): return images('digits', 'train', 256)

@pytest.fixture(scope='module')
def model(digits): return MAE.fit(digits, SHORT, rng(0), progress=False)

def same(a, b): return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())

@pytest.mark.parametrize('gh,gw', [(1, 2), (3, 4), (5, 5)])
def test_neighbours_are_those_within_one_step(gh, gw):
    n9, out = around(gh, gw)
    for n in range(gh*gw):
        near = {a*gw+b for a in range(gh) for b in range(gw) if abs(a-n//gw) <= 1 and abs(b-n % gw) <= 1}
        assert set(n9[n][~out[n]].tolist())==near and n9[n, 0]==n and (~out[n]).sum()==len(near)

def test_a_feature_depends_on_its_neighbourhood_only(digits, model):
    x = digits[:3]; f, g = model.features(x), 4
    for n in range(16):
        other = x.clone(); i, j = divmod(n, g); other[:, :, 2*i, 2*j] ^= 128
        moved = (model.features(other)-f).abs().amax((0, 2)) > 1e-4
        assert moved.tolist()==[abs(m//g-i) <= 1 and abs(m % g-j) <= 1 for m in range(16)]

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

# --- the PCA control

def test_all_axes_are_the_pixels(digits):
    t = fit_pca(digits, 2, 8, rng(0), axes=4); assert isinstance(t, Teacher) and torch.allclose(t.axis_df.T @ t.axis_df, torch.eye(4), atol=1e-5)
    y = t.patches(digits).flatten(0, 1); assert (t.codes(digits).flatten()==assign(y, t.mean_kf @ t.axis_df.T + t.mid_d)).float().mean() > .999
    assert torch.allclose(*(torch.pdist(a[:50].double()) for a in (y, t.features(digits).flatten(0, 1))), atol=.01)

def test_axes_are_ordered_and_few_lose_little(digits):
    var = [fit_pca(digits, 4, 4, rng(0), axes=n).features(digits).flatten(0, 1).var(0) for n in (2, 16)]
    assert torch.allclose(var[0], var[1][:2], rtol=1e-3) and (var[1][:-1] >= var[1][1:]*.999).all()

def test_pca_repeats_saves_and_refuses(digits, tmp_path):
    t = fit_pca(digits, 4, 8, rng(0), axes=3); assert same(t, fit_pca(digits, 4, 8, rng(0), axes=3))
    save(tmp_path/'t', *t.state()); again = load_teacher(tmp_path/'t')
    assert type(again) is PCATeacher and torch.equal(again.log_cond(digits[:9]), t.log_cond(digits[:9])) and bound(t, None, digits[:9]).conditional_b.isfinite().all()
    with pytest.raises(Refused): fit_pca(digits, 4, 8, rng(0), axes=0)
    assert fit_pca(digits, 4, 8, rng(0), axes=17).axis_df.shape==(16, 16)                   # at most as many as a patch has numbers
