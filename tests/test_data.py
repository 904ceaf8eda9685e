import io, os, socket, subprocess, sys, time
from pathlib import Path
import numpy as np, pyarrow as pa, pyarrow.parquet as pq, pytest, torch
from PIL import Image
from pcdistill import data
from pcdistill.core import rng
from pcdistill.data import images, names, pixels

def png(a, **kw):
    f = io.BytesIO(); Image.fromarray(a, **kw).save(f, 'PNG'); return f.getvalue()

def noise(n, h=4, w=6, c=3, seed=0):
    return torch.randint(0, 256, (n, h, w, c) if c>1 else (n, h, w), generator=rng(seed)).to(torch.uint8).numpy()

def parquet(path, arrays, column='image'):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({'label': [0]*len(arrays), column: [{'bytes': png(a), 'path': None} for a in arrays]}), path)

def folder(path, arrays):
    path.mkdir(parents=True, exist_ok=True)
    for i, a in enumerate(arrays): Image.fromarray(a).save(path/f'{i:04}.png')

def as_bchw(a): return torch.from_numpy(a if a.ndim==4 else a[..., None]).permute(0, 3, 1, 2)

# --- what is always there

@pytest.mark.parametrize('name,c,h,w', [('digits', 1, 8, 8), ('photos', 3, 16, 16)])
def test_embedded(name, c, h, w):
    splits = {s: images(name, s) for s in ('train', 'valid', 'test')}
    for s, x in splits.items():
        assert x.dtype==torch.uint8 and x.shape[1:]==(c, h, w) and torch.equal(x, images(name, s)) and torch.equal(images(name, s, 5), x[:5])
    assert len(splits['train'])>1000 and len(splits['valid'])>=100 and len(splits['test'])>=300
    a, b, t = ({x.numpy().tobytes() for x in splits[s]} for s in splits)
    assert all(not any(x) for x in (a&b)|(a&t)|(b&t))      # only all-black crops may be alike
    x = images(name, 'train'); x.zero_(); assert images(name, 'train').any()   # a reader's change stays the reader's

def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits
    x = torch.cat([images('digits', s) for s in ('train', 'valid', 'test')])
    assert torch.equal(x[:, 0].int(), torch.from_numpy(load_digits().images).int().mul(16).clamp(max=255))

def test_each_split_shows_photographs_of_its_own():
    shown = {s: {n.split('_')[0] for n in names} for s, names in data._PHOTOS.items()}
    assert shown['train'].isdisjoint(shown['valid'] | shown['test']) and shown['valid'].isdisjoint(shown['test'])
    numbered = torch.arange(256*256).reshape(1, 256, 256)
    crops = data._crops(numbered, 16)
    assert len(crops)==256 and len(set(crops.flatten().tolist()))==256*256      # test crops share no pixel

def test_assets_carry_their_origin_and_are_small():
    photos = Path(data.__file__).parent/'assets'/'photos'
    origin = (photos/'ORIGIN.md').read_text()
    files = list(photos.glob('*.png'))
    assert len(files)==7 and all(f.name in origin for f in files) and sum(f.stat().st_size for f in files) < 1_000_000

def test_photos_are_the_crops_their_note_says():
    skimage = pytest.importorskip('skimage.data')
    for line in (Path(data.__file__).parent/'assets'/'photos'/'ORIGIN.md').read_text().splitlines():
        if '.png |' not in line: continue
        name, source, at = [c.strip() for c in line.split('|')[1:4]]
        if source.startswith('`'): fn = getattr(skimage, source.split('.')[1].split('(')[0])
        r, c = map(int, at.split(','))
        with Image.open(Path(data.__file__).parent/'assets'/'photos'/name) as im: assert (np.array(im)==fn()[r:r+256, c:c+256]).all()

# --- parquet and folders

@pytest.mark.parametrize('c', [1, 3])
@pytest.mark.parametrize('column', ['image', 'img'])
def test_pcdistill_data_comes_first(tmp_path, monkeypatch, c, column):
    train, test = noise(40, c=c), noise(7, c=c, seed=1)
    parquet(tmp_path/'cifar10'/'train.parquet', train, column); parquet(tmp_path/'cifar10'/'test.parquet', test, column)
    monkeypatch.setenv('PCDISTILL_DATA', str(tmp_path))
    monkeypatch.setattr(data, '_hub', lambda name: pytest.fail('the hub was asked'))
    got = {s: images('cifar10', s) for s in ('train', 'valid', 'test')}
    assert torch.equal(torch.cat([got['train'], got['valid']]), as_bchw(train)) and torch.equal(got['test'], as_bchw(test))
    assert len(got['valid'])==4 and torch.equal(images('cifar10', 'valid', 2), as_bchw(train)[36:38])
    assert images('cifar10').is_contiguous()

def test_the_last_five_thousand_of_the_famous_ones():
    size = {'train': 60_000, 'test': 10_000}
    assert data.split_bounds('mnist', size, 'train')==('train', 0, 55_000) and data.split_bounds('mnist', size, 'valid')==('train', 55_000, 60_000)
    assert data.split_bounds('cifar10', {'train': 49_926, 'test': 1}, 'valid')==('train', 44_926, 49_926)
    assert data.split_bounds('imagenet32', {'train': 1000, 'validation': 50}, 'valid')==('train', 900, 1000)
    assert data.split_bounds('imagenet32', {'train': 1000, 'validation': 50}, 'test')==('validation', 0, 50)
    assert data.split_bounds('imagenet32', {'train': 1000, 'validation': 50, 'test': 70}, 'test')==('test', 0, 70)
    assert [data.split_bounds('mine', {'train': 1000}, s)[1:] for s in ('train', 'valid', 'test')]==[(0, 810), (810, 900), (900, 1000)]

def test_shards_in_order_and_a_data_folder(tmp_path):
    a = noise(30)
    for i in range(3): parquet(tmp_path/'data'/f'train-0000{i}-of-00003.parquet', a[10*i:10*i+10])
    parquet(tmp_path/'data'/'validation-00000-of-00001.parquet', noise(3, seed=5))
    assert torch.equal(torch.cat([images(str(tmp_path), s) for s in ('train', 'valid')]), as_bchw(a))
    assert torch.equal(images(str(tmp_path), 'test'), as_bchw(noise(3, seed=5)))

def test_image_folders(tmp_path):
    a, t = noise(20), noise(5, seed=1)
    folder(tmp_path/'flat', a)
    assert torch.equal(torch.cat([images(str(tmp_path/'flat'), s) for s in ('train', 'valid', 'test')]), as_bchw(a))
    folder(tmp_path/'split'/'train'/'cats', a); folder(tmp_path/'split'/'test'/'cats', t)
    assert torch.equal(images(str(tmp_path/'split'), 'test'), as_bchw(t)) and len(images(str(tmp_path/'split'), 'valid'))==2
    folder(tmp_path/'classes'/'dog', a); folder(tmp_path/'classes'/'cat', t)
    assert sum(len(images(str(tmp_path/'classes'), s)) for s in ('train', 'valid', 'test'))==25

def test_modes_that_lose_nothing(tmp_path):
    grey, colour = noise(1, c=1)[0], noise(1)[0]
    folder(tmp_path/'mixed', [grey, colour]*10); x = images(str(tmp_path/'mixed'), n=2)
    assert torch.equal(x[0], torch.from_numpy(grey).expand(3, -1, -1)) and torch.equal(x[1], torch.from_numpy(colour).permute(2, 0, 1))
    (tmp_path/'palette').mkdir(); four = (grey//64*64)
    for i in range(9): Image.fromarray(np.stack([four]*3, -1)).quantize(4).save(tmp_path/'palette'/f'{i}.png')
    assert torch.equal(images(str(tmp_path/'palette'), n=1)[0, 0], torch.from_numpy(four))
    (tmp_path/'bits').mkdir()
    for i in range(9): Image.fromarray(grey).convert('1', dither=0).save(tmp_path/'bits'/f'{i}.png')
    assert set(images(str(tmp_path/'bits')).unique().tolist())=={0, 255}

def test_nested_lists_of_numbers(tmp_path):
    a = noise(20, c=1)
    pq.write_table(pa.table({'image': a.tolist(), 'label': [0]*20}), tmp_path/'train.parquet')
    assert torch.equal(torch.cat([images(str(tmp_path), s) for s in ('train', 'valid', 'test')]), as_bchw(a))

# --- the hub, without one

def test_hub_ids(monkeypatch):
    import datasets
    a = noise(20); features = datasets.Features({'img': datasets.Image()})
    found = datasets.DatasetDict({s: datasets.Dataset.from_dict({'img': [{'bytes': png(x), 'path': None} for x in part]}, features=features)
                                  for s, part in (('train', a), ('validation', a[:3]))})
    asked = []
    monkeypatch.setattr(datasets, 'load_dataset', lambda name: (asked.append(name), found)[1])
    assert torch.equal(images('someone/set', 'test'), as_bchw(a[:3])) and torch.equal(images('cifar10', n=4), as_bchw(a[:4]))
    assert asked==['someone/set', 'uoft-cs/cifar10']

@pytest.mark.slow
@pytest.mark.parametrize('name', ['cifar10', 'someone/set'])
def test_offline_one_sentence_at_once(tmp_path, name):
    "In a new process with an empty cache; the import of libraries is not counted."
    code = "import sys, time; import datasets; from pcdistill.core import Refused; from pcdistill.data import images\n" \
           f"t = time.monotonic()\ntry: images({name!r})\nexcept Refused as e: print(e); print(time.monotonic() - t)"
    for offline in ({'HF_HUB_OFFLINE': '1'}, {'HF_ENDPOINT': 'https://127.0.0.1:9'}):
        env = {k: v for k, v in os.environ.items() if not k.lower().endswith('_proxy') and k not in ('HF_HUB_OFFLINE', 'PCDISTILL_DATA')}
        p = subprocess.run([sys.executable, '-c', code], env=env | {'HF_HOME': str(tmp_path)} | offline, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
        said, seconds = p.stdout.strip().split('\n')
        assert name in said and 'PCDISTILL_DATA' in said and 'network' in said and float(seconds) < 4, p.stderr

def test_looking_for_the_hub_takes_two_seconds_at_most(monkeypatch):
    for v in ('HF_HUB_OFFLINE', 'HF_DATASETS_OFFLINE'): monkeypatch.delenv(v, raising=False)
    monkeypatch.setattr(data, 'getproxies', dict)
    def never(*a): time.sleep(3); raise OSError                                      # a name server that does not answer
    monkeypatch.setattr(socket, 'create_connection', never)
    start = time.monotonic(); assert not data._online(.3) and time.monotonic() - start < 2
    with socket.socket() as s:
        monkeypatch.undo(); monkeypatch.delenv('HF_HUB_OFFLINE', raising=False); monkeypatch.setattr(data, 'getproxies', dict)
        s.bind(('127.0.0.1', 0)); s.listen(); monkeypatch.setenv('HF_ENDPOINT', f'http://127.0.0.1:{s.getsockname()[1]}')
        assert data._online()
        monkeypatch.setenv('HF_HUB_OFFLINE', '1'); assert not data._online()

# --- refusals

@pytest.mark.parametrize('bad', [torch.rand(2, 1, 2, 2), torch.zeros(1, 1, 2, 2, dtype=torch.float64), torch.full((1, 1, 2, 2), 256),
                                 torch.full((1, 1, 2, 2), -1, dtype=torch.int16), torch.zeros(1, 1, 1, 1, dtype=torch.complex64)])
def test_float_or_out_of_range_pixels(bad, refuses): refuses(lambda: pixels(bad), 'integer pixels from 0 to 255')

def test_pixels_in_range_pass():
    for dtype in (torch.uint8, torch.int16, torch.int64, torch.bool):
        x = pixels(torch.tensor([0, 1]).to(dtype).reshape(1, 1, 1, 2)); assert x.dtype==torch.uint8 and x.flatten().tolist()==[0, 1]

def test_unknown(tmp_path, monkeypatch, refuses):
    for name in ('digitz', '', '/no/such/folder', './nothing', '../x/y/z'): refuses(lambda: images(name), "wanted one of digits, photos", f"'{name}'")
    monkeypatch.setenv('PCDISTILL_DATA', str(tmp_path/'gone')); refuses(lambda: images('digitz'), 'digitz')
    refuses(lambda: images('digits', 'validation'), 'train, valid or test')
    refuses(lambda: images('digits', n=0), 'positive')
    assert {'digits', 'photos', 'mnist', 'fashion_mnist', 'cifar10', 'cifar100', 'imagenet32', 'imagenet64'}<=set(names())

def test_folder_without_images(tmp_path, refuses):
    (tmp_path/'notes.txt').write_text('no image')
    refuses(lambda: images(str(tmp_path)), 'parquet or image files', str(tmp_path))

def test_images_of_mixed_sizes(tmp_path, refuses):
    folder(tmp_path/'f', [*noise(18), noise(1, 5, 5)[0], noise(1, 3, 3)[0]])
    refuses(lambda: images(str(tmp_path/'f'), 'test'), 'one size', '5×5')
    parquet(tmp_path/'p'/'train.parquet', [*noise(20), noise(1, 9, 9)[0]]); parquet(tmp_path/'p'/'test.parquet', [noise(1)[0], noise(1, 9, 9)[0]])
    refuses(lambda: images(str(tmp_path/'p'), 'test'), 'one size', '4×6 and 9×9')
    pq.write_table(pa.table({'image': [[[1, 2], [3, 4]], [[1, 2, 3]]]*10}), tmp_path/'p'/'test.parquet')
    refuses(lambda: images(str(tmp_path/'p'), 'test'), 'one size')

@pytest.mark.parametrize('mode', ['I;16', 'F', 'RGBA', 'CMYK', 'LA'])
def test_pixels_that_are_no_eight_bits(tmp_path, mode, refuses):
    a = {'I;16': np.full((4, 4), 999, np.uint16), 'F': np.full((4, 4), .5, np.float32)}.get(mode)
    im = Image.fromarray(a) if a is not None else Image.new(mode, (4, 4))
    for i in range(9): im.save(tmp_path/f'{i}.tif')
    refuses(lambda: images(str(tmp_path)), '8-bit grey or RGB')

@pytest.mark.parametrize('value,word', [(.5, 'float64'), (256, '256'), (-1, '-1')])
def test_numbers_in_parquet_that_are_no_pixels(tmp_path, value, word, refuses):
    pq.write_table(pa.table({'image': [[[value]*3]*3]*20}), tmp_path/'train.parquet')
    refuses(lambda: images(str(tmp_path)), 'integer pixels from 0 to 255', word)

def test_broken_files(tmp_path, refuses):
    (tmp_path/'a').mkdir(); (tmp_path/'a'/'train.parquet').write_bytes(b'PAR1 and no more'); refuses(lambda: images(str(tmp_path/'a')), 'broken')
    parquet(tmp_path/'b'/'train.parquet', noise(20)); whole = (tmp_path/'b'/'train.parquet').read_bytes()
    (tmp_path/'b'/'train.parquet').write_bytes(whole[:-20]); refuses(lambda: images(str(tmp_path/'b')), 'broken')
    folder(tmp_path/'c', noise(9)); (tmp_path/'c'/'0000.png').write_bytes(b'\x89PNG'); refuses(lambda: images(str(tmp_path/'c')), 'decoded')
    half = png(noise(1, 40, 40)[0]); folder(tmp_path/'d', noise(9, 40, 40)); (tmp_path/'d'/'0000.png').write_bytes(half[:len(half)//2])
    refuses(lambda: images(str(tmp_path/'d')), 'decoded')
    pq.write_table(pa.table({'text': ['a'], 'label': [1]}), tmp_path/'train.parquet'); refuses(lambda: images(str(tmp_path)), 'column of images', 'text, label')
    parquet(tmp_path/'e'/'test.parquet', noise(3)); refuses(lambda: images(str(tmp_path/'e')), 'train split')
    parquet(tmp_path/'f'/'train.parquet', noise(1)); parquet(tmp_path/'f'/'test.parquet', noise(1)); refuses(lambda: images(str(tmp_path/'f')), 'got none')
