"Drawing functions against enumeration; wiring by setting what JavaScript would send. The browser itself: tests/browser."
import io, itertools, json, math, re
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image
import pcdistill
from pcdistill.blocks import GaussianBlock
from pcdistill.browsers import (best_patches, draw, growth_figure, growth_stepper, growth_text, latent_browser, latent_figure, latents, ledger_figure, ledger_view,
                                nearest, neighbours, places, sample_browser, sample_figure, swap, tempered)
from pcdistill.circuit import Circuit
from pcdistill.colour import COLOURS
from pcdistill.core import rng
from pcdistill.evaluate import ledger
from pcdistill.inputs import Categorical, Evidence
from pcdistill.joint import Joint
from pcdistill.leaf import HCLTLeaf
from pcdistill.structure import chain
from pcdistill.inpaint import fit_image
from pcdistill.widgets import Gallery, Pad, completion, gallery, inpaint_pad, log_true, pixel_text, sheet, viridis
from test_evaluate import ALL_X, some_bound, toy

def picture(data): return np.array(Image.open(io.BytesIO(data)))
def send(widget, **state): widget.set_state({k: memoryview(v) if isinstance(v, bytes) else v for k, v in state.items()})    # as it comes from JavaScript

def coloured(seed=0, K=3):
    "RGB images of 4×8 in two patches of 4×4, by a reversible colour map."
    leaf = HCLTLeaf(chain(48), Categorical(48, 511, 3, rng(seed)), K, rng(seed+1))
    return Joint(leaf, Circuit(chain(2), Evidence(2, K), 1, rng(seed+2)), COLOURS['ycocg_r'], 4, (3, 4, 8))

def lossy(K=3):
    "The same by a colour map that merges colours."
    leaf = HCLTLeaf(chain(48), Categorical(48, 256, 3, rng(0)), K, rng(1))
    return Joint(leaf, Circuit(chain(2), Evidence(2, K), 1, rng(2)), COLOURS['bt709_lossy'], 4, (3, 4, 8))

def normal(K=3):
    "The same by Gaussian leaves."
    return Joint(GaussianBlock(K, 48), Circuit(chain(2), Evidence(2, K), 1, rng(2)), COLOURS['rgb'], 4, (3, 4, 8))

X3 = torch.randint(0, 256, (6, 3, 4, 8), generator=rng(9), dtype=torch.uint8)

# --- pictures

@pytest.mark.parametrize('b,cols,c', [(1, 1, 1), (5, 3, 3), (8, 8, 1), (3, 9, 3)])
def test_a_sheet_holds_every_pixel(b, cols, c):
    x = torch.randint(0, 256, (b, c, 5, 4), generator=rng(b), dtype=torch.uint8); a = picture(sheet(x, cols)); k = min(cols, b)
    for i in range(b): assert (a[i//k*5:i//k*5+5, i%k*4:i%k*4+4]==x[i].expand(3, -1, -1).permute(1, 2, 0).numpy()).all()

def test_pictures_of_ones_own(refuses):
    x = X3[:1, :, :4, :4]; data = sheet(x, 1); assert torch.equal(fit_image(data, (3, 4, 4)), x)
    refuses(lambda: fit_image(b'', (1, 8, 8)), 'picture', '0 bytes'); refuses(lambda: fit_image(data[:-30], (1, 8, 8)), 'picture', f'{len(data)-30} bytes')

def test_scripts_ask_for_nothing():
    files = list((Path(pcdistill.__file__).parent/'assets'/'widgets').iterdir()); assert {f.name for f in files}=={'common.js', 'pad.js', 'gallery.js', 'widgets.css'}
    for f in files: assert not re.search(r'https?:|//\w+\.\w|\bimport\b|\bfetch\b|@import|XMLHttp|WebSocket', f.read_text(encoding='utf-8')), f
    assert 'export default' in Pad._esm and 'export default' in Gallery._esm

# --- the pad

@pytest.mark.parametrize('seed', range(3))
def test_pixel_under_the_cursor_by_enumeration(seed):
    joint = toy(seed); p_x = joint(ALL_X).double().exp().detach(); x = ALL_X[77+seed]; seen = torch.rand(2, 4, generator=rng(seed)) > .5; seen[0, 1] = False
    same = ((ALL_X==x) | ~seen).flatten(1).all(1); here = same & (ALL_X[:, 0, 0, 1]==x[0, 0, 1])
    lp, exact = log_true(joint, x, seen, 0, 1); assert exact and abs(math.exp(lp)-p_x[here].sum()/p_x[same].sum()) < 1e-5

def as_mask(seen): return (~seen).to(torch.uint8).numpy().tobytes()

@pytest.mark.parametrize('make', [coloured, normal])
def test_masks_arrive(make):
    box = inpaint_pad(make(), X3, n=2); shown = box.few.png
    assert box.result().seen.all() and 'nothing hidden' in box.big.names[0]
    seen = torch.ones(4, 8, dtype=torch.bool); seen[1:3, 2:6] = False
    send(box.pad, mask=as_mask(seen), at=[1, 2]); r = box.result()
    assert torch.equal(r.seen[0], seen) and box.few.png!=shown and 'row 1, column 2: hidden' in box.pad.readout
    assert ('density' in box.pad.readout) is (make is normal) and ('density' in box.big.names[0]) is (make is normal)
    a = picture(box.few.png)                                              # sample, sample, mean: where seen, the image
    for i in range(3): assert (a[:, 8*i:8*i+8][seen.numpy()]==X3[0].permute(1, 2, 0).numpy()[seen.numpy()]).all()
    assert (a[:, :8][~seen.numpy()]!=X3[0].permute(1, 2, 0).numpy()[~seen.numpy()]).any()
    send(box.pad, at=[0, 0]); assert 'seen\nvalue' in box.pad.readout
    first = r.samples; send(box.pad, mask=as_mask(torch.ones(4, 8).bool())); assert box.result().seen.all() and (box.result().samples==X3[0]).all()
    send(box.pad, mask=as_mask(seen)); assert torch.equal(box.result().samples, first)         # the same mask, the same samples
    send(box.pad, mask=as_mask(torch.zeros(4, 8).bool())); assert not box.result().seen.any()
    send(box.few, value=3); assert box.few.names[2]=='mean' and box.few.names[3].startswith('likely') and (picture(box.big.png)[:, :8]==box.result().likely[0].permute(1, 2, 0).numpy()).all()
    send(box.few, value=2); send(box.pad, blend=.5); assert torch.allclose(completion(box.result(), 2, .5), box.result().mean/255)

def test_images_of_the_pad():
    box = inpaint_pad(coloured(), X3, n=1); send(box.choose, value=3)
    assert torch.equal(box.result().image[0], X3[3]) and box.pad.image==X3[3].permute(1, 2, 0).contiguous().numpy().tobytes()
    send(box.pad, dropped=sheet(X3[5:6], 1)); assert torch.equal(box.result().image[0], X3[5]) and box.pad.dropped==b''
    send(box.pad, dropped=b'nothing of the kind'); assert 'wanted a picture, got 19 bytes' in box.pad.note and torch.equal(box.result().image[0], X3[5])
    send(box.choose, value=1); assert box.pad.note==''

def test_a_mask_of_another_size_is_left_alone():
    box = inpaint_pad(coloured(), X3, n=1); before = box.result(); send(box.pad, mask=b'\1'*7)
    assert box.result() is before and 'wanted a mask' in box.pad.note

def test_pad_refuses(refuses):
    refuses(lambda: inpaint_pad(coloured(), X3[:, :, :2]), 'wanted', '(3, 4, 8)'); refuses(lambda: inpaint_pad(coloured(), X3[:0]), 'at least one image')
    refuses(lambda: inpaint_pad(coloured(), X3, torch.ones(8, 8, dtype=torch.bool)), 'mask', '(8, 8)')

# --- latents

@pytest.mark.parametrize('seed', range(3))
def test_swap_by_enumeration(seed):
    joint, x = toy(seed), ALL_X[50*seed+3]; n, k = seed % 2, seed
    keep = ~torch.tensor([[m in ((0, 1), (2, 3))[n] for m in range(4)]]*2); same = ((ALL_X==x) | ~keep).flatten(1).all(1)
    w_zx = {z: sum(joint.parts(ALL_X[same], torch.tensor([z]).expand(int(same.sum()), 2))).double().exp().detach() for z in itertools.product(range(3), repeat=2)}
    mine = sum(w for z, w in w_zx.items() if z[n]==k); total = sum(w_zx.values())
    s = swap(joint, x, n, k, rng(0), samples=400)
    assert abs(math.exp(s.log_p)-mine.sum()/total.sum()) < 1e-4
    mean = (mine[:, None, None, None]*ALL_X[same]).sum(0)/mine.sum(); assert torch.allclose(s.mean.double(), mean, atol=1e-3)
    assert ((s.samples.double().mean(0)-mean).abs() <= 4*(mean*(1-mean).clamp_min(0)/400).sqrt() + 1e-3).all() and (s.samples[:, 0][:, keep]==x[0][keep]).all()

def test_neighbours_and_places():
    joint = toy(0); l = latents(joint, ALL_X[:40]); beside = neighbours(joint, l.z_bn)
    count = torch.zeros(3, 3)
    for a, b in l.z_bn.tolist(): count[a, b] += 1; count[b, a] += 1
    assert torch.allclose(beside, (count/count.sum(1, keepdim=True).clamp_min(1)).double()) and abs(l.use_k.sum()-1) < 1e-5
    assert sum(places(l, k, joint) for k in range(3)).allclose(torch.ones(1, 2)) and best_patches(l, 0, ALL_X[:40], joint, 5).shape[1:]==(1, 2, 2)

@pytest.mark.parametrize('make', [coloured, normal])
def test_latent_browser(make, refuses):
    joint = make(); box = latent_browser(joint, X3); l = latents(joint, X3); k = box.k
    send(box.every, value=(box.every.value+1) % 3); assert box.k!=k and f'value {box.k}' in box.head.value
    send(box.near, value=0); assert 0 <= box.every.value < 3
    made = box.made.png; send(box.patches, value=1); assert box.made.png!=made; send(box.which, value=2); box.reach.value = 1; box.by.value = 'size'
    assert picture(box.made.png).shape==(4, 5*8, 3) and (picture(box.made.png)[:, :8]==X3[2].permute(1, 2, 0).numpy()).all()
    assert len(latent_figure(joint, l, X3, 0, 'bits').axes)==5; refuses(lambda: latent_figure(joint, l, X3, 0, 'beauty'), 'beauty'); refuses(lambda: swap(joint, X3[0], 2, 0, rng(0)), 'patch from 0 to 1')

# --- samples

@pytest.mark.parametrize('T', [.3, 1., 2.5])
def test_temperature(T, refuses):
    joint = toy(1); new = tempered(joint, T); p, q = (m(ALL_X).double().exp().detach() for m in (joint, new))
    assert abs(q.sum()-1) < 1e-4 and (torch.equal(p, q) if T==1 else (torch.special.entr(q).sum() < torch.special.entr(p).sum())==(T < 1))
    refuses(lambda: tempered(joint, 0.), 'temperature')
    wide = tempered(normal(), 4.).leaf.logs_kd - normal().leaf.logs_kd; assert torch.allclose(wide, torch.full_like(wide, math.log(2.)))

def test_nearest_and_sample_browser():
    rms, i = nearest(X3[:4], X3, 2); assert i[:, 0].tolist()==[0, 1, 2, 3] and (rms[:, 0]==0).all()
    assert torch.allclose(rms[0, 1], (X3[0].float()-X3[i[0, 1]].float()).square().mean().sqrt())
    joint = coloured(); box = sample_browser(joint, X3, X3, n=5); x = box.drawn.x
    send(box.every, value=2); assert (picture(box.near.png)[:, :8]==x[2].permute(1, 2, 0).numpy()).all() and 'never trained on: 0' in box.said.value
    box.seed.value = 4; assert not torch.equal(box.drawn.x, x); box.T.value = .4; box.seed.value = 0; box.T.value = 1.; assert torch.equal(box.drawn.x, x)
    assert len(sample_figure(draw(joint, X3, 3, rng(0), m=2), X3).axes)==9

# --- growing, ledger

HISTORY = [dict(round=1, body=0, patches=[70, 30], nats=[-3., -4.], split=[1], new=[2], moved=12, bits=dict(before=2., without=1.9, with_it=1.8), accepted=True),
           dict(round=2, body=0, patches=[70, 18, 12], nats=[-3., -4., -5.], split=[2], new=[], moved=0, bits=dict(before=1.8, without=1.8, with_it=1.8), accepted=False)]

def test_growth(refuses):
    box = growth_stepper(HISTORY); one = box.picture.png; assert box.back.disabled and not box.on.disabled and '12 of 100 patches moved' in box.said.value
    box.on.click(); assert box.step.value==2 and box.picture.png!=one and box.on.disabled and 'nothing to divide' in box.said.value and box.picture.label==growth_text(HISTORY[1])
    box.on.click(); assert box.step.value==2; box.back.click(); assert box.picture.png==one
    refuses(lambda: growth_figure([], 0), 'history'); refuses(lambda: growth_figure([dict(round=1, component=2)], 0), 'history')

def test_ledger_view(refuses):
    joint, x = toy(0), ALL_X[:30]; l = latents(joint, x); led = ledger(joint, x, l.z_bn, some_bound(30, 0), progress=False); lp = joint(x).detach()
    box = ledger_view(led, lp, x); one = box.picture.png; send(box.choose, value=7)
    said = {n: float(v) for n, v in re.findall(r'(\w+) ([+-][\d.]+)', box.picture.label)}
    for n, v in said.items(): assert abs(v - float(getattr(led, f'{n}_b')[7])/(8*math.log(2))) < 1e-3
    assert len(said)==4 and abs(said['conditional']+said['prior']+said['marginal']-said['total']) < 2e-3 and box.picture.png!=one
    refuses(lambda: ledger_figure(led, lp[:3], x, 0), 'ledger of each image')

# --- the notebook

def cells(*words):
    "Source of the code cells of play.ipynb in which one of the words stands."
    nb = json.loads((Path(pcdistill.__file__).parent.parent/'nbs'/'play.ipynb').read_text(encoding='utf-8')); found = [''.join(c['source']) for c in nb['cells'] if c['cell_type']=='code']
    return [next(c for c in found[1:] if w in c) for w in words], found[0]

@pytest.mark.parametrize('make', [lossy, coloured])
def test_a_lossy_colour_map_gives_a_sentence(make, capsys):
    "play.ipynb on such a run: no pad, with the reason; what needs no hidden pixels works."
    sources, imports = cells('title=\'the centre hidden\'', 'inpaint_pad(', 'latent_figure(', 'latent_browser(', 'sample_figure(', 'sample_browser(')
    shown = []; scope = {}; exec(imports, scope); scope |= dict(joint=make(), train=X3, test=X3, display=shown.append); capsys.readouterr()
    for source in sources: exec(source, scope)
    said = capsys.readouterr().out.splitlines(); assert scope['values'].k >= 0 and len(scope['samples'].drawn.x)==12
    if make is coloured: assert said==[] and len(shown)==2
    else: assert shown==[] and len(said)==2 and all('bt709_lossy' in line and 'lossy colour map' in line and line.endswith('exactly.') for line in said)

def test_grey_loses_nothing_in_a_lossy_colour_map():
    a, b = toy(0), toy(0); b.colour = COLOURS['bt709_lossy']; seen = torch.ones(2, 4, dtype=torch.bool); seen[:, 1:3] = False
    ra, rb = (inpaint_pad(j, ALL_X[:3], seen).result() for j in (a, b)); assert torch.equal(ra.mean, rb.mean) and torch.equal(ra.log_seen_b, rb.log_seen_b)

def test_a_folder_that_is_no_run_gives_a_sentence(tmp_path, capsys):
    "play.ipynb says what is wrong with a folder and trains digits instead."
    (second,), first = cells('def opened(')
    functions, rest = second.split('\ntry:'); rest = 'try:' + rest.split('\ntrain, valid')[0]
    scope = {}; exec(first + '\n' + functions, scope); scope['trained'] = lambda: (None, None, None)
    (tmp_path/'foreign').mkdir(); (tmp_path/'foreign'/'recipe.json').write_text('{"a": 1}'); (tmp_path/'broken').mkdir(); (tmp_path/'broken'/'recipe.json').write_text('{')
    for name, words in (('missing', 'is not there'), ('foreign', 'wanted a recipe'), ('broken', 'wanted')):
        scope['folder'] = str(tmp_path/name); exec(rest, scope); said = capsys.readouterr().out
        assert words in said and said.count('\n')==1 and said.endswith('Digits are trained instead.\n'), said
