"The chain: killed at any stage it ends with the same numbers; what is wrong is said in one sentence and nothing is lost."
import json, os, shutil, subprocess, sys
from dataclasses import replace
import numpy as np, pytest, torch
from PIL import Image
from pcdistill import recipe as R, runs
from pcdistill.core import Refused
from pcdistill.runs import load, save

def small(**changes):
    r = R.recipe('digits', shape=(1, 8, 8), teacher='pixels', clusters=8, n_train=200, n_test=40, epochs=2, **changes)
    return replace(r, leaf=replace(r.leaf, states=4, epochs=2))

@pytest.fixture(scope='module')
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs')/'whole'
    return folder, R.distill(small(), folder, 'cpu', progress=False)

@pytest.fixture
def copy(done, tmp_path):
    shutil.copytree(done[0], tmp_path/'run'); return tmp_path/'run'

numbers = lambda results: {k: v for k, v in results.items() if k!='seconds'}

def refused(capsys, *argv):
    "What the command line says when it refuses."
    assert R.main([str(a) for a in argv])==2
    err = capsys.readouterr().err
    assert err.startswith('pcdistill: ') and err.count('\n')==1 and 'Traceback' not in err
    return err

STAGES = ('teacher', 'prior', 'latents', 'start', 'student', 'measured', 'baselines')

@pytest.mark.parametrize('stage', STAGES)
def test_killed_in_a_stage_and_resumed_gives_the_same_numbers(stage, done, tmp_path, monkeypatch):
    class Killed(Exception): pass
    whole = R.Run.stage
    def dies(self, name, *args, **kwargs):
        if name==stage: raise Killed
        return whole(self, name, *args, **kwargs)
    monkeypatch.setattr(R.Run, 'stage', dies)
    with pytest.raises(Killed): R.distill(small(), tmp_path/'run', 'cpu', progress=False)
    monkeypatch.undo()
    assert numbers(R.distill(small(), tmp_path/'run', 'cpu', progress=False))==numbers(done[1])

def test_killed_within_fine_tuning(done, tmp_path, monkeypatch):
    class Killed(Exception): pass
    write, count = runs._write, [0]
    def dies(path, data):
        if '.student-' in str(path): count[0] += 1
        if count[0]==2: raise Killed
        return write(path, data)
    monkeypatch.setattr(runs, '_write', dies)
    with pytest.raises(Killed): R.distill(small(), tmp_path/'run', 'cpu', progress=False)
    monkeypatch.undo()
    assert list((tmp_path/'run').glob('.student-*.ckpt'))           # one epoch is there
    assert numbers(R.distill(small(), tmp_path/'run', 'cpu', progress=False))==numbers(done[1])
    assert not list((tmp_path/'run').glob('.*.ckpt'))               # and gone when the stage is done

def test_results_are_whole_and_consistent(done):
    folder, r = done
    assert r==json.loads((folder/'results.json').read_text())
    assert {p.name for p in folder.glob('*.png')}=={'samples.png', 'inpaint.png', 'ledger.png'}
    assert r['space']=='rgb' and r['data']=={'name': 'digits', 'split': 'test', 'n_images': 40, 'shape': [1, 8, 8]}
    s, t, l = r['student'], r['teacher'], r['ledger']
    assert s['bits_complete'] >= s['bits'] and r['lvd_start']['bits_complete'] >= r['lvd_start']['bits'] and l['marginal'] >= 0
    assert abs(l['conditional'] + l['prior'] + l['marginal'] - l['total']) < 2e-5
    assert abs(t['bits'] - s['bits'] - l['total']) < 2e-5 and abs(t['bits_conditional'] + t['bits_codes_prior'] - t['bits']) < 2e-5
    assert set(r['baselines'])=={'gaussian', 'webp_lossless', 'png', 'hclt', 'lvd'} and r['version'] and r['config']['leaf']['states']==4
    for name in ('student (fine-tuned)', 'LVD start', "teacher's bound", 'plain HCLT', 'Gaussian', 'WebP', 'PNG'): assert name in R.comparison(r)

def test_commands_on_a_run(done, tmp_path, capsys):
    folder, r = done
    assert R.main(['evaluate', str(folder), '--split', 'test', '-n', '40'])==0
    assert f"{r['student']['bits']:.4f}" in capsys.readouterr().out
    assert R.main(['sample', str(folder), '-n', '5', '--out', str(tmp_path/'s.png')])==0
    for mask in R.MASKS: assert R.main(['inpaint', str(folder), '--mask', mask, '-n', '2', '--out', str(tmp_path/f'{mask}.png')])==0
    assert len(list(tmp_path.glob('*.png')))==1 + len(R.MASKS)

def test_gaussian_leaves_go_through_the_same_chain(tmp_path):
    r = R.recipe('digits', 'tiny', 'gaussian', (1, 8, 8), teacher='pixels', clusters=4, n_train=200, n_test=20, epochs=1)
    out = R.distill(r, tmp_path/'run', 'cpu', progress=False)
    assert out['student']['family']=='gaussian' and out['ledger']['marginal'] >= 0 and out['student']['bits_complete'] >= out['student']['bits']
    assert R.main(['inpaint', str(tmp_path/'run'), '-n', '2', '--out', str(tmp_path/'i.png')])==0

# What is wrong is said in one sentence.
def test_unknown_data_set(capsys, tmp_path):
    assert 'cifar99' in refused(capsys, 'distill', '--data', 'cifar99', '--out', tmp_path/'x') and not (tmp_path/'x').exists()

def test_folder_without_images(capsys, tmp_path):
    (tmp_path/'d').mkdir(); (tmp_path/'d'/'a.txt').write_text('x')
    refused(capsys, 'distill', '--data', tmp_path/'d', '--out', tmp_path/'x')

def test_images_of_mixed_sizes(capsys, tmp_path):
    (tmp_path/'d').mkdir()
    for i in range(40): Image.fromarray(np.zeros((8, 8 + (i > 20)), np.uint8)).save(tmp_path/'d'/f'{i:02}.png')
    assert 'one size' in refused(capsys, 'distill', '--data', tmp_path/'d', '--teacher', 'pixels', '--out', tmp_path/'x')

def test_float_pixels_out_of_range_and_foreign_masks(done):
    joint, _ = R.load_run(done[0], 'cpu'); x = torch.zeros(2, 1, 8, 8)
    for rows in (joint.rows, getattr(type(joint).rows, '__wrapped__', type(joint).rows).__get__(joint)): pass   # without the shape checks of this suite
    with pytest.raises(Refused, match='uint8'): rows(x)
    with pytest.raises(Refused, match='uint8'): rows(x.long() + 300)
    with pytest.raises(Refused, match='images of'): rows(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(Refused, match='mask of shape'): rows(x.byte(), torch.ones(2, 8, 7, dtype=torch.bool))

def test_patch_that_does_not_divide(capsys, tmp_path):
    assert '3' in refused(capsys, 'distill', '--patch', 3, '--out', tmp_path/'x') and not (tmp_path/'x').exists()

def test_unknown_preset_leaf_teacher_mask_split(capsys, tmp_path, done):
    for bad in (['--preset', 'huge'], ['--leaf', 'oak'], ['--teacher', 'socrates']): refused(capsys, 'distill', *bad, '--out', tmp_path/'x')
    refused(capsys, 'inpaint', done[0], '--mask', 'nose', '--out', tmp_path/'y.png')
    refused(capsys, 'evaluate', done[0], '--split', 'exam')
    assert not (tmp_path/'y.png').exists()

def test_missing_foreign_truncated_and_old_run_folders(capsys, tmp_path, copy):
    refused(capsys, 'evaluate', tmp_path/'nowhere')
    (tmp_path/'foreign').mkdir(); (tmp_path/'foreign'/'thesis.txt').write_text('precious')
    refused(capsys, 'evaluate', tmp_path/'foreign')
    refused(capsys, 'distill', '--out', tmp_path/'foreign')
    assert [p.name for p in (tmp_path/'foreign').iterdir()]==['thesis.txt']
    assert 'differs in' in refused(capsys, 'distill', '--seed', 5, '--out', copy)
    student = copy/'student.safetensors'; data = student.read_bytes()
    student.write_bytes(data[:len(data)//2]); assert 'cut short' in refused(capsys, 'evaluate', copy)
    student.unlink(); assert 'finished run' in refused(capsys, 'evaluate', copy)
    student.write_bytes(data)
    old = json.loads((copy/'recipe.json').read_text()); (copy/'recipe.json').write_text(json.dumps(old | {'version': '0.0.1'}))
    assert 'version 0.0.1' in refused(capsys, 'evaluate', copy)
    (copy/'recipe.json').write_text('{'); assert 'JSON' in refused(capsys, 'evaluate', copy)
    (copy/'recipe.json').write_text('{"version": "0.1.0", "rows": 3}'); refused(capsys, 'evaluate', copy)

def test_nan_in_parameters(capsys, copy):
    tensors, meta = load(copy/'student.safetensors')
    tensors['top.root1'][0, 0, 0] = torch.nan; save(copy/'student.safetensors', tensors, meta)
    assert 'NaN' in refused(capsys, 'evaluate', copy)

def test_disk_full_keeps_what_was_there(copy, monkeypatch, capsys):
    before = (copy/'student.safetensors').read_bytes()
    def full(fd): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(os, 'fsync', full)
    joint, _ = R.load_run(copy, 'cpu')
    with pytest.raises(Refused, match='no space left'): R.save_joint(joint, copy/'student.safetensors')
    assert (copy/'student.safetensors').read_bytes()==before and not list(copy.glob('*.tmp')) + list(copy.glob('.*.tmp'))

@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a CUDA device')
def test_cuda_without_one(capsys, tmp_path):
    assert 'CUDA' in refused(capsys, 'distill', '--device', 'cuda', '--out', tmp_path/'x') and not (tmp_path/'x').exists()

def test_as_a_process(tmp_path):
    run = lambda *a: subprocess.run([sys.executable, '-m', 'pcdistill', *a], capture_output=True, text=True, cwd=tmp_path)
    help = run('--help'); assert help.returncode==0 and all(c in help.stdout for c in ('distill', 'evaluate', 'sample', 'inpaint', 'demo'))
    bad = run('evaluate', 'nowhere'); assert bad.returncode==2 and bad.stderr.count('\n')==1 and 'Traceback' not in bad.stderr
