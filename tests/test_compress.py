"The coder: tables are conditionals, files are as long as the bits, images come back, everything else is refused."
import copy, math, os, re, subprocess, sys
import numpy as np, pytest, torch
from PIL import Image
from pcdistill.colour import COLOURS
from pcdistill.extra.compress import compress_files, decode, decompress_file, encode, pack, unpack, walk
from pcdistill.core import rng
from pcdistill.data import images
from pcdistill.either import SquaresConfig, fit_squares
from pcdistill.emission import Labelled
from pcdistill.image import Image as Student, image_state
from pcdistill.patches import to_patches
from pcdistill.runs import save
from pcdistill.tiles import cut
from pcdistill.either import places
from pcdistill.latent_prior import fit_latent_prior
from small_images import BYTES, CHAINS, DISCRETE, every_image, log_joint, patches, trees, weights_
from test_evaluate import toy

def bits(image, x) -> float:
    with torch.no_grad(): return -image(x).double().sum().item()/math.log(2)

def strange(image, seed=0):
    "Images that a circuit does not expect: noise, black, white, a checkerboard, a ramp."
    c, h, w = image.shape; at = torch.arange(h)[:, None] + torch.arange(w)
    far = torch.randint(0, 256, (3, c, h, w), generator=rng(seed), dtype=torch.uint8)
    more = torch.stack([at*0, at*0+255, 255*(at % 2), 255*at//(h+w)]).to(torch.uint8)
    return torch.cat([far, more[:, None].expand(-1, c, -1, -1)])

def tables_of(image, x):
    "log of each table's entry at the value that an image has: [v b]."
    left, lp = iter(image.rows(x)[:, image.tiles.order_d].T), []
    def value(p_bv):
        assert (p_bv >= 0).all() and (p_bv.sum(1)-1).abs().max() < 1e-5
        y_b = next(left).long(); lp.append(p_bv.gather(1, y_b[:, None])[:, 0].log()); return y_b
    rows = walk(copy.deepcopy(image).double(), len(x), value)
    assert torch.equal(rows, image.rows(x).long())
    return torch.stack(lp)

@pytest.mark.parametrize('name', BYTES)
def test_tables_multiply_to_the_joint_probability(name):
    image = BYTES[name](3); x = torch.cat([image.sample(8, rng(3)), strange(image)])
    lp_vb = tables_of(image, x)
    with torch.no_grad(): assert len(lp_vb)==image.tiles.n_vars and (lp_vb.sum(0)-image(x).double()).abs().max() < 2e-3

@pytest.mark.parametrize('name', list(DISCRETE) + [f'chain:{n}' for n in CHAINS])
def test_tables_by_enumeration(name):
    "Every table is p(next | those before), from the values of all images."
    image = (DISCRETE | {f'chain:{n}': f for n, f in CHAINS.items()})[name](0); all_x = every_image(image)
    rows = image.rows(all_x).long(); p_x = log_joint(image, image.evidence(all_x).detach()).exp()
    told = rows[torch.randint(len(rows), (3,), generator=rng(0))]; at = []; order = image.tiles.order_d.tolist(); left = iter(order)
    def value(p_bv):
        d = next(left); now = told[:, d]
        for p_v, row in zip(p_bv, told):
            same = (rows[:, at]==row[at]).all(1)
            brute = torch.zeros_like(p_v).index_add_(0, rows[same][:, d], p_x[same])/p_x[same].sum()
            assert (p_v-brute).abs().max() < 2e-5
        at.append(d); return now
    walk(copy.deepcopy(image).double(), 3, value)
    assert at==order and abs(p_x.sum()-1) < 1e-4

@pytest.mark.parametrize('name', BYTES)
def test_round_trip(name):
    image = BYTES[name](10); x = image.sample(40, rng(0)); size = bits(image, x)
    data = encode(x, image, batch=23); back, names = decode(data, image)
    assert torch.equal(back, x) and names is None and back.dtype==torch.uint8
    assert .99*size - 8 <= 8*len(unpack(data)[1]) <= 1.01*size + 64
    far = strange(image); data = encode(far, image)                                   # images it did not expect
    assert torch.equal(decode(data, image)[0], far) and 8*len(unpack(data)[1]) <= 1.01*bits(image, far) + 64

@pytest.mark.parametrize('config', [SquaresConfig(epochs=1), SquaresConfig(epochs=1, halves=4, quarters=4, heads=2), SquaresConfig(epochs=1, halves=4, quarters=4, heads=2, joined=(4,))])
def test_normals_code_every_image(config):
    "Fitted on two constant images only, or on eight digits: what they never saw is coded at the price they state."
    for x in (torch.tensor([10, 200], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 1, 8, 8).contiguous(), images('digits', 'train', 8)):
        p = 4*config.across; y_xd = to_patches(x.long(), p).flatten(0, 1); small = y_xd
        for _ in config.joined: small = cut(small, places(p, 1))
        rows = Labelled(y_xd, (small.float().mean(1) > 100).long(), 256, 2, p)
        e, _ = fit_squares(rows, config, rng(1), None, False); n = 64//p**2
        image = Student(e, fit_latent_prior(e.label(y_xd, rows.z_xq[:len(y_xd)]).view(-1, n), e.n_heads), COLOURS['rgb'], p, (1, 8, 8))
        far = torch.cat([strange(image), x]); data = encode(far, image); size = bits(image, far)
        assert torch.equal(decode(data, image)[0], far) and math.isfinite(size)
        assert 8*len(unpack(data)[1]) <= 1.01*size + 64 and size/far.numel() < 30

def test_threads_are_restored():
    image = BYTES['trees'](1); x = image.sample(3, rng(0)); torch.set_num_threads(2)
    data = encode(x, image); torch.set_num_threads(1)
    assert unpack(data)[0]['threads']==2 and torch.equal(decode(data, image)[0], x) and torch.get_num_threads()==1
    assert image.prior.root_rsk.dtype==torch.float32                                               # the circuit itself is left alone

def test_a_default_of_float64_changes_nothing():
    image = BYTES['squares'](1); x = image.sample(3, rng(0)); data = encode(x, image); torch.set_default_dtype(torch.float64)
    try: assert torch.equal(decode(data, image)[0], x)
    finally: torch.set_default_dtype(torch.float32)

def test_any_damage_is_noticed(refuses):
    image = BYTES['trees'](2); x = image.sample(5, rng(0)); data = encode(x, image, list('abcde'))
    assert decode(data, image)[1]==list('abcde')
    for i in range(4, len(data)): refuses(lambda: decode(data[:i] + bytes([data[i]^64]) + data[i+1:], image), 'changed or cut short')
    for i in range(4, len(data)): refuses(lambda: decode(data[:i], image), 'cut short')
    for bad in (b'', b'PC', b'\x89PNG' + data): refuses(lambda: decode(bad, image), 'another kind')
    refuses(lambda: decode(data + b'x', image), 'changed')

def test_files_of_other_formats_are_refused(refuses):
    data = encode(toy(0).sample(2, rng(0)), toy(0))
    for old in (b'PCD2' + data[4:], b'PCD1', b'PCD', b'PCD4' + data[4:]): refuses(lambda: decode(old, toy(0)), 'format 3', 'another version', 'compress the images again')

def test_another_circuit_is_refused(refuses):
    image, other = BYTES['trees'](3), BYTES['trees'](3); weights_(other.emission, 9); x = image.sample(5, rng(0)); data = encode(x, image)
    (about, payload), its = unpack(data), unpack(encode(x, other))[0]['hash']; refuses(lambda: decode(data, other), 'got another', about['hash'][:12], its[:12])
    refuses(lambda: decode(pack(about | dict(hash=its), payload), other), 'arithmetic')  # a lying hash: the pixels' check sum tells
    refuses(lambda: decode(pack(about | dict(crc=about['crc']^1), payload), image), 'torch', 'processor')

def test_what_cannot_be_coded(refuses):
    image = BYTES['trees'](4); x = image.sample(5, rng(0))
    refuses(lambda: encode(x[:0], image), 'at least one')
    refuses(lambda: encode(x, image, ['a']), 'name', '5')
    refuses(lambda: encode(x[:, :, :, :-1], image), str(image.shape))
    lossy = patches(trees(D=12, V=256), (3, 2, 4), colour='bt709_lossy'); refuses(lambda: encode(torch.zeros(1, 3, 2, 4, dtype=torch.uint8), lossy), 'bt709_lossy', 'reversible')
    never = toy(1); never.emission.pc.inputs.logp_dvs.data[0] = torch.tensor([[0., 0.], [-torch.inf]*2]); y = torch.zeros(4, 1, 2, 4, dtype=torch.uint8); y[0, 0, 0, 0] = 1
    refuses(lambda: encode(y, never), 'positive probability')

def test_files(tmp_path, refuses):
    image = toy(2); save(tmp_path/'student.safetensors', *image_state(image)); x = image.sample(7, rng(0))
    paths = [tmp_path/f'im {i}.png' for i in range(7)]
    for p, a in zip(paths, x[:, 0].numpy()): Image.fromarray(a).save(p)
    c = compress_files(paths, image, tmp_path/'all.pcd', progress=False)
    data = (tmp_path/'all.pcd').read_bytes(); pixels = len(unpack(data)[1]); said = float(re.search(r'the circuit says ([0-9.]+)', c)[1])
    assert f'7 images in {len(data):,} bytes' in c and f'names {len(data)-pixels:,} bytes' in c and f'pixels {8*pixels/x.numel():.4f} ' in c and abs(said*x.numel() - bits(image, x)) < 1e-2
    out = decompress_file(tmp_path/'all.pcd', image, tmp_path/'out'/'deep', progress=False)
    assert [p.name for p in out]==[p.name for p in paths] and all((np.array(Image.open(p))==a).all() for p, a in zip(out, x[:, 0].numpy()))
    refuses(lambda: decompress_file(tmp_path/'all.pcd', image, tmp_path/'out'/'deep', progress=False), 'im 0.png')
    refuses(lambda: decompress_file(tmp_path/'all.pcd', image, paths[0], progress=False), 'write')
    refuses(lambda: decompress_file(tmp_path/'none.pcd', image, tmp_path/'x'), 'none.pcd')
    refuses(lambda: decompress_file(paths[0], image, tmp_path/'x'), 'another kind')
    refuses(lambda: compress_files([], image, tmp_path/'x.pcd'), 'at least one')
    refuses(lambda: compress_files([paths[0], tmp_path/'sub'/'im 0.jpg'], image, tmp_path/'x.pcd'), 'im 0', 'more than once')
    refuses(lambda: compress_files([tmp_path/'gone.png'], image, tmp_path/'x.pcd'), 'gone.png')
    refuses(lambda: compress_files([tmp_path], image, tmp_path/'x.pcd'), 'a folder', tmp_path.name)
    refuses(lambda: compress_files([tmp_path/'student.safetensors'], image, tmp_path/'x.pcd'), 'decoded')
    Image.new('RGB', (4, 2)).save(tmp_path/'colour.png'); Image.new('L', (5, 2)).save(tmp_path/'wide.png')
    for name, size in (('colour.png', '(3, 2, 4)'), ('wide.png', '(1, 2, 5)')): refuses(lambda: compress_files([tmp_path/name], image, tmp_path/'x.pcd'), '(1, 2, 4)', size)
    assert not (tmp_path/'x.pcd').exists()

def test_names_do_not_lead_out_of_the_folder(tmp_path):
    image = toy(3); x = image.sample(1, rng(0)); (tmp_path/'f.pcd').write_bytes(encode(x, image, ['../../evil']))
    assert decompress_file(tmp_path/'f.pcd', image, tmp_path/'in', progress=False)==[tmp_path/'in'/'evil.png']

def test_names_of_all_kinds_come_back():
    image = toy(3); names = ['ä b', 'line\nbreak', '"', '']; assert decode(encode(image.sample(4, rng(0)), image, names), image)[1]==names

def test_every_digit():
    "All 1,797, by a circuit that has seen none of them: sizes are those of its bits whatever it knows."
    image = patches(weights_(trees((5,), (4,), 16, 256), 1, .5), (1, 8, 8), 4)
    for split in ('train', 'valid', 'test'):
        x = images('digits', split); data = encode(x, image, batch=2000)
        assert torch.equal(decode(data, image)[0], x) and abs(8*len(unpack(data)[1])/bits(image, x) - 1) < .01 and len(data)-len(unpack(data)[1]) < 200

def test_another_process_reads_it(tmp_path):
    "Another process, with another number of threads set from outside."
    image = BYTES['squares'](7); x = image.sample(6, rng(0)); save(tmp_path/'student.safetensors', *image_state(image)); torch.save(x, tmp_path/'x.pt')
    (tmp_path/'f.pcd').write_bytes(encode(x, image))
    code = ("import sys, torch; from pathlib import Path; from pcdistill.extra.compress import decode; from pcdistill.image import load_image; d = Path(sys.argv[1]); s = d/'student.safetensors'\n"
            "assert torch.equal(decode((d/'f.pcd').read_bytes(), load_image(s))[0], torch.load(d/'x.pt')); print('the same')")
    p = subprocess.run([sys.executable, '-c', code, str(tmp_path)], capture_output=True, text=True, env=os.environ | dict(OMP_NUM_THREADS='2'))
    assert p.stdout.strip()=='the same', p.stderr
