"Runs that ship: there without network and data, as good as their cards say; runs that are saved, pushed and loaded; pictures in, pictures out."
import copy, re, shutil, subprocess, sys
from pathlib import Path
import huggingface_hub, numpy as np, pytest, torch
from PIL import Image
from conftest import DATA
from pcdistill import chain as R, cli, inpaint, load_run
from pcdistill.core import Refused, rng
from pcdistill.data import images
from pcdistill.extra.innovations import InnovationsConfig, fit_innovations
from pcdistill.inpainting import COMPLETERS, MASKS, Inpainted, answers, by_mask, fit_image, load_completer
from pcdistill.recipes import recipe
from pcdistill.runs import load, save, save_json

NAMES = sorted(f.name for f in R.SHIPPED.iterdir())

def size(folder): return sum(f.stat().st_size for f in folder.iterdir())

def test_three_runs_ship_and_are_small():
    assert NAMES==['digits', 'fashion_mnist', 'photos']
    assert max(size(R.SHIPPED/n) for n in NAMES) < 5e6 and sum(size(R.SHIPPED/n) for n in NAMES) < 7e6

@pytest.mark.parametrize('name', NAMES)
def test_a_card_says_what_it_must(name):
    said = (R.SHIPPED/name/'README.md').read_text(encoding='utf-8'); head, body = re.fullmatch(r'---\n(.*?)\n---\n(.*)', said, re.S).groups()
    assert {'library_name: pcdistill', 'license: apache-2.0'} <= set(head.split('\n')) and '/' not in head
    for word in (f"load_run('{name}')", '\npcdistill distill --data ', 'commit ', 'dequantised', 'random90', 'Half precision', 'Research', 'PSNR'): assert word in body, word
    for picture in re.findall(r'!\[\w+\]\((.*?)\)', body): assert (R.SHIPPED/name/picture).is_file()
    assert not re.search(r'/(home|root|work|tmp|Users)/', said + (R.SHIPPED/name/'results.json').read_text() + (R.SHIPPED/name/'recipe.json').read_text())

@pytest.mark.parametrize('name', NAMES)
def test_the_command_of_a_card_is_the_recipe_of_its_run(name, monkeypatch):
    command = re.search(r'\npcdistill (distill .*)\n', (R.SHIPPED/name/'README.md').read_text(encoding='utf-8'))[1].split(); asked = []
    monkeypatch.setattr('pcdistill.chain.distill', lambda recipe, *_, **__: asked.append(recipe) or sys.exit())
    if name=='fashion_mnist': monkeypatch.setattr('pcdistill.recipes.images', lambda *_: torch.zeros(1, 1, 28, 28, dtype=torch.uint8))
    with pytest.raises(SystemExit): cli.main(command)
    assert asked==[load_run(name, 'cpu').recipe]

@pytest.mark.parametrize('name', NAMES)
def test_a_shipped_run_needs_neither_network_nor_data(name, tmp_path):
    "In a process of its own, in an empty folder, where every socket is refused."
    (tmp_path/name).mkdir(); Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).save(tmp_path/'me.png')      # a folder of data may have its name
    code = ('import socket\ndef none(*a, **k): raise AssertionError("a socket was opened")\nsocket.socket.connect = none\n'
            f'from pcdistill import inpaint, load_run\nrun = load_run({name!r})\nr = inpaint(run, "me.png", "centre")\n'
            'from pcdistill.cli import main\nassert main(["sample", %r, "-n", "2"])==0 and len(r.pictures())==4 and "bits/dim" in str(run) and run._repr_html_().count("<img")==3' % name)
    made = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, env={'PATH': '', 'PYTHONPATH': str(Path(R.__file__).parents[1]), 'HOME': str(tmp_path)})
    assert made.returncode==0 and (tmp_path/'samples.png').is_file(), made.stderr[-2000:]

@pytest.mark.parametrize('name', NAMES)
def test_it_is_a_distribution(name):
    "Tables that were rounded to half precision sum to one again: with nothing seen, the probability of anything is one."
    image = load_run(name, 'cpu').image; c, h, w = image.shape; nothing = torch.zeros(1, h, w).bool()
    raw, x = copy.deepcopy(image), torch.zeros(1, c, h, w, dtype=torch.uint8)
    raw.load_state_dict(load(R.SHIPPED/name/'student.safetensors')[0])
    with torch.no_grad(): mass, raw = image(x, nothing), raw(x, nothing)
    assert abs(float(mass)) < min(1e-4, abs(float(raw))/3)

@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_evaluate_gives_the_bits_of_the_card(name, monkeypatch, capsys):
    if name=='fashion_mnist':
        if not (DATA and (Path(DATA)/name).is_dir()): pytest.skip('Fashion-MNIST is not in PCDISTILL_DATA')
        monkeypatch.setenv('PCDISTILL_DATA', DATA)
    said = float(re.search(r'\*\*([\d.]+) bits/dim\*\*', (R.SHIPPED/name/'README.md').read_text(encoding='utf-8'))[1])
    assert cli.main(['evaluate', name, '--device', 'cpu'])==0
    assert abs(float(re.search(r'images: ([\d.]+) ±', capsys.readouterr().out)[1]) - said) < 1e-3

# --- saved, pushed, loaded

@pytest.fixture(scope='module')
def done(tmp_path_factory):
    "A run as `distill` leaves it."
    r = recipe('digits', teacher='pixels', clusters=6, n_train=200, n_test=30, epochs=1, autoregressive=False, emission=dict(states=4, epochs=1))
    return R.distill(r, tmp_path_factory.mktemp('runs')/'run', 'cpu', progress=False)

KEPT = {'README.md', 'recipe.json', 'results.json', 'student.safetensors', 'samples.png', 'inpaint.png', 'ledger.png', 'curves.png'}

def test_saved_in_half_precision_where_bits_permit(done, tmp_path, monkeypatch):
    x = images('digits', 'test', 30)
    saved = load_run(done.save_pretrained(tmp_path/'half', 'mit', 'By hand.'), 'cpu'); tensors, _ = load(tmp_path/'half'/'student.safetensors')
    assert {f.name for f in (tmp_path/'half').iterdir()}==KEPT and {t.dtype for t in tensors.values()}=={torch.half}
    assert saved.recipe==done.recipe and str(saved)==str(done) and {k: v for k, v in saved.results.items() if k!='half_costs'}==done.results
    said = (tmp_path/'half'/'README.md').read_text(encoding='utf-8'); assert by_mask(done, x) in said and 'license: mit\n' in said and 'By hand.' in said and str(done) in said and str(tmp_path) not in said
    with torch.no_grad(): off = (saved.image(x) - done.image(x)).abs().mean()/64/np.log(2)
    assert 0 < off < 1e-3 and abs(saved.results['half_costs']) < 1e-3
    narrowed = R.narrowed
    for change in (-1.2e-3, 1.2e-3):                                                        # changes too much: single precision
        monkeypatch.setattr(R, 'narrowed', lambda run: (narrowed(run)[0], change))
        whole = load_run(done.save_pretrained(tmp_path/'single'), 'cpu'); tensors, _ = load(tmp_path/'single'/'student.safetensors')
        assert {t.dtype for t in tensors.values()}=={torch.float32}
    assert all(torch.equal(a, b) for a, b in zip(whole.image.parameters(), done.image.parameters()))
    assert whole.results['half_costs']==1.2e-3 and 'license: other\n' in (tmp_path/'single'/'README.md').read_text()

def test_what_is_saved_with_a_run_is_its_own(done, tmp_path):
    "Its innovations, and in the card the bits of its student, not those of the start."
    own = shutil.copytree(done.folder, tmp_path/'own'); results = done.results; results['student']['bits'] = 1.23456
    save_json(own/'results.json', results)
    x, valid, test = (images('digits', split, 300) for split in ('train', 'valid', 'test'))
    save(own/'innovations.safetensors', *fit_innovations(x, valid, InnovationsConfig(K=2, epochs=1), rng(0), progress=False).state())
    saved = load_run(load_run(own, 'cpu').save_pretrained(tmp_path/'saved'), 'cpu')
    assert '**1.2346 bits/dim**' in (saved.folder/'README.md').read_text()
    means = [inpaint(model, test[:3], 'left', 0).mean for model in (saved, load_run(own, 'cpu'), done)]
    assert torch.equal(means[0], means[1]) and not torch.allclose(means[0], means[2], atol=1.)

def test_what_half_precision_costs_is_measured_on_validation_images(done):
    half, change = R.narrowed(done); x = images('digits', 'valid', 1000)
    with torch.no_grad():
        saved = R.image_from_state(half, R.image_state(done.image)[1])
        assert abs(change - float((done.image(x) - saved(x)).double().mean()/64/np.log(2))) < 1e-6

def test_a_copy_of_a_copy_is_the_same(done, tmp_path, monkeypatch):
    "And needs no data."
    one = load_run(done.save_pretrained(tmp_path/'one', note='first'), 'cpu')
    def none(*_): raise AssertionError('images were opened')
    monkeypatch.setattr(R, 'images', none)
    two = load_run(one.save_pretrained(tmp_path/'two', note='second'), 'cpu')
    assert {f.name: f.read_bytes() for f in one.folder.iterdir()}=={f.name: f.read_bytes() for f in two.folder.iterdir()}

def test_what_is_no_place_for_a_run_is_refused(done, tmp_path):
    (tmp_path/'mine').mkdir(); (tmp_path/'mine'/'README.md').write_text('mine')
    with pytest.raises(Refused, match='something else'): done.save_pretrained(tmp_path/'mine')
    assert (tmp_path/'mine'/'README.md').read_text()=='mine'
    with pytest.raises(Refused, match='another folder'): done.save_pretrained(done.folder)
    with pytest.raises(Refused, match='results.json'): R.Run(done.recipe, tmp_path/'new', 'cpu', False).save_pretrained(tmp_path/'x')
    assert not (tmp_path/'x').exists()

def test_the_hub(done, tmp_path, monkeypatch):
    "A stub of it: what is pushed comes back."
    hub = tmp_path/'hub'; hub.mkdir()
    def upload(repo_id, folder_path): shutil.copytree(folder_path, hub/repo_id, dirs_exist_ok=True); return f'hub/{repo_id}'
    def download(repo_id, allow_patterns):
        if not (hub/repo_id).is_dir(): raise FileNotFoundError(repo_id)
        assert all(any(Path(f.name).match(p) for p in allow_patterns) for f in (hub/repo_id).iterdir()); return str(hub/repo_id)
    created = []
    monkeypatch.setattr(huggingface_hub, 'create_repo', lambda name, exist_ok: created.append((name, exist_ok)))
    monkeypatch.setattr(huggingface_hub, 'upload_folder', upload); monkeypatch.setattr(huggingface_hub, 'snapshot_download', download); monkeypatch.chdir(tmp_path)
    assert done.push_to_hub('me/mine', licence='mit')=='hub/me/mine' and created==[('me/mine', True)] and {f.name for f in (hub/'me/mine').iterdir()}==KEPT
    assert 'license: mit\n' in (hub/'me/mine'/'README.md').read_text() and load_run('me/mine', 'cpu').recipe==done.recipe
    with pytest.raises(Refused, match='me/other.*FileNotFoundError'): load_run('me/other')
    shutil.copytree(R.SHIPPED/'photos', tmp_path/'me'/'mine')                                # a folder goes before a name
    assert load_run('me/mine', 'cpu').recipe.data=='photos'
    shutil.copytree(R.SHIPPED/'photos', tmp_path/'digits'); assert load_run('digits', 'cpu').recipe.data=='photos'
    for missing in ('nothing', str(tmp_path/'none'), 'a/b/c'):
        with pytest.raises(Refused, match=f'{", ".join(NAMES)}.*{missing}.*not there'): load_run(missing)

def test_a_table_of_masks_says_what_the_definitions_say(done):
    "PSNR and bits of the hidden values, mask by mask."
    x = images('digits', 'test', 5); lines = by_mask(done, x).splitlines()[2:]
    for line, name in zip(lines, MASKS, strict=True):
        r = inpaint(done, x, name, 0); hidden = ~r.seen; mse = float((r.mean - x)[:, 0][hidden].square().mean()); bits = -float(r.log_hidden_b.sum())/np.log(2)/int(hidden.sum())
        assert line.split()[0]==name and line.endswith('yes') and np.allclose([float(v) for v in line.split()[1:3]], [10*np.log10(255**2/mse), bits], atol=1e-3)

# --- pictures in, pictures out

def test_a_run_completes_a_picture():
    run, me = load_run('photos', 'cpu'), Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 60, 3), np.uint8))
    r = inpaint(run, me, 'left', 2); assert isinstance(r, Inpainted) and torch.equal(r.image, fit_image(me, (3, 16, 16)))
    same = inpaint(R.model_of(run), r.image, 'left', 2); assert all(torch.equal(a, b) for a, b in zip(r, same))
    assert [p.size for p in r.pictures()]==[(16, 16)]*2 and r._repr_png_()[:4]==b'\x89PNG'

def test_pictures_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path); grey = np.random.default_rng(0).integers(0, 256, (20, 30), np.uint8); asked = []
    Image.fromarray(grey).save('a.png'); Image.fromarray(255 - grey).convert('RGB').save('b.jpg')
    hidden = np.zeros((20, 20), np.uint8); hidden[:5] = 255; Image.fromarray(hidden).save('mask.png')
    monkeypatch.setattr('pcdistill.inpainting.inpaint', lambda *a, **k: asked.append(inpaint(*a, **k)) or asked[-1])
    assert cli.main(['inpaint', 'digits', '--image', 'a.png', 'b.jpg', '--mask', 'mask.png', '--samples', '1'])==0 and Path('inpaint.png').is_file()
    r, = asked; assert torch.equal(r.image, fit_image([Path('a.png'), Path('b.jpg')], (1, 8, 8)))
    assert not r.seen[:, :2].any() and r.seen[:, 2:].all()
    assert cli.main(['inpaint', 'digits', '--image', 'a.png', '--mask', 'top', '-o', 'top.png'])==0
    assert cli.main(['inpaint', 'digits', '--image', 'a.png', '--mask', 'top', '--tiled', '-o', 'tiles.png'])==0 and Path('tiles.png').is_file()
    assert asked[-1].image.shape==(1, 1, 16, 24) and torch.equal(asked[-1].image[0, 0], torch.tensor(grey[2:18, 3:27])) and not asked[-1].seen[0, :8].any()
    assert cli.main(['inpaint', 'digits', '--image', 'a.png', 'b.jpg', '--tiled', '-o', 'n.png'])==2 and 'wanted one --image' in capsys.readouterr().err
    before = Path('mask.png').read_bytes()
    for wrong in (['--mask', 'mask.png', '-o', 'mask.png'], ['-o', 'a.png'], ['--mask', 'nose.png', '-o', 'n.png'], ['--image', 'none.png', '-o', 'n.png']):
        assert cli.main(['inpaint', 'digits', '--image', 'a.png', *wrong])==2
    assert Path('mask.png').read_bytes()==before and "'nose.png'" in capsys.readouterr().err
    with pytest.raises(SystemExit): cli.main(['inpaint', '--help'])
    assert 'white hides' in ' '.join(capsys.readouterr().out.split())

def test_a_network_says_what_to_expect_of_clothes():
    "It ships with the run, reads what is seen, and the answer is a probability; without it the mean is another."
    run = load_run('fashion_mnist', 'cpu'); i, j = torch.meshgrid(torch.arange(28.), torch.arange(28.), indexing='ij')
    shirt = ((j - 13.5).abs() < 7 + (i < 10)*5*(i - 3).clamp(0, 1)).mul(180).to(torch.uint8)[None, None]; r = inpaint(run, shirt, 'left', 2)
    assert r.exact.all() and r.mean.isfinite().all() and r.samples.shape==(2, 1, 1, 28, 28)
    model = load_completer(R.SHIPPED/'fashion_mnist'/'innovations.safetensors'); assert torch.equal(inpaint(model, shirt, 'left', 0).mean, r.mean)
    model.network = None; assert (inpaint(model, shirt, 'left', 0).mean - r.mean).abs().max() > 5

def test_innovations_of_a_run_complete_its_pictures(tmp_path):
    "Those in the folder are asked and travel with a copy; a run without some is asked its student."
    run = load_run('photos', 'cpu'); x = run.images('test')[:2]; own = load_completer(R.SHIPPED/'photos'/'innovations.safetensors')
    said, by_hand, by_student = inpaint(run, x, 'left', 0), inpaint(own, x, 'left', 0), inpaint(run.image, x, 'left', 0)
    assert torch.equal(said.mean, by_hand.mean) and not torch.allclose(said.mean, by_student.mean, atol=1.)
    assert torch.equal(inpaint(load_run(run.save_pretrained(tmp_path/'copy'), 'cpu'), x, 'left', 0).mean, said.mean)
    digits = load_run('digits', 'cpu'); z = digits.images('test')[:2]
    assert torch.equal(inpaint(digits, z, 'left', 0).mean, inpaint(digits.image, z, 'left', 0).mean)

class Grey(torch.nn.Module):
    "A completer of one's own: one grey everywhere."
    shape, device, joint = (1, 8, 8), torch.device('cpu'), True
    def __init__(self, level): super().__init__(); self.level = level
    def state(self): return dict(level=torch.tensor(self.level)), dict(kind='grey')
    @classmethod
    def from_state(cls, tensors, meta): return cls(int(tensors['level']))

def test_a_completer_of_ones_own(done, tmp_path, monkeypatch):
    "Beside the student it completes, and goes with a copy; without an entry it is not known, and one of another kind is refused."
    @answers.register
    def _(model:Grey, x, seen, n, gen, soft=None, belief_bnk=None):
        zero_b = torch.zeros(len(x))
        return Inpainted(x, seen, torch.full(x.shape, float(model.level)), torch.zeros(seen.shape), x.new_full((n, *x.shape), model.level), zero_b, zero_b, seen.new_ones(len(x)))
    folder = shutil.copytree(done.folder, tmp_path/'own'); save(folder/'grey.safetensors', *Grey(7).state()); x = images('digits', 'test', 2)
    def mean(folder): return inpaint(load_run(folder, 'cpu'), x, 'left', 0).mean
    by_student = inpaint(done, x, 'left', 0).mean; assert torch.equal(mean(folder), by_student)
    monkeypatch.setitem(COMPLETERS, 'grey', Grey.from_state); assert (mean(folder)==7).all()
    assert (mean(load_run(folder, 'cpu').save_pretrained(tmp_path/'saved'))==7).all()
    save(folder/'grey.safetensors', *Grey(7).state()[:1], dict(kind='black'))
    with pytest.raises(Refused, match="wanted a completer out of innovations, grey, got 'black'"): mean(folder)

def test_the_chain_imports_no_completer():
    "A run without one is asked and nothing is imported; one is imported when its file is read."
    code = ("import sys, pcdistill\nfrom pcdistill import images, inpaint, load_run\nwanted = 'pcdistill.extra.innovations'\n"
            "run = load_run('digits', 'cpu'); inpaint(run, run.images('test')[:1], 'left', 0); assert not [m for m in sys.modules if m.startswith('pcdistill.extra.')]\n"
            "run = load_run('photos', 'cpu'); inpaint(run, run.images('test')[:1], 'left', 0); assert wanted in sys.modules\n")
    made = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True); assert made.returncode==0, made.stderr[-500:]
