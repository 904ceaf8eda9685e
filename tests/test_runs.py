import json, os, resource, signal, subprocess, sys, textwrap
from pathlib import Path
import numpy as np, pytest, torch
from safetensors.torch import save_file
from pcdistill import runs
from pcdistill.core import Refused, rng
from pcdistill.runs import load, load_json, resumable, save, save_json

KINDS = {'f32': torch.rand(3, 4), 'f64': torch.rand(2).double(), 'i16': torch.arange(3, dtype=torch.int16), 'u8': torch.arange(9, dtype=torch.uint8),
         'bool': torch.tensor([True, False]), 'bf16': torch.rand(2).bfloat16(), 'scalar': torch.tensor(2.5), 'none': torch.zeros(0, 3),
         'inf': torch.tensor([-torch.inf, torch.inf])}

def test_every_kind_of_tensor_comes_back(tmp_path):
    base = torch.rand(4, 4)
    t = KINDS | {'view': base[:, 1], 'turned': base.T, 'base': base, 'param': torch.nn.Parameter(base)}
    meta = {'a': [1, 2.5, None, 'ö'], 'b': {'c': True}}
    back, m = load(save(tmp_path/'deep'/'er'/'x.safetensors', t, meta))
    assert m==meta and set(back)==set(t)
    for k in t: assert back[k].dtype==t[k].dtype and torch.equal(back[k], t[k].detach())
    assert load(save(tmp_path/'nothing.safetensors', {}, {}))==({}, {})

@pytest.mark.parametrize('where', ['os.fsync', 'os.replace', 'builtins.open'])
@pytest.mark.parametrize('how', [save, save_json])
def test_disk_full_keeps_the_old_artefact(tmp_path, monkeypatch, refuses, where, how):
    path = tmp_path/'x'
    write = (lambda v: save(path, {'x': torch.full((5,), v)}, {'v': v})) if how is save else (lambda v: save_json(path, {'v': v}))
    write(1.); before = path.read_bytes()
    def full(*a, **k): raise OSError(28, 'No space left on device')
    with monkeypatch.context() as m:
        m.setattr(where, full)
        refuses(lambda: write(2.), 'no space left', 'kept')
    assert path.read_bytes()==before and [p.name for p in tmp_path.iterdir()]==['x']
    write(3.); assert path.read_bytes()!=before

def test_a_real_limit_on_file_size(tmp_path):
    "The kernel refuses the bytes, as a full disk would, halfway through the file."
    code = f'''
        import resource, signal, torch
        from pcdistill.core import Refused
        from pcdistill.runs import load, save
        save({str(tmp_path/'x')!r}, {{'x': torch.ones(10)}}, {{}})
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try: save({str(tmp_path/'x')!r}, {{'x': torch.zeros(1_000_000)}}, {{}})
        except Refused as e: print('refused:', e)
    '''
    p = subprocess.run([sys.executable, '-c', textwrap.dedent(code)], capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert p.stdout.startswith('refused: wanted to write') and 'file too large' in p.stdout, p.stderr
    assert (load(tmp_path/'x')[0]['x']==1).all() and [f.name for f in tmp_path.iterdir()]==['x']

def test_a_failed_write_leaves_no_temporary_file_even_on_interrupt(tmp_path, monkeypatch):
    def stop(*a): raise KeyboardInterrupt
    monkeypatch.setattr('os.fsync', stop)
    with pytest.raises(KeyboardInterrupt): save_json(tmp_path/'x', 1)
    assert list(tmp_path.iterdir())==[]

def test_folder_that_cannot_be(tmp_path, refuses):
    (tmp_path/'file').write_text('')
    refuses(lambda: save(tmp_path/'file'/'x', {}, {}), 'wanted to write')

def test_truncated_at_every_kind_of_place(tmp_path, refuses):
    path = save(tmp_path/'x.safetensors', KINDS, {'a': 1}); whole = path.read_bytes()
    for n in (0, 1, 7, 8, 9, 100, len(whole)//2, len(whole)-1):
        path.write_bytes(whole[:n]); refuses(lambda: load(path), str(path))

def turned(data, places):
    "The same bytes with one bit turned, at each of these places."
    for at in places:
        for bit in range(8): yield data[:at] + bytes([data[at] ^ 1 << bit]) + data[at+1:]

def test_no_turned_bit_is_taken_for_what_was_written(tmp_path):
    "Of a small file every bit: it is refused, or it gives what was written."
    path = save(tmp_path/'x.safetensors', KINDS, {'a': [1, .5, 'ö']}); whole, want = path.read_bytes(), load(path)
    seen = dict(refused=0, same=0)
    for data in turned(whole, range(len(whole))):
        path.write_bytes(data)
        try: tensors, meta = load(path)
        except Refused: seen['refused'] += 1; continue
        assert meta==want[1] and set(tensors)==set(want[0]) and all(torch.equal(t, want[0][k]) and t.dtype==want[0][k].dtype for k, t in tensors.items())
        seen['same'] += 1
    assert seen['refused'] > .9*sum(seen.values())

def test_no_turned_bit_in_rows_is_taken_for_what_was_written(tmp_path, refuses):
    path = runs.write_rows(tmp_path/'x.npy', 50, [torch.arange(100).view(50, 2).short()]); whole, want = path.read_bytes(), runs.load_rows(path).clone()
    for data in turned(whole, range(len(whole))):
        path.write_bytes(data); refuses(lambda: runs.load_rows(path), str(path))
    for n in (0, 7, 90, 128, 200, len(whole)-5, len(whole)-1):
        path.write_bytes(whole[:n]); refuses(lambda: runs.load_rows(path), str(path))
    path.write_bytes(whole); assert torch.equal(runs.load_rows(path), want) and torch.equal(want, torch.from_numpy(np.load(path)))

def test_the_same_tensors_make_the_same_bytes(tmp_path):
    "For the mark of a compressed file is a hash of its run's file; of several words in a header the order is drawn."
    assert len({save(tmp_path/f'{i}', KINDS, {'a': 1, 'b': 2}).read_bytes() for i in range(20)})==1

def test_files_of_earlier_versions_have_no_sum(tmp_path):
    save_file({'x': torch.ones(2)}, tmp_path/'x', {'pcdistill': '{"a": 1}'})
    tensors, meta = load(tmp_path/'x'); assert meta=={'a': 1} and torch.equal(tensors['x'], torch.ones(2))

def test_foreign_and_missing(tmp_path, refuses):
    refuses(lambda: load(tmp_path/'x'), 'there is none')
    refuses(lambda: load(tmp_path), 'there is none')
    refuses(lambda: load_json(tmp_path/'x'), 'there is none')
    save_file({'x': torch.ones(1)}, tmp_path/'other.safetensors'); refuses(lambda: load(tmp_path/'other.safetensors'), 'written by pcdistill')
    save_file({'x': torch.ones(1)}, tmp_path/'pt.safetensors', {'format': 'pt'}); refuses(lambda: load(tmp_path/'pt.safetensors'), 'written by pcdistill')
    torch.save({'x': 1}, tmp_path/'pickle.pt'); refuses(lambda: load(tmp_path/'pickle.pt'), 'another kind')
    for bad in (b'{"a": 1', b'\xff\xfe\x00', b''):
        (tmp_path/'bad.json').write_bytes(bad); refuses(lambda: load_json(tmp_path/'bad.json'), 'JSON')

def test_a_tree_comes_back(tmp_path):
    tree = {0: [1, [2., None, True]], 'x': {'t': torch.arange(3), '0.y': 'y'}, 'empty': [{}, []], 'nan': float('inf'), 'third': 1/3}
    assert list(resumable(tmp_path/'x', 1, dict(a=[tree, (1, 2)])))==[0]
    again = []; assert list(resumable(tmp_path/'x', 1, dict(a=again)))==[] and again[1]==(1, 2)
    back = again[0]; assert torch.equal(back['x'].pop('t'), tree['x'].pop('t')) and back==tree

def train(path, epochs=6, kill=lambda epoch: None, every_s=0., optim=torch.optim.Adam):
    "A loop whose numbers depend on everything: parameters, buffers, moments, schedule, generator, curve."
    gen = rng(7)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1)).double()
    for p in net.parameters(): torch.nn.init.normal_(p, generator=gen)
    opt = optim(net.parameters(), lr=.05); sched = torch.optim.lr_scheduler.ExponentialLR(opt, .9); curve = []
    for epoch in resumable(path, epochs, dict(net=net, opt=opt, sched=sched, gen=gen, curve=curve), every_s, progress=False):
        for step in range(3):
            x = torch.randn(8, 3, generator=gen, dtype=torch.float64)
            loss = (net(x) - x[:, :1]).pow(2).mean(); opt.zero_grad(); loss.backward(); opt.step()
            if step==1: kill(epoch)
        sched.step(); curve.append([epoch, loss.item()])
    return {k: v.clone() for k, v in net.state_dict().items()}, curve, torch.rand(3, generator=gen)

def same(a, b): return all(torch.equal(a[0][k], b[0][k]) for k in a[0]) and a[1]==b[1] and torch.equal(a[2], b[2])

@pytest.mark.parametrize('optim', [torch.optim.Adam, lambda p, lr: torch.optim.SGD(p, lr/50, momentum=.9), lambda p, lr: torch.optim.AdamW(p, lr, amsgrad=True)],
                         ids=['adam', 'sgd', 'adamw'])
@pytest.mark.parametrize('every_s', [0., 1e9])
def test_resumed_equals_uninterrupted(tmp_path, optim, every_s):
    want = train(None, optim=optim)
    path = tmp_path/'ck.safetensors'
    for at in (0, 2, 2, 5):
        def kill(epoch):
            if epoch==at: raise InterruptedError
        try: train(path, kill=kill, every_s=every_s, optim=optim)
        except InterruptedError: pass
    assert same(train(path, every_s=every_s, optim=optim), want)
    assert same(train(path, every_s=every_s, optim=optim), want)     # finished already

@pytest.mark.slow
def test_killed_by_the_system(tmp_path):
    "SIGKILL in the middle of an epoch of another process, twice; the numbers are those of a run left alone."
    path = tmp_path/'ck.safetensors'
    def child(at):
        code = f"import os, signal, sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_runs, torch; torch.set_num_threads(1)\n" \
               f"test_runs.train({str(path)!r}, kill=lambda e: os.kill(os.getpid(), signal.SIGKILL) if e=={at} else None)"
        return subprocess.run([sys.executable, '-c', code], cwd=Path(__file__).parent.parent).returncode
    assert child(2)==-signal.SIGKILL and load(path)[1]['epoch']==2
    assert child(4)==-signal.SIGKILL and load(path)[1]['epoch']==4
    assert same(train(path), train(None))

def test_disk_full_during_a_loop_loses_nothing(tmp_path, monkeypatch):
    path = tmp_path/'ck.safetensors'; want = train(None)
    write, n = runs.write_file, []
    def full(p, data):
        n.append(1)
        if len(n)==4: raise Refused('wanted to write …, but no space left on device')
        return write(p, data)
    with monkeypatch.context() as m:
        m.setattr(runs, 'write_file', full)
        with pytest.raises(Refused): train(path)
    assert load(path)[1]['epoch']==3 and same(train(path), want)

def test_checkpoint_of_another_loop(tmp_path, refuses):
    path = tmp_path/'ck.safetensors'; train(path)
    refuses(lambda: train(path, epochs=7), 'another one')
    refuses(lambda: list(resumable(path, 6, {'x': []}, progress=False)), 'another one')
    state = dict(net=torch.nn.Linear(9, 9), opt=[], sched=[], gen=rng(0), curve=[])
    refuses(lambda: list(resumable(path, 6, state, progress=False)), 'another one')
    save(path, {}, {'something': 'else'}); refuses(lambda: train(path), 'another one')
    path.write_bytes(b'rubbish'); refuses(lambda: train(path), 'cut short')

def test_curves_with_lines_that_a_kill_or_a_bit_spoiled(tmp_path):
    rows = [json.dumps(dict(loop='a', epoch=e, of=4, loss=1/e)).encode() for e in (1, 2, 3, 4)]
    (tmp_path/'c').write_bytes(b'\n'.join([rows[0], rows[1][:20], b'\xff' + rows[2], b'{"epoch": 3}', b'[1]', b'7', rows[3]]))
    assert [r['epoch'] for r in runs.read_curves(tmp_path/'c')['a']]==[1, 4]

def test_a_full_disk_while_a_loop_speaks(tmp_path, refuses):
    def loop():
        with runs.recording(Path('/dev/full')):
            for _ in resumable(None, 2, {}, progress=False): runs.tell(loss=1.)
    refuses(loop, 'no space left')

def test_one_process_in_a_folder(tmp_path, refuses):
    "The second is refused; a kill frees the folder, and what was half written goes."
    file = tmp_path/'x'; file.write_bytes(b'whole')
    code = f"import time, pathlib; from pcdistill.runs import locked\nwith locked(pathlib.Path({str(file)!r})): print('in', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent)
    assert other.stdout.readline()=='in\n'
    half = tmp_path/'.x.safetensors.4711.tmp'; half.write_bytes(b'half')
    def enter():
        with runs.locked(file): pass
    refuses(enter, 'nothing else works'); assert half.exists()
    other.kill(); other.communicate(); enter()
    assert [p.name for p in tmp_path.iterdir()]==['x']
    with runs.locked(file): refuses(enter, 'nothing else works')
    enter()

def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def none(*a): raise OSError(9, 'Bad file descriptor')
    monkeypatch.setattr('fcntl.flock', none); (tmp_path/'x').write_bytes(b'')
    with runs.locked(tmp_path/'x'): pass

def test_a_loop_speaks_in_the_log_and_keeps_its_curve(tmp_path, caplog):
    "A line an epoch with numbers and the time left; a loop inside a loop keeps its own; without progress nothing is said."
    from pcdistill.runs import read_curves, recording, tell
    with caplog.at_level('INFO', logger='pcdistill'), recording(tmp_path/'c'):
        for i in resumable(None, 2, {}, desc='outer'):
            for j in resumable(None, 2, {}, desc='inner'): tell(loss=i + .5*j)
            tell(train=3. + i, valid=4.)
        for _ in resumable(None, 1, {}, progress=False, desc='silent'): tell(loss=1.)
    tell(loss=9.)
    assert [m.rpartition(',')[0] for m in caplog.messages]==['inner 1/2: loss 0', 'inner 2/2: loss 0.5', 'outer 1/2: train 3, valid 4', 'inner 1/2: loss 1', 'inner 2/2: loss 1.5', 'outer 2/2: train 4, valid 4']
    assert all(m.endswith('left') for m in caplog.messages)
    assert {k: [r['epoch'] for r in v] for k, v in read_curves(tmp_path/'c').items()}=={'inner': [1, 2], 'outer': [1, 2], 'silent': [1]} and read_curves(tmp_path/'c')['inner'][0]['loss']==1.

def test_tensors_that_are_parts_of_others_are_saved(tmp_path):
    "A column of one row has a stride, and no gaps."
    part = torch.arange(9., dtype=torch.float64).view(3, 3)[:1, 0]
    runs.save(tmp_path/'x.safetensors', {'a': part}, {})
    assert torch.equal(runs.load(tmp_path/'x.safetensors')[0]['a'], part)
