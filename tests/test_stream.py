"Sets larger than memory: a mapped set gives the numbers of one in memory; ImageNet's batches; killed conversions go on; shards come in any order."
import io, json, zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path
import numpy as np, pyarrow as pa, pyarrow.parquet as pq, pytest, torch
from PIL import Image
from pcdistill import chain, data, runs
from pcdistill.chain import Run, distill
from pcdistill.core import rng
from pcdistill.data import by_shards, images, keep_images, open_split
from pcdistill.em import fit
from pcdistill.latent_prior import count_pairs, fit_latent_prior
from pcdistill.recipes import recipe
from pcdistill.runs import load_rows, rows_file, write_rows

TRAIN, VALID = (images('photos', s)[:n, :, 4:12, 4:12].contiguous() for s, n in (('train', 700), ('valid', 90)))

def batch(path, x_bchw, save=np.savez, **other):
    "A batch as those of ImageNet at 32×32 are."
    path.parent.mkdir(parents=True, exist_ok=True)
    save(path, **dict(data=x_bchw.flatten(1).numpy(), labels=list(range(1, len(x_bchw)+1)), mean=np.zeros(x_bchw[0].numel())) | other)

def imagenet(folder, save=np.savez):
    for i, x in enumerate(TRAIN.split(70)): batch(folder/f'train_data_batch_{i+1}.npz', x, save)
    batch(folder/'val_data.npz', VALID, save)
    return folder

# --- ImageNet's batches

@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_batches_of_imagenet_by_name_and_by_path(tmp_path, monkeypatch, save):
    folder = imagenet(tmp_path/'imagenet32', save)
    monkeypatch.setenv('PCDISTILL_DATA', str(tmp_path))
    assert torch.equal(images('imagenet32'), TRAIN[:630]) and torch.equal(images('imagenet32', 'valid'), TRAIN[630:])    # batch 10 is the last, not the second
    for name in ('imagenet32', str(folder)): assert torch.equal(images(name, 'test'), VALID)
    row = lambda x: sorted(map(bytes, x.flatten(1).numpy()))
    assert row(torch.cat([images(str(folder)), images(str(folder), 'valid')]))==row(TRAIN)

def test_a_batch_is_read_some_images_at_a_time(tmp_path, monkeypatch):
    imagenet(tmp_path/'x'); source = data.split_sources(str(tmp_path/'x'))['train']
    big = torch.cat([TRAIN]*2)                                                 # 1,400 images: three parts
    batch(tmp_path/'y'/'train.npz', big); source = data.split_sources(str(tmp_path/'y'))['train']
    assert len(source.ends)==3 and torch.equal(data.read_images(source, 'y'), big) and len(source.held)==1400-1024
    assert torch.equal(data.read_images(source, 'y', [1399, 3, 700, 3]), big[[1399, 3, 700, 3]])

def broken(folder, kind):
    file = imagenet(folder)/'train_data_batch_3.npz'; x = TRAIN[140:210]
    if kind=='cut short': file.write_bytes(file.read_bytes()[:-300])
    if kind=='flipped': b = bytearray(file.read_bytes()); b[5000] ^= 1; file.write_bytes(bytes(b))
    if kind=='no data': np.savez(file, x=x.numpy())
    if kind=='floats': batch(file, x.float())
    if kind=='labels': batch(file, x, labels=[1]*69)
    if kind=='grey': batch(file, x[:, :1])
    if kind=='larger': batch(file, x.repeat(1, 1, 2, 2))
    return file

@pytest.mark.parametrize('kind,said', [('cut short', 'broken'), ('flipped', 'broken'), ('no data', 'broken'), ('floats', 'float32'), ('labels', '69 labels'),
                                       ('grey', '(70, 64)'), ('larger', 'one size')])
def test_a_bad_batch_is_one_sentence_and_loses_nothing(tmp_path, monkeypatch, refuses, kind, said):
    monkeypatch.setattr(runs, 'SHARD', 70)
    monkeypatch.setenv('PCDISTILL_DATA', str(tmp_path)); file = broken(tmp_path/'imagenet32', kind); kept = tmp_path/'kept.npy'
    refuses(lambda: keep_images(open_split('imagenet32'), kept), said)
    good = {f.name: f.stat().st_mtime_ns for f in tmp_path.glob('.kept*')}
    assert len(good)==(2 if kind in ('flipped', 'larger') else 0) and not kept.is_file()
    batch(file, TRAIN[140:210]); found = runs.write_rows; wrote = []
    monkeypatch.setattr(runs, 'write_rows', lambda path, *a: (wrote.append(path.name), found(path, *a))[1])
    assert torch.equal(keep_images(open_split('imagenet32'), kept), TRAIN[:630])
    assert len(wrote)==10 - len(good) and not list(tmp_path.glob('.kept*'))    # nine shards and the whole

def test_parquet_is_read_a_group_of_rows_at_a_time(tmp_path):
    def png(x): f = io.BytesIO(); Image.fromarray(x.permute(1, 2, 0).numpy()).save(f, 'png'); return {'bytes': f.getvalue(), 'path': None}
    for split, x in (('train', TRAIN[:90]), ('test', VALID[:9])):
        pq.write_table(pa.table({'image': [png(t) for t in x]}), tmp_path/f'{split}.parquet', row_group_size=20)
    source = data.split_sources(str(tmp_path))['train']
    assert torch.equal(data.read_images(source, 'x'), TRAIN[:90]) and len(source.held)==10

# --- rows in a file

def test_a_split_in_any_order_is_kept_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, 'SHARD', 64); split = open_split('photos')
    for i, rows in enumerate((range(5, 300), torch.randperm(300, generator=rng(0)).tolist())):
        some = replace(split, rows=rows); x_bchw = keep_images(some, tmp_path/f'{i}.npy')
        assert torch.equal(x_bchw, some[:]) and torch.equal(keep_images(some, tmp_path/f'{i}.npy'), x_bchw)
    assert sorted(f.name for f in tmp_path.iterdir())==['0.npy', '1.npy']

def test_making_rows_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, 'SHARD', 10); asked = []
    make = lambda at: (asked.append(at.start), torch.arange(at.start, at.stop))[1]
    def killed(at): return make(at) if at.start==0 else 1/0
    with pytest.raises(ZeroDivisionError): rows_file(tmp_path/'x.npy', 25, killed)
    assert torch.equal(rows_file(tmp_path/'x.npy', 25, make), torch.arange(25)) and asked==[0, 10, 20]

def test_rows_that_are_too_few_are_refused(tmp_path, refuses): refuses(lambda: rows_file(tmp_path/'x.npy', 9, lambda at: torch.zeros(8)), 'wanted 9 rows', 'got 8')

@pytest.mark.parametrize('keep', [0, 5, 100, -1])
def test_rows_cut_short_are_refused(tmp_path, refuses, keep):
    path = write_rows(tmp_path/'x.npy', 50, torch.arange(50).split(7)); assert torch.equal(load_rows(path), torch.arange(50))
    path.write_bytes(path.read_bytes()[:keep]); refuses(lambda: load_rows(path), 'wanted the whole file', 'x.npy')

def test_what_is_done_to_mapped_rows_does_not_reach_the_file(tmp_path):
    path = write_rows(tmp_path/'x.npy', 5, [torch.zeros(5)]); load_rows(path).add_(1); assert load_rows(path).sum()==0

# --- order

def test_every_row_comes_once_shard_after_shard():
    rows = by_shards(400, rng(0), 100); assert torch.equal(rows.sort().values, torch.arange(400))
    assert [len((part//100).unique()) for part in rows.split(100)]==[1]*4 and not torch.equal(rows, rows.sort().values)

def test_one_shard_is_the_order_of_fit():
    "So that sets which fit into a shard are trained as they always were."
    w, seen = torch.nn.Module(), [[], []]; w.w = torch.nn.Parameter(torch.zeros(3).log_softmax(0)); w.normalised = {'w': 0}
    for s, order in zip(seen, (None, partial(by_shards, 50))):
        fit(w, lambda at: (s.append(at), w.w[at % 3])[1], 50, rng(0), 2, 20, 7, progress=False, order=order)
    assert len(seen[0])==len(seen[1])==2*8 and max(map(len, seen[0]))==7 and all(torch.equal(a, b) for a, b in zip(*seen))

def test_counts_in_parts_are_counts_in_memory():
    z_bn = torch.randint(0, 5, (400, 8), generator=rng(1)).to(torch.uint8); parent = fit_latent_prior(z_bn, 5).tree.parent
    whole = count_pairs([z_bn.long()], 5, parent)
    for parts in ([z_bn], z_bn.split(33)): assert torch.equal(count_pairs(parts, 5, parent), whole)
    assert torch.equal(whole.sum(2), torch.stack([z.bincount(minlength=5) for z in z_bn.T.long()])) and whole[parent.index(-1)].count_nonzero() <= 5

def test_labels_that_are_not_there_are_refused(refuses):
    z_bn = torch.randint(0, 5, (40, 4), generator=rng(0)); parent = (-1, 0, 1, 2)
    refuses(lambda: count_pairs([z_bn + 1], 5, parent), '4 ids from 0 to 4', 'up to 5'); refuses(lambda: fit_latent_prior(z_bn + 1, 5), 'from 0 to 4')
    refuses(lambda: count_pairs([z_bn[:, :3]], 5, parent), 'wanted 4 ids', 'got 3'); refuses(lambda: fit_latent_prior(z_bn - 1, 5), 'from 0')

# --- the chain

def same_but_times(a, b): return {k: v for k, v in a.items() if k!='seconds'}=={k: v for k, v in b.items() if k!='seconds'}

@pytest.mark.parametrize('teacher,family', [('pixels', 'trees'), ('vqvae', 'trees'), ('pixels', 'grown'), ('pixels', 'normals')])
def test_the_chain_streams_and_its_numbers_are_those_in_memory(tmp_path, monkeypatch, teacher, family):
    "All training images, ids and squares of a set that is mapped; fewer squares than there are go into the emission."
    monkeypatch.setenv('PCDISTILL_DATA', str(tmp_path/'data')); imagenet(tmp_path/'data'/'imagenet32')
    small = dict(trees=dict(states=4, epochs=1), grown=dict(epochs=1, rounds=1, start=1), normals=dict(epochs=1, halves=4, joined=(), scales=1))[family]
    r = recipe('imagenet32', family=family, teacher=teacher, n_test=20, epochs=1, clusters=4, autoregressive=False, emission=small | dict(n_fit=1000))
    whole = distill(r, tmp_path/'memory', 'cpu', False).results
    asked = []; monkeypatch.setattr(chain, 'keep_images', lambda *a: (asked.append(1), keep_images(*a))[1])
    monkeypatch.setattr(chain, 'IN_MEMORY', 50_000); monkeypatch.setattr(runs, 'SHARD', 100)
    run = distill(r, tmp_path/'mapped', 'cpu', False)
    assert same_but_times(whole, run.results) and asked and whole['data']['n_train']==630
    a, b = runs.load(tmp_path/'memory'/'student.safetensors')[0], runs.load(run.folder/'student.safetensors')[0]
    assert a.keys()==b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert not list(run.folder.glob('images*')) and not [f for f in run.folder.iterdir() if f.name[0]=='.']
    assert run.latents()['z_bn'].dtype==torch.int16 and load_rows(run.folder/'codes.npy').shape[0]==630

def test_every_label_has_a_patch_to_be_fitted_to(tmp_path, monkeypatch):
    "A label that one image in a hundred has is there, however few images are drawn."
    r = recipe('digits', teacher='pixels', emission=dict(n_fit=8)); run = Run(r, tmp_path, 'cpu', False)
    z_bn = torch.zeros(1437, 4, dtype=torch.int16); z_bn[900, 2], z_bn[901, 1] = 1, 2
    monkeypatch.setattr(Run, 'latents', lambda self: dict(mu_kf=torch.zeros(3, 16), z_bn=z_bn))
    some = run.fitted_images(rng(0)); assert len(some)==4 and {900, 901} <= set(some.tolist())
    assert run.labelled(rng(0)).z_xq.unique().tolist()==[0, 1, 2]
