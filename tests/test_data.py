import io, os, socket, subprocess, sys, time
from pathlib import Path
import numpy as np, pyarrow as pa, pyarrow.parquet as pq, pytest, torch
from PIL import Image
from pcdistill import data
from pcdistill.core import rng
from pcdistill.data import images, names

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

def everything(path): return torch.cat([images(str(path), s) for s in ('train', 'valid', 'test')])

def same_images(x, y):
    "In any order."
    return sorted(a.numpy().tobytes() for a in x)==sorted(a.numpy().tobytes() for a in y) and x.shape==y.shape

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
    assert shown['train'].isdisjoint(shown['validation'] | shown['test']) and shown['validation'].isdisjoint(shown['test'])
    assert len(images('photos', 'test'))==2*256                                 # test crops of 16×16 share no pixel of 256×256

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
    def bounds(name, size, split):
        part, rows = data.split_rows(name, size)[split]
        return part, rows[0], rows[-1] + 1
    size = {'train': 60_000, 'test': 10_000}
    assert bounds('mnist', size, 'train')==('train', 0, 55_000) and bounds('mnist', size, 'valid')==('train', 55_000, 60_000)
    assert bounds('cifar10', {'train': 49_926, 'test': 1}, 'valid')==('train', 44_926, 49_926)
    assert bounds('imagenet32', {'train': 1000, 'validation': 50}, 'valid')==('train', 900, 1000)
    assert bounds('imagenet32', {'train': 1000, 'validation': 50}, 'test')==('validation', 0, 50)
    both = {'train': 1000, 'validation': 50, 'test': 70}
    assert [bounds('imagenet32', both, s) for s in ('train', 'valid', 'test')]==[('train', 0, 1000), ('validation', 0, 50), ('test', 0, 70)]
    mine = [data.split_rows('mine', {'train': 1000})[s] for s in ('train', 'valid', 'test')]
    assert [(part, len(rows)) for part, rows in mine]==[('train', 810), ('train', 90), ('train', 100)]
    assert sorted(sum((rows for _, rows in mine), []))==list(range(1000))
    assert mine==[data.split_rows('other', {'train': 1000})[s] for s in ('train', 'valid', 'test')]    # the same each time
    assert all(min(rows) < 100 and max(rows) > 900 for _, rows in mine)                                # drawn from everywhere

def test_shards_in_order_and_a_data_folder(tmp_path):
    a = noise(30)
    for i in range(3): parquet(tmp_path/'data'/f'train-0000{i}-of-00003.parquet', a[10*i:10*i+10])
    parquet(tmp_path/'data'/'validation-00000-of-00001.parquet', noise(3, seed=5))
    assert same_images(torch.cat([images(str(tmp_path), s) for s in ('train', 'valid')]), as_bchw(a))
    assert torch.equal(data.read_images(data.split_sources(str(tmp_path))['train'], 'x', range(30)), as_bchw(a))
    assert torch.equal(images(str(tmp_path), 'test'), as_bchw(noise(3, seed=5)))

def test_image_folders(tmp_path):
    a, t = noise(20), noise(5, seed=1)
    folder(tmp_path/'flat', a)
    assert same_images(everything(tmp_path/'flat'), as_bchw(a))
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

def test_looking_for_the_hub_takes_two_seconds_at_most(monkeypatch, refuses):
    monkeypatch.setattr(data, 'getproxies', dict)
    def never(*a): time.sleep(3); raise OSError                                      # a name server that does not answer
    with monkeypatch.context() as m:
        m.setattr(socket, 'create_connection', never)
        start = time.monotonic(); assert not data._answers('https://huggingface.co', .3) and time.monotonic() - start < 2
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0)); s.listen(); assert data._answers(f'http://127.0.0.1:{s.getsockname()[1]}')
    monkeypatch.setattr(data, '_answers', lambda hub: pytest.fail('told to stay offline, it looked'))
    refuses(lambda: data._hub('someone/set'), 'network')

# --- refusals

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
    folder(tmp_path/'f', [*noise(18), noise(1, 5, 5)[0], noise(1, 5, 5)[0]])
    refuses(lambda: everything(tmp_path/'f'), 'one size', '5×5')
    folder(tmp_path/'g'/'train', noise(9)); folder(tmp_path/'g'/'test', noise(9, 5, 5))
    refuses(lambda: images(str(tmp_path/'g'), 'test'), 'one size', '4×6 and 5×5')       # not only within a split
    parquet(tmp_path/'p'/'train.parquet', [*noise(20), noise(1, 9, 9)[0]]); parquet(tmp_path/'p'/'test.parquet', [noise(1)[0], noise(1, 9, 9)[0]])
    refuses(lambda: images(str(tmp_path/'p'), 'test'), 'one size', '4×6 and 9×9')

@pytest.mark.parametrize('mode', ['I;16', 'F', 'RGBA', 'CMYK', 'LA'])
def test_pixels_that_are_no_eight_bits(tmp_path, mode, refuses):
    a = {'I;16': np.full((4, 4), 999, np.uint16), 'F': np.full((4, 4), .5, np.float32)}.get(mode)
    im = Image.fromarray(a) if a is not None else Image.new(mode, (4, 4))
    for i in range(9): im.save(tmp_path/f'{i}.tif')
    refuses(lambda: images(str(tmp_path)), '8-bit grey or RGB')

def test_broken_files(tmp_path, refuses):
    (tmp_path/'a').mkdir(); (tmp_path/'a'/'train.parquet').write_bytes(b'PAR1 and no more'); refuses(lambda: images(str(tmp_path/'a')), 'broken')
    parquet(tmp_path/'b'/'train.parquet', noise(20)); whole = (tmp_path/'b'/'train.parquet').read_bytes()
    (tmp_path/'b'/'train.parquet').write_bytes(whole[:-20]); refuses(lambda: images(str(tmp_path/'b')), 'broken')
    folder(tmp_path/'c', noise(9)); (tmp_path/'c'/'0000.png').write_bytes(b'\x89PNG'); refuses(lambda: images(str(tmp_path/'c')), 'decoded')
    half = png(noise(1, 40, 40)[0]); folder(tmp_path/'d', noise(9, 40, 40)); (tmp_path/'d'/'0000.png').write_bytes(half[:len(half)//2])
    refuses(lambda: images(str(tmp_path/'d')), 'decoded')
    (tmp_path/'t').mkdir(); pq.write_table(pa.table({'text': ['a'], 'label': [1]}), tmp_path/'t'/'train.parquet'); refuses(lambda: images(str(tmp_path/'t')), 'column of images', 'text, label')
    parquet(tmp_path/'e'/'test.parquet', noise(3)); refuses(lambda: images(str(tmp_path/'e')), 'train split')
    parquet(tmp_path/'f'/'train.parquet', noise(1)); parquet(tmp_path/'f'/'test.parquet', noise(1)); refuses(lambda: images(str(tmp_path/'f')), 'at least 2', 'got 1')

# --- names of splits

@pytest.mark.parametrize('train,test', [('Train', 'Test'), ('TRAIN', 'TEST'), ('train_images', 'test_images'), ('images/train', 'images/test'),
    ('trainset', 'testset'), ('train2017', 'val2017'), ('plain_text/train', 'plain_text/test'), ('trainA', 'testA'), ('TrainImages', 'TestImages'),
    ('x/training/dog', 'y/Eval/dog'), ('set-train', 'set-dev')])
@pytest.mark.parametrize('kind', ['png', 'parquet'])
def test_layouts_keep_test_apart(tmp_path, train, test, kind):
    a, t = noise(20), noise(5, seed=1)
    for where, x in ((train, a), (test, t)):
        if kind=='png': folder(tmp_path/where, x)
        else: parquet(tmp_path/where/'0000.parquet', x)
    assert same_images(images(str(tmp_path), 'test'), as_bchw(t))
    assert same_images(torch.cat([images(str(tmp_path), s) for s in ('train', 'valid')]), as_bchw(a))

@pytest.mark.parametrize('train,test', [('x_train.parquet', 'x_test.parquet'), ('TRAIN.parquet', 'Test.parquet'), ('train-0.parquet', 'validation-0.parquet'),
                                        ('Train.PARQUET', 'eval.parquet')])
def test_files_keep_test_apart(tmp_path, train, test):
    a, t = noise(20), noise(5, seed=1)
    parquet(tmp_path/train, a); parquet(tmp_path/test, t)
    assert same_images(images(str(tmp_path), 'test'), as_bchw(t)) and len(images(str(tmp_path)))==18

def test_names_of_splits_are_those_of_datasets(tmp_path):
    "What its own patterns find, a whole name at a time, is found here too."
    from datasets.data_files import SPLIT_KEYWORDS
    for split, words in SPLIT_KEYWORDS.items():
        for word in words:
            for name in (word, f'{word}-0', f'x_{word}', f'my {word} 1', f'{word}.parquet', f'a/{word}/b.png', word.upper()):
                assert data.split_named(name)==str(split), name
    for name in ('trains/0.png', 'testimony.png', 'valley', 'contest', 'x', '0', '', 'train_test'): assert data.split_named(name) is None, name
    assert data.split_named('train_test/test/0.png')=='test' and data.split_named('test/train/1.png')=='test'

def test_nothing_is_guessed(tmp_path, refuses, capsys):
    data._say.cache_clear()
    folder(tmp_path/'a'/'train', noise(20)); folder(tmp_path/'a'/'other', noise(5))
    refuses(lambda: images(str(tmp_path/'a')), 'all files', 'other/0000.png', '5')
    parquet(tmp_path/'b'/'train.parquet', noise(20)); parquet(tmp_path/'b'/'data'/'train.parquet', noise(20))
    refuses(lambda: images(str(tmp_path/'b')), 'one folder', 'data')                  # not every image twice
    folder(tmp_path/'c'/'dog', noise(20)); folder(tmp_path/'c'/'cat', noise(20, seed=1)); capsys.readouterr()
    assert len(images(str(tmp_path/'c')))==33 and len(images(str(tmp_path/'c'), 'test'))==4
    said = capsys.readouterr(); assert said.out=='' and said.err.count('\n')==1 and '40 files' in said.err and 'taken as train' in said.err
    folder(tmp_path/'d'/'train', noise(20)); folder(tmp_path/'d'/'test', noise(5)); images(str(tmp_path/'d'))
    assert capsys.readouterr().err==''                                                # nothing to say

def test_every_class_in_every_split(tmp_path):
    for i in range(4): folder(tmp_path/f'class{i}', [np.full((2, 2), i, np.uint8)]*50)
    for s in ('train', 'valid', 'test'): assert images(str(tmp_path), s).unique().tolist()==[0, 1, 2, 3]
    parquet(tmp_path/'p'/'train.parquet', [np.full((2, 2), i//50, np.uint8) for i in range(200)]); parquet(tmp_path/'p'/'test.parquet', noise(2, 2, 2, 1))
    assert images(str(tmp_path/'p'), 'valid').unique().tolist()==[0, 1, 2, 3]
    assert torch.equal(images(str(tmp_path/'p'), 'train', 9), images(str(tmp_path/'p'))[:9])

def test_hidden_files_and_order(tmp_path):
    a = [np.full((2, 2), i, np.uint8) for i in range(12)]
    for i, x in enumerate(a): folder(tmp_path/'f', []); Image.fromarray(x).save(tmp_path/'f'/f'{i}.png')
    for where in ('.ipynb_checkpoints', '.thumbnails', '.trash/x', '__MACOSX', '@eaDir', 'dog/.cache'): folder(tmp_path/'f'/where, noise(3))
    for name in ('._0.png', '__MACOSX/._1.png'): (tmp_path/'f'/name).write_bytes(b'no image')
    (tmp_path/'f'/'folder.png').mkdir()
    assert [p.name for p in data.split_sources(str(tmp_path/'f'))['train']]==[f'{i}.png' for i in range(12)]
    for i, x in enumerate(a): parquet(tmp_path/'p'/f'train-{i}.parquet', [x])
    parquet(tmp_path/'p'/'.hidden'/'train-0.parquet', a); (tmp_path/'p'/'._train-0.parquet').write_bytes(b'')
    assert data.read_images(data.split_sources(str(tmp_path/'p'))['train'], 'x', range(12))[:, 0, 0, 0].tolist()==list(range(12))

def test_splits_of_the_hub_go_by_the_same_names(monkeypatch):
    import datasets
    found = {s: datasets.Dataset.from_dict({'img': [{'bytes': png(x), 'path': None} for x in noise(n, seed=n)]}, features=datasets.Features({'img': datasets.Image()}))
             for s, n in (('train', 9), ('train_more', 11), ('val', 5), ('testing', 6), ('unsupervised', 7))}
    monkeypatch.setattr(datasets, 'load_dataset', lambda name: datasets.DatasetDict(found))
    assert [len(data.open_split('a/b', s)) for s in ('train', 'valid', 'test')]==[9, 5, 6]

# --- pixels are changed by a stated rule or not at all

def exif(turn):
    e = Image.Exif(); e[0x112] = turn
    return e

def deep_png(w=4, h=3):
    "An RGB PNG of 16 bits a channel, which Pillow opens as mode RGB."
    import struct, zlib
    def chunk(kind, body): return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))
    rows = b''.join(b'\0' + bytes(range(6*w)) for _ in range(h))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, 16, 2, 0, 0, 0)) + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')

GREY = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6)); COLOUR = Image.fromarray(noise(1)[0])

@pytest.mark.parametrize('name,write,word', [
    ('palette.png', lambda p: COLOUR.quantize(8).save(p, transparency=1), 'transparency'),
    ('grey.png', lambda p: GREY.save(p, transparency=3), 'transparency'),
    ('rgb.png', lambda p: COLOUR.save(p, transparency=(1, 2, 3)), 'transparency'),
    ('still.gif', lambda p: COLOUR.quantize(8).save(p, transparency=COLOUR.quantize(8).getpixel((0, 0))), 'transparency'),
    ('moving.gif', lambda p: GREY.save(p, save_all=True, append_images=[GREY.rotate(180)]), '2 frames'),
    ('moving.png', lambda p: GREY.save(p, save_all=True, append_images=[GREY.rotate(180)]), '2 frames'),
    ('moving.webp', lambda p: COLOUR.save(p, save_all=True, append_images=[COLOUR.rotate(180)]), '2 frames'),
    ('pages.tif', lambda p: GREY.save(p, save_all=True, append_images=[GREY, GREY]), '3 frames'),
    ('deep.png', lambda p: p.write_bytes(deep_png()), '16 bits'),
    ('deep.ppm', lambda p: p.write_bytes(b'P6 2 2 65535\n' + bytes(24)), '16 bits'),
    ('plain.ppm', lambda p: p.write_bytes(b'P3 2 2 1000\n' + b'999 '*12), '16 bits'),
    ('alpha.webp', lambda p: Image.new('RGBA', (4, 4)).save(p, lossless=True), 'RGBA')])
def test_what_would_be_lost_is_refused(tmp_path, refuses, name, write, word):
    write(tmp_path/name)
    said = refuses(lambda: data.read_images([tmp_path/name], 'there'), '8-bit grey or RGB', word, name)
    refuses(lambda: data.read_images([{'bytes': (tmp_path/name).read_bytes(), 'path': None}], 'there'), word)
    assert len(said) < 300

@pytest.mark.parametrize('turn', range(1, 9))
@pytest.mark.parametrize('ending', ['png', 'tif', 'webp'])
def test_images_are_turned_as_they_say(tmp_path, turn, ending):
    a = noise(1)[0]; by_hand = {1: a, 2: a[:, ::-1], 3: a[::-1, ::-1], 4: a[::-1], 5: a.swapaxes(0, 1), 6: np.rot90(a, -1), 7: np.rot90(a, 2).swapaxes(0, 1), 8: np.rot90(a)}
    Image.fromarray(a).save(tmp_path/f'x.{ending}', exif=exif(turn), **({'lossless': True} if ending=='webp' else {}))
    assert (data.read_images([tmp_path/f'x.{ending}'], 'x')[0].permute(1, 2, 0).numpy()==by_hand[turn]).all()

def test_few_grey_levels_stay_apart(tmp_path):
    (tmp_path/'a.pgm').write_bytes(b'P2 4 1 3\n0 1 2 3\n'); (tmp_path/'b.pbm').write_bytes(b'P1 4 1\n0 1 0 1\n'); GREY.save(tmp_path/'c.tga')
    assert data.read_images([tmp_path/'a.pgm'], 'x').flatten().tolist()==[0, 85, 170, 255]
    assert data.read_images([tmp_path/'b.pbm'], 'x').flatten().tolist()==[255, 0, 255, 0]
    assert (data.read_images([tmp_path/'c.tga'], 'x')[0, 0].numpy()==np.array(GREY)).all()

@pytest.mark.parametrize('ending', ['jfif', 'jpe', 'tga', 'pbm', 'pnm', 'JPG', 'tiff'])
def test_endings(tmp_path, ending):
    kind = {'jfif': 'JPEG', 'jpe': 'JPEG', 'JPG': 'JPEG', 'tiff': 'TIFF', 'tga': 'TGA'}.get(ending, 'PPM')
    for i in range(5): (GREY.convert('1') if ending=='pbm' else GREY).save(tmp_path/f'{i}.{ending}', format=kind)
    assert len(everything(tmp_path))==5

def test_the_sentence_says_what_is_read(tmp_path, refuses):
    (tmp_path/'x.jp2').write_bytes(b''); refuses(lambda: images(str(tmp_path)), '.png', '.jfif', '.tga')

def test_the_column_is_the_image_not_the_mask(tmp_path, refuses):
    def table(**columns):
        kinds = {'file': lambda i: {'bytes': png(noise(1, seed=i)[0]), 'path': None}, 'other': lambda i: {'bytes': png(noise(1, 4, 6, 1, seed=i)[0]), 'path': None},
                 'box': lambda i: [[1., 2., 3., 4.]]}
        return pa.table({name: [kinds[k](i) for i in range(9)] for name, k in columns.items()})
    for t in (table(mask='other', image='file'), table(bbox='box', image='file'), table(mask='other', IMG='file'), table(photo='file')):
        assert torch.equal(data.read_images(t[data.image_column(t.schema, 'x')].to_pylist(), 'x', [2]), as_bchw(noise(1, seed=2)))
    refuses(lambda: data.image_column(table(mask='other', photo='file').schema, 'there'), 'one column of images', 'mask, photo')
    refuses(lambda: data.image_column(table(img='other', image='file').schema, 'there'), 'one column of images')

# --- one set, one shape

@pytest.mark.parametrize('kind', ['png', 'parquet'])
@pytest.mark.parametrize('grey', [('train',), ('test',)])
def test_a_set_has_one_shape(tmp_path, kind, grey, refuses):
    for s in ('train', 'test'):
        x = noise(20, c=1 if s in grey else 3)
        folder(tmp_path/s, x) if kind=='png' else parquet(tmp_path/f'{s}.parquet', x)
    if grey==('test',):
        x = images(str(tmp_path), 'test')
        assert images(str(tmp_path)).shape[1]==3 and torch.equal(x, as_bchw(noise(20, c=1)).expand(-1, 3, -1, -1))
    else: refuses(lambda: images(str(tmp_path), 'test'), 'wanted grey images', 'in colour')

def test_one_colour_image_among_grey_ones_makes_the_set_colour(tmp_path):
    for at in range(10):
        folder(tmp_path/f'{at}', [noise(1, c=3 if i==at else 1, seed=i)[0] for i in range(10)])
        assert {images(str(tmp_path/f'{at}'), s).shape[1] for s in ('train', 'valid', 'test')}=={3}

# --- files that are broken

def test_broken_in_other_ways(tmp_path, refuses, monkeypatch):
    from PIL import PngImagePlugin
    text = PngImagePlugin.PngInfo(); text.add_text('x', 'y'*2_000_000, zip=True)
    GREY.save(tmp_path/'text.png', pnginfo=text); GREY.save(tmp_path/'bomb.png')
    (tmp_path/'token.ppm').write_bytes(b'P3 2 2 255\n1 2 x 4 5 6 7 8 9 1 2 3\n'); (tmp_path/'header.pgm').write_bytes(b'P5 a b 255\n'); (tmp_path/'is.png').mkdir()
    (tmp_path/'huge.pgm').write_bytes(b'P5 99999 99999 255\n')
    for name in ('text.png', 'token.ppm', 'header.pgm', 'is.png', 'huge.pgm', 'gone.png'):
        said = refuses(lambda: data.read_images([tmp_path/name], 'there'), 'cannot be decoded', name); assert len(said) < 300
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 5); refuses(lambda: data.read_images([tmp_path/'bomb.png'], 'there'), 'cannot be decoded')

@pytest.mark.parametrize('row', [None, {'bytes': b'', 'path': None}, {'bytes': None, 'path': None}, {'bytes': b'', 'path': 'none.png'}])
def test_rows_without_an_image(tmp_path, refuses, row):
    pq.write_table(pa.table({'image': [{'bytes': png(noise(1)[0]), 'path': 'x.png'}]*18 + [row]*2}), tmp_path/'train.parquet')
    refuses(lambda: everything(tmp_path), 'cannot be decoded')

def test_rows_without_a_path(tmp_path):
    "A column of structs that hold bytes alone."
    x = noise(20); pq.write_table(pa.table({'image': [{'bytes': png(a)} for a in x]}), tmp_path/'train.parquet')
    assert len(everything(tmp_path))==20

# --- too few

def test_the_number_that_is_needed(tmp_path, refuses):
    for n in (1, 2): folder(tmp_path/f'{n}', noise(n)); refuses(lambda: images(str(tmp_path/f'{n}')), 'at least 3', f'got {n}')
    folder(tmp_path/'3', noise(3)); assert [len(images(str(tmp_path/'3'), s)) for s in ('train', 'valid', 'test')]==[1, 1, 1]
    folder(tmp_path/'t'/'train', noise(1)); folder(tmp_path/'t'/'test', noise(4)); refuses(lambda: images(str(tmp_path/'t')), 'at least 2', 'got 1')
    parquet(tmp_path/'e'/'train.parquet', noise(9)); pq.write_table(pq.read_table(tmp_path/'e'/'train.parquet')[:0], tmp_path/'e'/'test.parquet')
    refuses(lambda: images(str(tmp_path/'e'), 'test'), 'at least 1', 'test')

# --- who looks at test

def test_no_test(tmp_path, refuses):
    folder(tmp_path/'train', noise(9)); folder(tmp_path/'test', noise(4))
    held = data.open_split(str(tmp_path), 'test'); assert len(held[1:3])==2
    with data.no_test():
        for name in ('digits', 'photos', str(tmp_path)):
            for look in (lambda: images(name, 'test'), lambda: images(name, 'test', 1), lambda: data.open_split(name, 'test')[:1]): refuses(look, 'without the test split')
            assert len(images(name, 'train', 3))==3 and len(images(name, 'valid', 1))==1 and len(data.open_split(name, 'test'))
        refuses(lambda: held[:1], 'without the test split'); assert len(data.open_split('digits', 'valid')[:2])==2
        with data.no_test(): pass
        refuses(lambda: images('digits', 'test'), 'without')                             # still closed outside the inner one
    assert len(images('digits', 'test', 2))==2
    with pytest.raises(KeyError):
        with data.no_test(): raise KeyError
    assert len(images('digits', 'test', 2))==2                                           # open again after an error
