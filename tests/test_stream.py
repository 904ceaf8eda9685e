"Streaming: what passes in parts is what is in memory; killed extractions go on; memory does not grow with the number of parts."
import os, signal, subprocess, sys, textwrap
from pathlib import Path
import pytest, torch
from pcdistill.circuit import Circuit
from pcdistill.core import rng
from pcdistill.data import images
from pcdistill.em import EM, fit
from pcdistill.inputs import Categorical
from pcdistill.latents import extract
from pcdistill.extra.stream import OnDemand, extract_parts, in_parts, made, shards, sample_rows, stored, together
from pcdistill.structure import binary_tree
from pcdistill.teacher import fit_pixels
from pcdistill.latent_prior import count_pairs, fit_latent_prior, recount_

here = Path(__file__).parent.parent
SIZES = (70, 1, 129, 200)                                                     # parts of unequal length, 400 rows

def labelled(seed=0):
    "Rows of 6 variables of 4 values, each with one of 3 labels."
    g = rng(seed); z_b = torch.randint(0, 3, (400,), generator=g)
    return torch.minimum(z_b[:, None] + torch.randint(0, 2, (400, 6), generator=g), torch.tensor(3)), z_b

def a_circuit(dtype=torch.float64): return Circuit(binary_tree(6), Categorical(6, 4, 3, rng(1)), 3, rng(2)).to(dtype)
def log_prob(pc): return lambda rows: pc(rows[0]).gather(1, rows[1][:, None])[:, 0]
def alike(a, b, eps): return all(torch.allclose(p, q, atol=eps, rtol=0) for p, q in zip(a.parameters(), b.parameters()))

# --- the order

@pytest.mark.parametrize('batch,micro,mix', [(400, 400, 1), (100, 30, 1), (100, 100, 3), (7, 5, 2), (50, 1, 4), (1000, 64, 1)])
def test_every_row_comes_once_and_keeps_its_label(batch, micro, mix):
    numbers = torch.arange(400); steps = max(1, round(400/batch))
    got = [list(step) for step in in_parts(400, micro, numbers.split(SIZES), (numbers*3).split(SIZES), mix=mix)(rng(0), steps)]
    a, b = (torch.cat(t) for t in zip(*[r for step in got for r in step]))
    assert torch.equal(a.sort().values, numbers) and torch.equal(b, a*3) and not torch.equal(a, numbers)
    assert max(len(r) for step in got for r, _ in step) <= micro and len(got) <= steps
    if micro < batch: assert len(got)==steps
    ends = torch.tensor([sum(len(r) for r, _ in step) for step in got]).cumsum(0)
    assert all(abs(int(e) - 400*(i+1)/len(got)) <= micro for i, e in enumerate(ends)) or micro >= batch

def test_an_epoch_follows_the_generator_and_is_another_one_each_time():
    order, g = in_parts(400, 50, torch.arange(400).split(SIZES)), rng(3)
    run = lambda g: torch.cat([r for step in order(g, 4) for r, in step])
    first, second = run(g), run(g)
    assert torch.equal(first, run(rng(3))) and not torch.equal(first, second)

def test_mixing_parts_spreads_them_over_the_steps():
    "Sorted data: without mixing the first of four steps sees one or two of eight parts, with it all of them."
    seen = lambda mix: {int(v)//50 for r, in next(iter(in_parts(400, 50, torch.arange(400).split(50), mix=mix)(rng(0), 4))) for v in r}
    assert len(seen(1)) <= 3 and len(seen(8))==8

@pytest.mark.parametrize('said', [399, 401, 200])
def test_a_wrong_number_of_rows_is_refused(said, refuses):
    refuses(lambda: [list(s) for s in in_parts(said, 50, torch.arange(400).split(SIZES))(rng(0), 4)], f'wanted {said} rows')

def test_sources_that_do_not_fit_are_refused(refuses):
    x = torch.arange(400)
    refuses(lambda: list(together(x.split(SIZES), x.split(200))), 'same number of parts', '[4, 2]')
    refuses(lambda: list(together(x.split(SIZES), [x[:5]]*4)), 'part 0', '[70, 5]')

# --- EM

@pytest.mark.parametrize('mix', [1, 2])
def test_streamed_em_is_in_memory_em_in_the_same_order(mix):
    "The loop written out on rows in memory, in the order in which the parts bring their numbers."
    x_bd, z_b = labelled(); order = lambda *sources: in_parts(400, 32, *sources, mix=mix)
    pc, slow = a_circuit(), a_circuit()
    history = fit(pc, log_prob(pc), 400, rng(7), epochs=3, batch=100, lr=(.9, .9), pseudocount=.1, progress=False, order=order(x_bd.split(SIZES), z_b.split(SIZES)))
    g, opt, means = rng(7), EM(slow, .9, .1), []
    for _ in range(3):
        total = 0.
        for step in order(torch.arange(400).split(SIZES))(g, 4):
            rows = torch.cat([r for r, in step]); lp_b = log_prob(slow)((x_bd[rows], z_b[rows]))
            (-lp_b.sum()).backward(); opt.step(); total += float(lp_b.detach().sum())
        means.append(total/400)
    assert alike(pc, slow, 1e-6) and not alike(pc, a_circuit(), 1e-2)
    assert history==pytest.approx(means, abs=1e-6) and history[-1] > history[0] + .1

def test_a_step_over_all_rows_is_the_step_in_memory():
    x_bd, z_b = labelled(); pc, whole = a_circuit(), a_circuit()
    more = dict(epochs=4, batch=400, micro=64, lr=(1., .5), pseudocount=.1, progress=False)
    h = fit(pc, log_prob(pc), 400, rng(0), order=in_parts(400, 64, x_bd.split(SIZES), z_b.split(SIZES)), **more)
    w = fit(whole, lambda rows: log_prob(whole)((x_bd[rows], z_b[rows])), 400, rng(9), **more)
    assert alike(pc, whole, 1e-6) and h==pytest.approx(w, abs=1e-6)

def test_fit_without_an_order_is_what_it_was():
    "The order that nothing else is asked for: shuffled rows, cut evenly into steps and then into micro-batches."
    x_bd, z_b = labelled(); a, b = a_circuit(), a_circuit()
    lp = lambda pc: lambda rows: log_prob(pc)((x_bd[rows], z_b[rows]))
    fit(a, lp(a), 400, rng(4), epochs=2, batch=90, micro=40, progress=False)
    by_hand = lambda gen, steps: (r.split(40) for r in torch.randperm(400, generator=gen).tensor_split(steps))
    fit(b, lp(b), 400, rng(4), epochs=2, batch=90, micro=40, order=by_hand, progress=False)
    assert alike(a, b, 0)

def test_a_killed_pass_goes_on_with_the_same_numbers(tmp_path):
    x_bd, z_b = labelled(); parts = x_bd.split(SIZES), z_b.split(SIZES)
    def run(ckpt, die=None):
        pc, calls = a_circuit(), []
        def lp(rows):
            calls.append(1)
            if len(calls)==die: raise KeyboardInterrupt
            return log_prob(pc)(rows)
        return fit(pc, lp, 400, rng(5), epochs=4, batch=100, ckpt=ckpt, progress=False, order=in_parts(400, 50, *parts)), pc
    with pytest.raises(KeyboardInterrupt): run(tmp_path/'c', die=25)
    (h, pc), (whole, same) = run(tmp_path/'c'), run(None)
    assert h==whole and alike(pc, same, 0)

# --- shards

CODE = '''
    import os, signal, sys
    from pcdistill.core import rng
    from pcdistill.data import images
    from pcdistill.latents import extract
    from pcdistill.extra.stream import extract_parts
    from pcdistill.teacher import fit_pixels
    x = images('photos', 'train', 350); teacher = fit_pixels(x, 4, 16, rng(0)); calls = []
    def code(part):
        calls.append(1)
        if len(calls)==3: os.kill(os.getpid(), signal.SIGKILL)
        return extract(teacher, part)
    extract_parts(code, 16, sys.argv[1], 'photos', x.split(100))
'''

def test_a_killed_extraction_goes_on_at_the_next_shard(tmp_path):
    p = subprocess.run([sys.executable, '-c', textwrap.dedent(CODE), str(tmp_path)], cwd=here, capture_output=True, text=True)
    assert p.returncode==-signal.SIGKILL, p.stderr
    left = {f.name: f.stat().st_mtime_ns for f in tmp_path.iterdir()}; assert set(left)=={'000000.safetensors', '000001.safetensors'}
    x_bchw = images('photos', 'train', 350); teacher = fit_pixels(x_bchw, 4, 16, rng(0)); sizes = []
    def code(part): sizes.append(len(part)); return extract(teacher, part)
    ids = extract_parts(code, 16, tmp_path, 'photos', x_bchw.split(100))
    assert sizes==[100, 50] and {n: (tmp_path/n).stat().st_mtime_ns for n in left}==left
    assert torch.equal(torch.cat(list(ids)), extract(teacher, x_bchw)) and ids[0].dtype==torch.uint8
    extract_parts(code, 16, tmp_path, 'photos', x_bchw.split(100)); assert sizes==[100, 50]

@pytest.mark.parametrize('keep', [0, 5, 60, -1])
def test_a_truncated_shard_is_refused(tmp_path, refuses, keep):
    x = torch.arange(400)[:, None] % 7; ids = extract_parts(lambda t: t, 7, tmp_path, 'x', x.split(SIZES))
    path = tmp_path/'000002.safetensors'; path.write_bytes(path.read_bytes()[:keep])
    refuses(lambda: ids[2], 'wanted a whole .safetensors file', '000002')
    refuses(lambda: extract_parts(lambda t: t, 7, tmp_path, 'x', x.split(SIZES)), 'wanted a whole .safetensors file', '000002')
    assert torch.equal(ids[3], x[200:])

def test_shards_of_something_else_are_refused(tmp_path, refuses):
    x = torch.arange(400)[:, None] % 7; extract_parts(lambda t: t, 7, tmp_path, 'x', x.split(SIZES))
    refuses(lambda: shards(tmp_path, 4, 'y')[0], "about 'x' instead of 'y'")
    refuses(lambda: shards(tmp_path, 5, 'x')[0], 'parts 4 instead of 5')
    os.replace(tmp_path/'000001.safetensors', tmp_path/'000000.safetensors')
    refuses(lambda: shards(tmp_path, 4, 'x')[0], 'part 1 instead of 0')
    refuses(lambda: shards(tmp_path, 4, 'x')[1], 'there is none')

def test_ids_that_would_wrap_round_are_refused(tmp_path, refuses):
    "300 ids do not fit into the bytes of 256."
    refuses(lambda: extract_parts(lambda t: t[:, None], 256, tmp_path, 'x', torch.arange(300).split(100)), 'from 0 to 255', '299', 'part 2')
    refuses(lambda: extract_parts(lambda t: t[:5, None], 300, tmp_path/'y', 'x', torch.arange(300).split(100)), 'for 100 rows', 'got 5')
    ids = extract_parts(lambda t: t[:, None], 300, tmp_path/'z', 'x', torch.arange(300).split(100))
    assert torch.equal(torch.cat(list(ids))[:, 0].long(), torch.arange(300)) and ids[0].dtype==torch.int16

# --- counts

@pytest.mark.parametrize('seed', range(3))
def test_counts_of_shards_are_counts_in_memory(tmp_path, seed):
    z_bn = torch.randint(0, 5, (400, 8), generator=rng(seed)); z_bn[:, 3] = (z_bn[:, 6] + (torch.rand(400, generator=rng(9)) < .2)) % 5
    labels = extract_parts(lambda t: t, 5, tmp_path, 'z', z_bn.split(SIZES))
    few = fit_latent_prior(z_bn[:100], 5); whole = fit_latent_prior(z_bn, 5, tree=few.tree)
    assert not alike(few, whole, 1e-3)
    c = count_pairs(labels, 5, few.tree.parent)
    assert c.own_nk.sum(1).tolist()==[400]*8
    for i, above in enumerate(few.tree.parent):
        for s in range(5):
            assert c.own_nk[i, s]==(z_bn[:, i]==s).sum()
            for t in range(5): assert c.pair_nst[i, s, t]==(0 if above < 0 else ((z_bn[:, i]==s) & (z_bn[:, above]==t)).sum())
    recount_(few, labels); assert alike(few, whole, 0)

def test_labels_that_do_not_fit_the_top_are_refused(refuses):
    z_bn = torch.randint(0, 5, (40, 4), generator=rng(0)); top = fit_latent_prior(z_bn, 5)
    refuses(lambda: recount_(top, [z_bn + 1]), '4 ids from 0 to 4', 'up to 5')
    refuses(lambda: recount_(top, [z_bn[:, :3]]), 'wanted 4 ids', 'got 3')

# --- sources

def test_made_parts_come_again_and_differ():
    s = made(lambda g: torch.rand(5, generator=g), 6, 0)
    assert torch.equal(s[4], s[4]) and len(list(s))==6 and len({float(p[0]) for p in s})==6
    assert not torch.equal(s[1], made(lambda g: torch.rand(5, generator=g), 6, 1)[0])
    with pytest.raises(IndexError): s[6]

def test_some_rows_are_aligned_even_and_reproducible():
    x = torch.arange(400); parts = x.split(100)
    a, b = sample_rows(80, rng(0), parts, (x*2).split(100))
    assert torch.equal(b, a*2) and len(a.unique())==80 and (a//100).bincount().tolist()==[20]*4
    assert torch.equal(a, sample_rows(80, rng(0), parts)[0])
    assert torch.equal(sample_rows(9999, rng(0), parts)[0].sort().values, x)
    asked = []
    counted = OnDemand(4, lambda i: (asked.append(i), parts[i])[1])
    assert len(sample_rows(50, rng(0), counted, read=2)[0])==50 and len(asked)==2

def test_stored_are_the_images(tmp_path, monkeypatch, refuses):
    import io
    from PIL import Image
    x_bchw = images('photos', 'train', 60)
    def png(x): f = io.BytesIO(); Image.fromarray(x.permute(1, 2, 0).numpy()).save(f, 'png'); return f.getvalue()
    for split, rows in [('train', x_bchw[:50]), ('test', x_bchw[50:])]:
        (tmp_path/split).mkdir()
        for i, x in enumerate(rows): (tmp_path/split/f'{i:02d}.png').write_bytes(png(x))
    for split in ('train', 'valid', 'test'):
        got = stored(str(tmp_path), split, size=12)
        assert torch.equal(torch.cat(list(got)), images(str(tmp_path), split)) and all(len(p)==12 for p in list(got)[:-1])
    for name in ('photos', 'digits'): assert torch.equal(torch.cat(list(stored(name, 'test', size=50))), images(name, 'test'))
    refuses(lambda: stored('photos', size=0), 'at least one image')

# --- memory

MEMORY = '''
    import resource, sys, tempfile, torch
    from pcdistill.core import rng
    from pcdistill.em import fit
    from pcdistill.latents import extract
    from pcdistill.extra.stream import extract_parts, in_parts, made, sample_rows
    from pcdistill.teacher import fit_pixels
    from pcdistill.latent_prior import fit_latent_prior, recount_
    torch.set_num_threads(1); n = int(sys.argv[1])
    photos = made(lambda g: torch.randint(0, 256, (4000, 3, 32, 32), generator=g, dtype=torch.uint8), n, 0)      # 12 MB a part
    x, = sample_rows(2000, rng(0), photos, read=2); teacher = fit_pixels(x, 16, 8, rng(0))
    with tempfile.TemporaryDirectory() as d:
        ids = extract_parts(lambda t: extract(teacher, t), 8, d, 'x', photos)
        top = recount_(fit_latent_prior(sample_rows(500, rng(0), ids)[0], 8), ids)
        module = torch.nn.Module(); module.w = torch.nn.Parameter(torch.zeros(8).log_softmax(0)); module.normalised = {'w': 0}
        fit(module, lambda rows: module.w[rows[1].long()].sum(1) + 0*rows[0].float().mean((1, 2, 3)), 4000*n, rng(0), epochs=1, batch=2000, progress=False,
            order=in_parts(4000*n, 200, photos, ids))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024)
'''

@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_parts():
    "20 parts are 246 MB, 2 parts 25 MB; 18 more parts may not cost as much as five of them."
    def peak(n):
        p = subprocess.run([sys.executable, '-c', textwrap.dedent(MEMORY), str(n)], cwd=here, capture_output=True, text=True)
        assert p.returncode==0, p.stderr
        return float(p.stdout)
    small, large = peak(2), peak(20)
    assert large - small < 60, f'{small:.0f} MB with 2 parts, {large:.0f} MB with 20'
