"""Drawing functions against enumeration; wiring by setting what JavaScript would send.

The browser itself: tests/browser."""
import base64, io, itertools, json, math, re
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image as Picture
import pcdistill
from cells import NBS, definitions
from pcdistill.extra.browsers import (ALONE, best_patches, draw, latent_browser,
                                latents, ledger_view, most_beside, nearest_images, neighbours,
                                patches, ranked, sample_browser, sample_figure, swap)
from pcdistill.circuit import Circuit
from pcdistill.colour import COLOURS
from pcdistill.core import rng
from pcdistill.image import Image, whole_image
from pcdistill.inpainting import fit_image, inpaint
from pcdistill.inputs import Evidence
from pcdistill.normals import Normals
from pcdistill.structure import chain
from pcdistill.trees import Trees
from small_images import two_terms
from pcdistill.widgets import (Gallery, Pad, completions, hidden_text, inpaint_pad, log_true,
                               pixel_text, put, sheet, viridis)
from test_evaluate import ALL_X, ledger, some_bound, toy

PLAY = definitions(NBS/'play.ipynb') # steps of growing are cells of it
growth_figure, growth_stepper, growth_text = PLAY.growth_figure, PLAY.growth_stepper, PLAY.growth_text

def picture(data):
    return np.array(Picture.open(io.BytesIO(data)))

def pixels(x_chw):
    return x_chw.expand(3, -1, -1).permute(1, 2, 0).numpy()

def send(widget, **state):
    "As it comes from JavaScript."
    raw = {k: memoryview(v) if isinstance(v, bytes) else v for k, v in state.items()}
    widget.set_state(raw)

# --- images of 4×8 in two patches of 4×4

def two_patches(emission, colour, channels=3):
    prior = Circuit(chain(2), Evidence(2, emission.n_heads), 1, rng(2))
    return Image(emission, prior, COLOURS[colour], 4, (channels, 4, 8))

def trees(values, seed=0, heads=(3,)):
    return Trees([chain(48)]*len(heads), values, heads, [3]*len(heads), gen=rng(seed))

def coloured():
    "RGB images by a reversible colour map."
    return two_patches(trees(511), 'ycocg_r')

def lossy():
    "The same by a colour map that merges colours."
    return two_patches(trees(256), 'bt709_lossy')

def forest():
    "The same by two trees, of one head and of two."
    return two_patches(trees(511, heads=(1, 2)), 'ycocg_r')

def normal():
    "The same by normals."
    return two_patches(Normals(3, 48), 'rgb')

def lone():
    "A normal over whole images: one patch, one latent, one value."
    return whole_image(Normals(1, 96), COLOURS['rgb'], (3, 4, 8))

X3 = torch.randint(0, 256, (6, 3, 4, 8), generator=rng(9), dtype=torch.uint8)
ALL = torch.ones(4, 8, dtype=torch.bool)

# --- pictures

@pytest.mark.parametrize('b,cols,c', [(1, 1, 1), (5, 3, 3), (8, 8, 1), (3, 9, 3)])
def test_a_sheet_holds_every_pixel(b, cols, c):
    x = torch.randint(0, 256, (b, c, 5, 4), generator=rng(b), dtype=torch.uint8)
    a = picture(sheet(x, cols))
    for i in range(b):
        row, col = divmod(i, cols)
        assert (a[5*row:5*row+5, 4*col:4*col+4]==pixels(x[i])).all()

def test_colours_of_numbers():
    a = torch.rand(2, 3, 4, generator=rng(0))
    c = viridis(a)
    assert c.shape==(2, 3, 3, 4) and 0 <= c.min() and c.max() <= 1
    brightness = c.sum(1).flatten()[a.flatten().argsort()]
    assert (brightness.diff() > -.05).all() and brightness[-1]-brightness[0] > .5
    assert viridis(torch.zeros(1, 2, 2)).isfinite().all()

def test_pictures_of_ones_own(refuses):
    x = X3[:1, :, :4, :4]
    data = sheet(x, 1)
    assert torch.equal(fit_image(data, (3, 4, 4)), x)
    refuses(lambda: fit_image(b'', (1, 8, 8)), 'picture', '0 bytes')
    refuses(lambda: fit_image(data[:-30], (1, 8, 8)), 'picture', f'{len(data)-30} bytes')

def test_scripts_ask_for_nothing():
    files = list((Path(pcdistill.__file__).parent/'assets'/'widgets').iterdir())
    assert {f.name for f in files}=={'common.js', 'pad.js', 'gallery.js', 'gone.js', 'widgets.css'}
    asks = r'https?:|//\w+\.\w|\bimport\b|\bfetch\b|@import|XMLHttp|WebSocket'
    for f in files:
        assert not re.search(asks, f.read_text(encoding='utf-8')), f
    assert 'export default' in Pad._esm and 'export default' in Gallery._esm

# --- the pad

@pytest.mark.parametrize('seed', range(3))
def test_pixel_under_the_cursor_by_enumeration(seed):
    image, x = toy(seed), ALL_X[77+seed]
    p_x = image(ALL_X).double().exp().detach()
    seen = torch.rand(2, 4, generator=rng(seed)) > .5
    seen[0, 1] = False
    same = ((ALL_X==x) | ~seen).flatten(1).all(1)
    here = same & (ALL_X[:, 0, 0, 1]==x[0, 0, 1])
    lp, exact = log_true(image, x, seen, 0, 1)
    assert exact and abs(math.exp(lp)-p_x[here].sum()/p_x[same].sum()) < 1e-5

def as_mask(seen):
    return (~seen).to(torch.uint8).numpy().tobytes()

@pytest.mark.parametrize('make', [coloured, forest, normal, lone])
def test_masks_arrive(make):
    box = inpaint_pad(make(), X3, ALL, n=2)
    shown = box.few.png
    assert box.result.seen.all() and 'nothing hidden' in box.big.names[0] and box.unsure.scale==0
    seen = ALL.clone()
    seen[1:3, 2:6] = False
    send(box.pad, mask=as_mask(seen), at=[1, 2])
    r = box.result
    assert torch.equal(r.seen[0], seen) and box.few.png!=shown
    assert 'row 1, column 2: hidden' in box.pad.readout
    density = make in (normal, lone)
    assert ('density' in box.pad.readout) is density and ('density' in box.big.names[0]) is density
    a, image, at = picture(box.few.png), pixels(X3[0]), seen.numpy()
    for i in range(3):                                   # sample, sample, mean: where seen, the image
        assert (a[:, 8*i:8*i+8][at]==image[at]).all()
    assert (a[:, :8][~at]!=image[~at]).any()
    send(box.pad, at=[0, 0])
    assert 'seen\nvalue' in box.pad.readout
    send(box.pad, mask=as_mask(ALL))
    assert box.result.seen.all() and (box.result.samples==X3[0]).all()
    send(box.pad, mask=as_mask(seen))
    assert torch.equal(box.result.samples, r.samples)    # the same mask, the same samples
    send(box.pad, mask=as_mask(~ALL))
    assert not box.result.seen.any()

def test_what_is_shown_large():
    seen = ALL.clone()
    seen[1:3, 2:6] = False
    box = inpaint_pad(coloured(), X3, seen, n=2)
    send(box.few, value=1)
    assert box.few.names==['sample 1', 'sample 2', 'mean']
    assert (picture(box.big.png)==pixels(box.result.samples[1, 0])).all()
    send(box.pad, blend=1.)
    mean = box.result.mean[0].round().byte()
    assert (picture(box.big.png)==pixels(mean)).all()
    half = (completions(box.result)[1] + box.result.mean[0]/255)/2
    assert torch.allclose(completions(box.result, .5)[1], half, atol=1e-6)

def test_the_colour_bar():
    "Entropy and its unit: the brightest colour is the largest."
    box = inpaint_pad(coloured(), X3, ~ALL, n=2)
    assert box.unsure.scale==float(box.result.entropy.max()) > 0
    assert 'bits a pixel' in box.unsure.names[0]
    assert (picture(box.unsure.png)==pixels((viridis(box.result.entropy)[0]*255).round().byte())).all()

def test_bits_of_what_is_hidden():
    "In all, and of each of the three values of a pixel."
    seen = ALL.clone()
    seen[1:3, 2:6] = False
    r = inpaint_pad(coloured(), X3, seen, n=1).result
    bits = -float(r.log_hidden_b)/math.log(2)
    assert hidden_text(r)==f'8 pixels hidden: {bits:.1f} bits\n{bits/24:.2f} bits a value'

def test_pictures_are_shown_to_scale():
    assert put(Gallery(width=80), X3).height==40

def test_the_readout_is_of_the_pixel_under_the_cursor():
    seen = ALL.clone()
    seen[1:3, 2:6] = False
    image = coloured()
    r = inpaint_pad(image, X3, seen, n=1).result
    for row, col in ((1, 2), (2, 5)):
        lines = pixel_text(image, r, row, col).split('\n')
        mean = ', '.join(f'{v:.4g}' for v in r.mean[0, :, row, col].tolist())
        assert lines[2:]==[f'mean {mean}', f'entropy {float(r.entropy[0, row, col]):.2f} bits']
    assert r.entropy[0, 1, 2]!=r.entropy[0, 2, 5]!=r.entropy[0, 0, 0]

def test_new_draws():
    "Another seed, other draws and the same mean; the first seed draws what it drew."
    box = inpaint_pad(coloured(), X3, ~ALL, n=2)
    r = box.result
    send(box.pad, seed=1)
    assert torch.equal(box.result.mean, r.mean)
    assert not torch.equal(box.result.samples, r.samples)
    send(box.pad, seed=0)
    assert torch.equal(box.result.samples, r.samples)

def test_who_is_asked():
    "The mask stays; all models show their means side by side, and the one chosen its entropy."
    models = dict(circuit=coloured(), normal=normal())
    box = inpaint_pad(models, X3, ~ALL, n=2)
    assert box.model.options==('circuit', 'normal', 'all')
    box.model.value = 'all'
    assert box.few.names==['mean of circuit', 'mean of normal'] and not box.result.seen.any()
    send(box.few, value=1)
    want = inpaint(models['normal'], X3[:1], ~ALL, 0)
    mean = pixels(want.mean[0].round().byte())
    assert torch.equal(box.result.entropy, want.entropy)
    assert (picture(box.big.png)==mean).all() and (picture(box.few.png)[:, 8:]==mean).all()
    send(box.pad, at=[1, 2])
    assert 'density' in box.pad.readout                  # the normal is shown large, and says so
    send(box.few, value=0)
    assert 'density' not in box.pad.readout and 'has p = ' in box.pad.readout
    send(box.few, value=1)
    box.model.value = 'normal'
    assert box.few.names==['sample 1', 'sample 2', 'mean'] and box.few.value==1
    assert 'density' in box.pad.readout
    assert inpaint_pad(coloured(), X3, ALL).model.options==('circuit',)

def test_the_page_waits_for_an_answer(monkeypatch):
    "Until the answer is there, or an error: what the page has then is the mask it was about."
    box, waited = inpaint_pad(coloured(), X3, ALL, n=1), []
    assert box.pad.answered==box.pad.mask==as_mask(ALL)
    box.pad.observe(lambda change: waited.append(change.new), 'answered')
    box.choose.value = 2
    assert waited==[b'', as_mask(ALL)]
    def broken(*a):
        raise RuntimeError('no memory')
    monkeypatch.setattr('pcdistill.widgets.inpaint', broken)
    with pytest.raises(RuntimeError):
        box.pad.mask = as_mask(~ALL)
    assert waited[2:]==[b'', as_mask(~ALL)] and 'no memory' in box.pad.note
    monkeypatch.undo()
    box.pad.seed = 1
    assert box.pad.note=='' and not box.result.seen.any()

def every_widget():
    "One of each kind; two pads."
    image, x = coloured(), ALL_X[:9]
    models, led = dict(circuit=image, normal=normal()), ledger(toy(3), x, torch.zeros(9, 2).long(), some_bound(9, 0))
    pads = inpaint_pad(image, X3, ALL, n=2), inpaint_pad(models, X3, ~ALL)
    pads[1].model.value = 'all'
    return [*pads, latent_browser(image, X3), sample_browser(image, X3, 1.), growth_stepper(HISTORY),
            ledger_view(led, toy(3)(x).detach(), x)]

def test_words_and_a_figure_where_there_are_no_widgets():
    for box in every_widget():
        instead = box._repr_mimebundle_()
        words, shown = instead['text/plain'], picture(base64.b64decode(instead['image/png']))
        assert 'JupyterLab' in words and 'VBox' not in words
        assert min(shown.shape[:2]) > 60 and len(np.unique(shown.reshape(-1, shown.shape[2]), axis=0)) > 10

def test_the_figure_says_what_the_controls_say():
    box = growth_stepper(HISTORY)
    box.step.value = 2
    assert box.figure().axes[1].get_title()==f'step 2 of {len(HISTORY)}'
    box = inpaint_pad(dict(circuit=coloured(), normal=normal()), X3, ~ALL, n=2)
    assert 'seen, sample 1, sample 2, mean, entropy' in box.figure().axes[0].get_title()
    box.model.value = 'all'
    assert 'seen, mean of circuit, mean of normal, entropy' in box.figure().axes[0].get_title()

def test_the_figure_begins_with_what_is_seen():
    "Hidden pixels are grey; then completions, which are the image where it is seen."
    seen = ALL.clone()
    seen[1:3, 2:6] = False
    box = inpaint_pad(coloured(), X3, seen, n=2)
    row, image = box.figure().axes[0].images[0].get_array(), pixels(X3[0])/255
    first, second = row[:, :8], row[:, 9:17]             # a pixel of white between them
    assert np.allclose(first[seen], image[seen]) and np.allclose(first[~seen], 128/255)
    assert np.allclose(second[seen], image[seen])
    assert np.allclose(second, pixels(box.result.samples[0, 0])/255)

def test_bars_begin_at_zero():
    "Those of growing and of the ledger; the words above and below them are on the page."
    image, x = toy(3), ALL_X[:9]
    led = ledger(image, x, torch.zeros(9, 2).long(), some_bound(9, 0))
    view = ledger_view(led, image(x).detach(), x)
    view.which.value = 2
    figures = growth_figure(HISTORY, 1), view.figure()
    for ax in [ax for fig in figures for ax in fig.axes if ax.patches]:
        low, high = ax.get_ylim()
        assert low <= 0 <= high
        for text in ax.texts:
            assert low < text.xy[1] < high

def test_images_of_the_pad():
    box = inpaint_pad(coloured(), X3, ALL, n=1)
    send(box.choose, value=3)
    assert torch.equal(box.result.image[0], X3[3]) and box.pad.image==pixels(X3[3]).tobytes()
    send(box.pad, dropped=sheet(X3[5:6], 1))
    assert torch.equal(box.result.image[0], X3[5]) and box.pad.dropped==b''
    send(box.pad, dropped=b'nothing of the kind')
    assert 'wanted a picture, got 19 bytes' in box.pad.note
    assert torch.equal(box.result.image[0], X3[5])
    send(box.choose, value=1)
    assert box.pad.note==''

def test_a_mask_of_another_size_is_left_alone():
    box = inpaint_pad(coloured(), X3, ALL, n=1)
    before = box.result
    send(box.pad, mask=b'\1'*7)
    assert box.result is before and 'wanted a mask' in box.pad.note

def test_pad_refuses(refuses):
    refuses(lambda: inpaint_pad(coloured(), X3[:, :, :2], ALL), 'wanted', '(3, 4, 8)')
    refuses(lambda: inpaint_pad(coloured(), X3[:0], ALL), 'at least one image')
    large = torch.ones(8, 8, dtype=torch.bool)
    refuses(lambda: inpaint_pad(coloured(), X3, large), 'mask', '(8, 8)')

# --- latents

@pytest.mark.parametrize('seed', range(3))
def test_swap_by_enumeration(seed):
    image, x = toy(seed), ALL_X[50*seed+3]
    n, k = seed % 2, seed
    keep = ~torch.tensor([[m in ((0, 1), (2, 3))[n] for m in range(4)]]*2)
    same = ((ALL_X==x) | ~keep).flatten(1).all(1)
    def weight(z):
        return sum(two_terms(image, ALL_X[same], torch.tensor([z]*int(same.sum())))).double().exp()
    w_zx = {z: weight(z).detach() for z in itertools.product(range(3), repeat=2)}
    mine, total = sum(w for z, w in w_zx.items() if z[n]==k), sum(w_zx.values())
    s = swap(image, x, n, k, rng(0), samples=200)
    assert abs(s.p-mine.sum()/total.sum()) < 1e-4
    mean = (mine[:, None, None, None]*ALL_X[same]).sum(0)/mine.sum()
    assert torch.allclose(s.mean.double(), mean, atol=1e-3)
    error = (mean*(1-mean).clamp_min(0)/200).sqrt()
    assert ((s.samples.double().mean(0)-mean).abs() <= 4*error + 1e-3).all()
    assert (s.samples[:, 0][:, keep]==x[0][keep]).all()

def test_a_lone_latent_is_the_head():
    "All is taken away: the mean is the head's mean, and p(z = k) is its weight."
    image = whole_image(Trees([chain(8)]*2, 2, [2, 1], [2, 2], gen=rng(3)), COLOURS['rgb'], (1, 2, 4))
    l = latents(image, ALL_X[:9])
    for k in range(3):
        s = swap(image, ALL_X[5], 0, k, rng(0))
        assert abs(s.p-1/3) < 1e-5
        assert torch.allclose(s.mean, l.mean_kcpq[k], atol=1e-4)

def test_neighbours_and_places():
    image = toy(0)
    l = latents(image, ALL_X[:40])
    count = torch.zeros(3, 3)
    for a, b in l.p_bnk.argmax(2).tolist():
        count[a, b] += 1
        count[b, a] += 1
    assert torch.allclose(l.beside_kk, (count/count.sum(1, keepdim=True).clamp_min(1)).double())
    assert abs(l.use_k.sum()-1) < 1e-5 and l.place_khw.sum(0).allclose(torch.ones(1, 2))
    assert best_patches(l, 0, 5).shape[1:]==(1, 2, 2)
    beside = neighbours(torch.tensor([[[0, 1], [2, 1]]]), 3)    # 0–1, 2–1, 0–2, 1–1
    assert torch.allclose(beside[1], torch.tensor([.25, .5, .25]).double())

def test_patches_are_those_of_the_circuit():
    image = coloured()
    rows = image.tiles.pieces(image.rows(X3))[0]
    cut = image.colour.forward(patches(image, X3)).permute(0, 2, 3, 1).flatten(1)
    assert torch.equal(cut, rows.to(cut))

@pytest.mark.parametrize('make', [coloured, forest, normal])
def test_latent_browser(make):
    image = make()
    box, l = latent_browser(image, X3), latents(image, X3)
    assert box.every.value==0 and f'value {ranked(l)[0]}:' in box.real.label
    send(box.every, value=1)
    k = ranked(l)[1]
    assert f'value {k}:' in box.real.label
    beside = most_beside(l, k, 6)
    assert box.near.n==len(beside) and (beside==[])==(box.near.label==ALONE)
    if make is not normal:                               # equal heads: one value is never used
        send(box.near, value=0)
        assert f'value {beside[0]}:' in box.real.label and ranked(l)[box.every.value]==beside[0]
    made = box.made.png
    send(box.piece, value=1)
    assert box.made.png!=made
    send(box.which, value=2)
    alone = box.made.png
    a = picture(alone)
    assert a.shape==(4, 5*8, 3) and (a[:, :8]==pixels(X3[2])).all()
    assert (a[:, 8:12]==a[:, :4]).all()                  # the other patch stays
    box.reach.value = 1
    assert (picture(box.made.png)[:, 8:12]!=a[:, :4]).any()
    galleries = box.every, box.real, box.near, box.where
    assert {ax.get_title() for ax in box.figure().axes}=={g.label for g in galleries}

def test_latents_behind_a_lossy_colour_map():
    "Values are shown; no patch gets another one, and the browser says why."
    box = latent_browser(lossy(), X3)
    shown = box.real.label
    send(box.every, value=1)
    assert box.real.label!=shown and box.real.n > 0
    assert 'lossy colour map' in box.made.label and box.made.n==0

def test_browser_of_a_lone_latent():
    box = latent_browser(lone(), X3)
    assert (box.every.n, box.piece.n, box.near.n)==(1, 1, 0) and box.near.label==ALONE
    assert picture(box.made.png).shape==(4, 5*8, 3)
    assert ALONE in [ax.get_title() for ax in box.figure().axes]

# --- samples

def test_nearest_images_and_sample_browser():
    rms, i = nearest_images(X3[:4], X3, 2)
    assert i[:, 0].tolist()==[0, 1, 2, 3] and (rms[:, 0]==0).all()
    off = (X3[0].float()-X3[i[0, 1]].float()).square().mean().sqrt()
    assert torch.allclose(rms[0, 1], off)
    image = coloured()
    box = sample_browser(image, X3, 0.)
    x = box.drawn.x
    send(box.every, value=2)
    a = picture(box.near.png)
    assert (a[:, :8]==pixels(x[2])).all() and (a[:, 8:16]==pixels(box.drawn.near_bmchw[2, 0])).all()
    box.seed.value = 4
    assert not torch.equal(box.drawn.x, x)
    box.seed.value = 0
    assert torch.equal(box.drawn.x, x)
    assert len(sample_figure(draw(image, X3, 3, rng(0)), 7.).axes[0].get_yticklabels())==4

# --- growing, ledger

HISTORY = [dict(round=1, tree=0, patches=[70, 30], split=[1], new=[2], moved=12,
                bits=dict(before=2., after=1.8)),
           dict(round=2, tree=0, patches=[70, 18, 12], split=[2], new=[], moved=0,
                bits=dict(before=1.8, after=1.7))]

def test_growth(refuses):
    box = growth_stepper(HISTORY)
    one = box.shown.value
    assert '12 of 100 patches moved' in box.said.value and box.step.value==1
    box.step.value += 1
    assert box.shown.value!=one and 'nothing to divide' in box.said.value
    assert box.said.value==growth_text(HISTORY[1])
    box.step.value += 1
    assert box.step.value==2
    box.step.value -= 1
    assert box.shown.value==one
    refuses(lambda: growth_figure([], 0), 'history')
    refuses(lambda: growth_figure([dict(round=1, component=2)], 0), 'history')

def test_ledger_view(refuses):
    image, x = toy(0), ALL_X[:30]
    z_bn = latents(image, x).p_bnk.argmax(2)
    led, lp = ledger(image, x, z_bn, some_bound(30, 0)), image(x).detach()
    box = ledger_view(led, lp, x)
    one = box.shown.value
    send(box.which, value=7)
    said = re.findall(r'(\w+) ([+-][\d.]+)', box.said.value)
    said = {n: float(v) for n, v in said}
    for n, nats_b in led._asdict().items():
        assert abs(said[n.removesuffix('_b')] - float(nats_b[7])/(8*math.log(2))) < 1e-3
    parts = said['conditional'] + said['prior'] + said['marginal']
    assert len(said)==4 and abs(parts-said['total']) < 2e-3 and box.shown.value!=one
    refuses(lambda: ledger_view(led, lp[:3], x), 'ledger of each image')

# --- the notebook

def cells(*words):
    "Source of the code cells of play.ipynb in which one of the words stands; and the imports."
    file = Path(pcdistill.__file__).parent.parent/'nbs'/'play.ipynb'
    nb = json.loads(file.read_text(encoding='utf-8'))
    found = [''.join(c['source']) for c in nb['cells'] if c['cell_type']=='code']
    return [next(c for c in found[1:] if w in c) for w in words], found[0]

@pytest.mark.parametrize('make', [lossy, coloured, lone])
def test_a_lossy_colour_map_gives_a_sentence(make, capsys):
    "On such a run: no pad, with the reason; what needs no hidden pixels works."
    sources, imports = cells('title=\'the centre hidden\'', 'pad = inpaint_pad(image', 'latent_browser(',
                             'sample_browser(')
    shown, scope = [], {}
    exec(imports, scope)
    scope |= dict(image=make(), train=X3, test=X3, display=shown.append)
    capsys.readouterr()
    for source in sources:
        exec(source, scope)
    said = capsys.readouterr().out.splitlines()
    assert scope['values'].every.value==0 and len(scope['samples'].drawn.x)==12
    if make is lossy:
        assert shown==[] and len(said)==2
        assert all('bt709_lossy' in s and 'lossy colour map' in s and s.endswith('no RGB pixel.')
                   for s in said)
    else:
        assert said==[] and len(shown)==2

def test_grey_loses_nothing_in_a_lossy_colour_map():
    a, b = toy(0), toy(0)
    b.colour = COLOURS['bt709_lossy']
    seen = torch.ones(2, 4, dtype=torch.bool)
    seen[:, 1:3] = False
    ra, rb = (inpaint_pad(image, ALL_X[:3], seen).result for image in (a, b))
    assert torch.equal(ra.mean, rb.mean) and torch.equal(ra.log_seen_b, rb.log_seen_b)

def test_a_folder_that_is_no_run_gives_a_sentence(tmp_path, capsys):
    "play.ipynb says what is wrong with a folder and trains digits instead."
    (second,), first = cells('def opened(')
    functions, rest = second.split('\ntry:')
    rest = 'try:' + rest.split('\ntrain, test')[0]
    scope = {}
    exec(first + '\n' + functions, scope)
    scope['trained'] = lambda: (None, None, None)
    for name, text in (('foreign', '{"a": 1}'), ('broken', '{')):
        (tmp_path/name).mkdir()
        (tmp_path/name/'recipe.json').write_text(text)
    wanted = dict(missing='is not there', foreign='wanted the folder of a run', broken='wanted')
    for name, words in wanted.items():
        scope['folder'] = str(tmp_path/name)
        exec(rest, scope)
        said = capsys.readouterr().out
        assert words in said and said.count('\n')==1, said
        assert said.endswith('Digits are trained instead.\n'), said
