"The chain: killed at any stage it ends with the same numbers; what is wrong is said in one sentence and nothing is lost."
import logging, importlib, json, os, re, runpy, shutil, subprocess, sys
from dataclasses import asdict, replace
from pathlib import Path
from unittest import mock
import numpy as np, pytest, torch
from PIL import Image
from pcdistill import chain as R, cli, emission, runs, trees
from pcdistill.core import Refused, known, rng
from pcdistill.colour import COLOURS
from pcdistill.data import images, no_test
from pcdistill.emission import FAMILIES, FamilyConfig
from pcdistill.inpainting import MASKS
from pcdistill.inputs import KINDS
from pcdistill.latents import TEACHERS
from pcdistill.chain import estimate, plan_table
from pcdistill.recipes import SIZES, recipe, recipe_from
from pcdistill.runs import load, load_json, save
from stopping import in_slices
import brute # knows logistic inputs

def there(family):
    "Whether the module of a family is there."
    try: return not isinstance(known(FAMILIES, family, 'an emission'), str)
    except ImportError: return False

def needs(*families): return pytest.mark.skipif(not all(map(there, families)), reason=f"wanted the families {', '.join(families)}")

def distill(*args, **kwargs): return R.distill(*args, **kwargs).results

def small(**changes):
    return recipe('digits', **dict(teacher='pixels', clusters=8, n_train=200, n_test=40, epochs=2, emission=dict(states=4, epochs=2)) | changes)

@pytest.fixture(scope='module')
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs')/'whole'
    return folder, distill(small(), folder, 'cpu', progress=False)

@pytest.fixture
def copy(done, tmp_path):
    shutil.copytree(done[0], tmp_path/'run'); return tmp_path/'run'

numbers = lambda results: {k: v for k, v in results.items() if k!='seconds'}

def refused(capsys, *argv):
    "What the command line says when it refuses."
    assert cli.main([str(a) for a in argv])==2
    err = capsys.readouterr().err
    *notes, last = err.splitlines()                          # how a folder was read may be said before
    assert last.startswith('pcdistill: ') and len(notes) < 2 and 'Traceback' not in err
    return last

def chosen(*words):
    "The recipe that the command `distill` follows; None if it refuses."
    with mock.patch('pcdistill.chain.distill') as followed: cli.main(['distill', *words])
    return followed.call_args and followed.call_args[0][0]

class Killed(Exception): pass

def dies_writing(monkeypatch, name, n):
    "The n-th file whose name has this in it is not written any more, nor any after it."
    write, count = runs.write_file, [0]
    def counted(path, data):
        if name in str(path): count[0] += 1
        if count[0]==n: raise Killed
        return write(path, data)
    monkeypatch.setattr(runs, 'write_file', counted)

STAGES = ('teacher', 'prior', 'latents', 'start', 'student', 'plain', 'measured', 'readings', 'baselines')

@pytest.mark.parametrize('stage', STAGES)
def test_killed_in_a_stage_and_resumed_gives_the_same_numbers(stage, done, tmp_path, monkeypatch):
    whole = R.Run.timed
    def dies(self, name):
        if name==stage: raise Killed
        return whole(self, name)
    monkeypatch.setattr(R.Run, 'timed', dies)
    with pytest.raises(Killed): distill(small(), tmp_path/'run', 'cpu', progress=False)
    monkeypatch.undo()
    assert numbers(distill(small(), tmp_path/'run', 'cpu', progress=False))==numbers(done[1])

def test_killed_within_fine_tuning(done, tmp_path, monkeypatch):
    dies_writing(monkeypatch, '.student.ckpt', 2)
    with pytest.raises(Killed): distill(small(), tmp_path/'run', 'cpu', progress=False)
    monkeypatch.undo()
    assert list((tmp_path/'run').glob('.student.ckpt'))             # one epoch is there
    assert numbers(distill(small(), tmp_path/'run', 'cpu', progress=False))==numbers(done[1])
    assert not list((tmp_path/'run').glob('.*.ckpt'))               # and gone when the stage is done

def test_results_are_whole_and_consistent(done):
    folder, r = done
    assert r==json.loads((folder/'results.json').read_text())
    assert {p.name for p in folder.glob('*.png')}=={'samples.png', 'inpaint.png', 'ledger.png', 'curves.png'}
    fig = R.load_run(folder, 'cpu').curves(); kept = runs.read_curves(folder/'curves.jsonl'); assert [ax.get_title() for ax in fig.axes]==list(kept) and {'trees', 'fine-tuning', 'plain HCLT'} <= set(kept)
    tuned = kept['fine-tuning']; assert len(tuned)==r['config']['epochs'] and all(0 < row['valid bits'] < 8 and 0 < row['train bits'] < 8 for row in tuned)
    assert r['space']=='rgb' and r['data']=={'name': 'digits', 'split': 'test', 'n_images': 40, 'shape': [1, 8, 8], 'n_train': 200}
    s, t, l = r['student'], r['teacher'], r['ledger']
    assert s['bits_complete'] >= s['bits'] and r['lvd_start']['bits_complete'] >= r['lvd_start']['bits'] and l['marginal'] >= 0
    assert abs(l['conditional'] + l['prior'] + l['marginal'] - l['total']) < 2e-5
    assert abs(t['bits'] - s['bits'] - l['total']) < 2e-5 and abs(t['bits_conditional'] + t['bits_codes_prior'] - t['bits']) < 2e-5
    assert set(r['baselines'])=={'gaussian', 'webp_lossless', 'png', 'hclt', 'lvd'} and r['version'] and r['config']['emission']['states']==4 and r['config']['family']=='trees'
    for name in ('student (fine-tuned)', 'LVD start', "teacher's bound", 'plain HCLT', 'Gaussian', 'WebP', 'PNG'): assert name in R.comparison(r)

def test_commands_on_a_run(done, tmp_path, capsys):
    folder, r = done
    assert cli.main(['evaluate', str(folder), '--split', 'test', '-n', '40'])==0
    assert abs(float(re.search(r'images: ([\d.]+) ±', capsys.readouterr().out)[1]) - r['student']['bits']) < 6e-5
    assert cli.main(['sample', str(folder), '-n', '5', '--out', str(tmp_path/'s.png')])==0
    for mask in MASKS: assert cli.main(['inpaint', str(folder), '--mask', mask, '-n', '2', '--out', str(tmp_path/f'{mask}.png')])==0
    assert len(list(tmp_path.glob('*.png')))==1 + len(MASKS)

OTHERS = [('normals', {}), ('normals', dict(halves=6, quarters=6, joined=[4], epochs=1)), ('normals', dict(halves=0, joined=[])),
          ('trees', dict(states=4, epochs=2, inputs='logistic'))]

@pytest.mark.parametrize('family, settings', [pytest.param(*o, marks=needs(o[0])) for o in OTHERS])
def test_other_families_go_through_the_same_chain(family, settings, tmp_path):
    r = recipe('digits', 'tiny', family, teacher='pixels', clusters=4, n_train=200, n_test=20, epochs=1, patch=2 if settings.get('joined') else None, emission=settings)
    assert r.side==(4 if family!='normals' or r.emission.joined or r.patch==4 else 2)
    out = distill(r, tmp_path/'run', 'cpu', progress=False)
    assert out['student']['family']==family and out['ledger']['marginal'] >= 0 and out['student']['bits_complete'] >= out['student']['bits']
    assert cli.main(['inpaint', str(tmp_path/'run'), '-n', '2', '--out', str(tmp_path/'i.png')])==0
    Image.fromarray(images('digits', 'test')[0, 0].numpy()).save(tmp_path/'x.png')
    assert cli.main(['compress', str(tmp_path/'x.png'), '--run', str(tmp_path/'run'), '-o', str(tmp_path/'x.pcd')])==0
    assert cli.main(['decompress', str(tmp_path/'x.pcd'), '--run', str(tmp_path/'run'), '-o', str(tmp_path/'out')])==0

# --- teachers, latents, growing

def few(teacher, **changes):
    "The chain on 60 digits."
    return recipe('digits', teacher=teacher, clusters=6, n_train=60, n_test=20, epochs=1, autoregressive=False, emission=dict(states=4, epochs=1), **changes)

@pytest.mark.parametrize('teacher', TEACHERS)
def test_every_teacher_goes_through_the_chain(teacher, tmp_path):
    out = distill(few(teacher), tmp_path/'run', 'cpu', progress=False)
    t, s, l = out['teacher'], out['student'], out['ledger']
    assert t['kind']==teacher and s['bits_complete'] >= s['bits'] and abs(l['marginal'] - (s['bits_complete'] - s['bits'])) < 3e-5
    if teacher=='mae':
        assert t['bits'] is None and l['total'] is None and not (tmp_path/'run'/'ledger.png').exists() and "teacher's" not in R.comparison(out)
    else:
        of = t['valid_bits_of_priors']
        assert of[t['prior']]==min(of.values()) and {'uniform', 'position', 'tree'}==set(of)
        assert abs(l['conditional'] + l['prior'] + l['marginal'] - l['total']) < 2e-5 and abs(t['bits'] - s['bits'] - l['total']) < 2e-5

def test_latents_of_an_image_alone_are_those_among_many(tmp_path):
    run = R.Run(few('vqvae'), tmp_path/'run', 'cpu', False)
    fitted, x = run.teacher(), run.images('train'); mu_kf, z_bn = run.latents()['mu_kf'], run.latents()['z_bn']
    assert len(z_bn.unique())==len(mu_kf) <= 6 and torch.equal(run.hard(mu_kf, x), z_bn) and torch.equal(run.hard(mu_kf, x[:1]), z_bn[:1])
    assert torch.equal(fitted.codes(x[:1]), fitted.codes(x)[:1]) and not fitted.training

def growing(**settings): return small(family='grown', emission=dict(heads=3, rounds=2, states=4, epochs=2, batch=64) | settings)

def grew(out): return out['student']['latent_values']

@needs('grown')
def test_heads_that_grow_and_a_kill_between_rounds(tmp_path, monkeypatch):
    r = growing(); whole = distill(r, tmp_path/'whole', 'cpu', progress=False)
    assert grew(whole) > 8 and whole['student']['bits_complete'] >= whole['student']['bits']
    dies_writing(monkeypatch, '.start.ckpt', 2)
    with pytest.raises(Killed): distill(r, tmp_path/'run', 'cpu', progress=False)
    monkeypatch.undo()
    assert numbers(distill(r, tmp_path/'run', 'cpu', progress=False))==numbers(whole) and not list((tmp_path/'run').glob('.*.ckpt*'))
    run = R.load_run(tmp_path/'run', 'cpu')
    x = run.images('test'); heads = run.labels(run.start().emission, x, run.hard(run.latents()['mu_kf'], x))
    assert run.recipe==r and run.image.emission.n_heads==grew(whole) > heads.max() >= 8

def test_a_body_for_each_label_and_a_kill_between_bodies(tmp_path, monkeypatch):
    "The same numbers; and the coder and inpainting know such leaves."
    r = small(emission=dict(states=4, epochs=2, own=True)); whole = distill(r, tmp_path/'whole', 'cpu', progress=False)
    dies_writing(monkeypatch, '.start.ckpt', 3); monkeypatch.setattr(trees, 'resumable', lambda *a, every_s, **k: runs.resumable(*a, **k))
    with pytest.raises(Killed): distill(r, tmp_path/'run', 'cpu', progress=False)
    monkeypatch.undo()
    assert list((tmp_path/'run').glob('.start.ckpt')) and numbers(distill(r, tmp_path/'run', 'cpu', progress=False))==numbers(whole)
    run = R.load_run(tmp_path/'run', 'cpu'); e = run.image.emission
    assert run.recipe==r and len(e.trees)==e.n_heads==8 and set(e.heads)=={1} and whole['student']['bits_complete'] >= whole['student']['bits']
    Image.fromarray(images('digits', 'test')[0, 0].numpy()).save(tmp_path/'x.png')
    assert cli.main(['inpaint', str(tmp_path/'run'), '-n', '2', '--out', str(tmp_path/'i.png')])==0
    assert cli.main(['compress', str(tmp_path/'x.png'), '--run', str(tmp_path/'run'), '-o', str(tmp_path/'x.pcd')])==0
    assert cli.main(['decompress', str(tmp_path/'x.pcd'), '--run', str(tmp_path/'run'), '-o', str(tmp_path/'out')])==0
    assert np.array_equal(np.array(Image.open(tmp_path/'out'/'x.png')), images('digits', 'test')[0, 0].numpy())

@needs('grown')
def test_one_wide_body_grows(tmp_path):
    r = growing(start=6, heads=8, rounds=1, states=6, batch=256); r = replace(r, clusters=1, teacher='pixels', n_train=400)
    out = distill(r, tmp_path/'run', 'cpu', progress=False)
    assert len(R.load_run(tmp_path/'run', 'cpu').image.emission.heads)==1 and 6 <= grew(out) <= 8

# --- presets, plan, slices, the metric of the papers

SHAPE = (3, 32, 32)

@needs('grown')
def test_growing_takes_what_the_preset_says():
    "States, passes, batch, inputs and pseudocount of the trees, but for what is told otherwise."
    plain = recipe('x', 'small', shape=SHAPE)
    g = recipe('x', 'small', 'grown', SHAPE, emission=dict(heads=3, epochs=5)).emission
    assert (g.heads, g.epochs)==(3, 5)
    for k in ('states', 'batch', 'inputs', 'lr_end', 'pseudocount'): assert getattr(g, k)==getattr(plain.emission, k)
    p = recipe('x', 'paper', shape=SHAPE, emission=dict(heads=8)).emission  # the paper grows anyhow: only the heads are others
    assert (p.heads, p.start, p.epochs, p.batch, p.most)==(8, 2, 50, 256, 32_000)
    g = chosen('--emission', 'grown', '--set', 'heads=3', 'rounds=2').emission
    assert g.states==recipe('digits').emission.states and (g.heads, g.rounds)==(3, 2)

@needs('grown')
def test_growing_with_logistic_inputs(tmp_path):
    r = replace(growing(inputs='logistic', heads=2, rounds=1, epochs=1, states=3), epochs=1)
    distill(r, tmp_path/'run', 'cpu', progress=False)
    assert R.load_run(tmp_path/'run', 'cpu').image.emission.pc.inputs.kind=='logistic'

def test_settings_of_an_emission_by_words():
    "Numbers, words, switches and lists; what a family does not have is refused with what it has."
    e = chosen('--set', 'states=7', 'own=true', 'inputs=logistic', 'lr_end=.2', 'pseudocount=1.').emission
    assert (e.states, e.own, e.inputs, e.lr_end, e.pseudocount)==(7, True, 'logistic', .2, 1)
    r = chosen('--data', 'photos', '--emission', 'normals', '--patch', '2', '--set', 'joined=[8, 4]')
    assert r.emission.joined==(8, 4) and r.side==8
    for word in ('bark=1', 'states', 'states=x', 'own=3', 'states=0', 'states=1.5', 'states=[3]', 'inputs=bark'): assert chosen('--set', word) is None

def test_inputs_that_nobody_registered_are_refused(monkeypatch, refuses):
    "Before anything is trained, with the kinds there are; who has copied logistic inputs names them like any other."
    assert chosen('--set', 'inputs=logistic').emission.inputs=='logistic'
    monkeypatch.delitem(KINDS, 'logistic')
    for family in ('trees', 'grown'): refuses(lambda: recipe('digits', family=family, emission=dict(inputs='logistic')), "inputs of categorical, got 'logistic'")
    assert chosen('--set', 'inputs=logistic') is None

def test_families_are_rows_of_a_table():
    "Every preset and family there is; what a grid of patches has no place for goes."
    said = {f: set(emission.family(f).presets) for f in FAMILIES}
    assert {p for names in said.values() for p in names}==set(SIZES) | {'best_cuda'} and all(names >= {'tiny', 'small', 'best', 'best_cuda'} for names in said.values())
    assert recipe('x', 'best', shape=SHAPE).emission.joined==(256,) and recipe('x', 'best', shape=SHAPE).side==16
    odd = recipe('x', 'best', shape=SHAPE, patch=1).emission
    assert (odd.halves, odd.joined)==(0, ())                                # a square of one pixel has no halves
    assert recipe('x', 'best', shape=(1, 28, 28)).patch==7 and recipe('x', 'best', shape=(1, 8, 8)).emission.joined==()
    own = recipe('x', 'best', 'trees', SHAPE).emission
    assert own.own and own.passes(32)==own.epochs/32
    with pytest.raises(Refused, match='256 levels'): recipe('x', 'best', shape=SHAPE, colour='ycocg_r')

def test_presets_and_json():
    for preset in ('tiny', 'small', 'paper', 'best'):
        for shape in ((3, 32, 32), (3, 64, 64), (1, 28, 28)):
            for dev in ('cpu', 'cuda'):
                if (preset, shape)==('paper', (1, 28, 28)) or preset=='paper' and not there('grown'): continue
                r = recipe('x', preset, shape=shape, dev=dev)
                assert recipe_from(json.loads(json.dumps(asdict(r))))==r and r.family==dict(best='normals', paper='grown').get(preset, 'trees')

@needs('grown')
def test_the_paper_s_sizes():
    p = recipe('x', 'paper', shape=SHAPE)
    assert (p.patch, p.clusters*p.emission.heads, p.emission.states, p.epochs, p.lr, p.batch, p.pseudocount, p.n_train, p.colour)==(4, 1600, 16, 20, (.1, .01, .001), 256, .1, 200_000, 'bt709_lossy')
    assert recipe('x', 'paper', shape=(3, 64, 64)).patch==8

def test_plan_prints_and_does_nothing(tmp_path, capsys):
    assert cli.main(['distill', '--teacher', 'pixels', '--n-train', '200', '--plan', '--out', str(tmp_path/'x'), '--device', 'cpu'])==0
    said = capsys.readouterr().out
    assert all(stage in said for stage in (*STAGES, 'all', 'one micro-batch')) and not (tmp_path/'x').exists()

@pytest.mark.parametrize('family', ['trees', 'grown', 'normals'])
def test_every_family_has_a_plan_on_images_of_many_patches(family):
    "Normals on photos are over squares of four patches."
    r = recipe('photos', 'paper' if family=='grown' else 'tiny', family, n_train=60, n_test=4, clusters=4)
    assert min(estimate(r).values()) >= 0

@pytest.mark.parametrize('family', [pytest.param(f, marks=needs(f)) for f in FAMILIES])
def test_estimate_follows_the_number_of_steps(family, monkeypatch):
    "With every E-step, M-step and score said to take a second, a stage takes as many as it has. (That plans run what they time is the test above.)"
    calls, there_are = [], {}
    monkeypatch.setattr(R, 'seconds_of', lambda f: (calls.append(f()), 1. + (f.__name__=='em_step'))[1])
    monkeypatch.setattr(R, 'open_split', lambda data, split, f=R.open_split: replace(f(data, split), rows=range(there_are[split])))
    few = dict(joined=[], halves=16) if family=='normals' else dict(states=4)
    r = recipe('digits', 'tiny', family, teacher='pixels', autoregressive=False, clusters=4, emission=few)
    def of(r, n=4000, n_test=500):
        there_are.update(train=n, test=n_test)
        return estimate(r)
    a = of(r)
    assert set(a)==set(STAGES) and min(a.values()) >= 0 and calls and 'student' in plan_table(a)
    assert of(replace(r, epochs=2*r.epochs))['student'] > 1.5*a['student'] and of(r, n_test=1000)['measured']==2*a['measured']
    assert of(r, n=8000)['start'] > a['start'] and of(replace(r, n_train=2000))['measured']==a['measured']
    assert of(replace(r, emission=replace(r.emission, epochs=2*r.emission.epochs)))['start'] > a['start']
    rows = 4000*(8//r.patch)**2
    steps = lambda batch: of(replace(r, emission=replace(r.emission, batch=batch)))['start']
    assert abs((steps(rows//4) - steps(rows)) - 3*r.emission.passes(4)) < 1e-6 # an M-step is paid once a batch, not once a micro-batch

def test_a_run_that_is_killed_after_all_it_saves(done, tmp_path):
    out, n = in_slices(lambda: distill(small(), tmp_path/'run', 'cpu', progress=False))
    assert n >= len(STAGES) and numbers(out)==numbers(done[1])
    assert set(out['seconds'])==set(STAGES) and all(v >= 0 for v in out['seconds'].values())

def test_measuring_goes_on_where_it_was(done, copy):
    run = R.Run(small(), copy, 'cpu', False); run.recipe = replace(run.recipe, micro=1)   # 40 images in three parts
    before = run.nats; run.file('measured').unlink(); after, n = in_slices(run.measured)
    assert n==4 and all(torch.allclose(after[k].double(), v.double(), atol=1e-3) for k, v in before.items())

def test_seconds_outlive_a_kill(done, tmp_path, monkeypatch):
    class Killed(Exception): pass
    def killed(*a): raise Killed
    monkeypatch.setitem(FAMILIES, 'trees', FAMILIES['trees']._replace(fit=killed))
    with pytest.raises(Killed): distill(small(), tmp_path/'run', 'cpu', progress=False)
    monkeypatch.undo()
    (file := tmp_path/'run'/'seconds.json').write_text(json.dumps(json.loads(file.read_text()) | {'teacher': 1000., 'start': 2000.}))
    out = distill(small(), tmp_path/'run', 'cpu', progress=False)
    assert out['seconds']['teacher']==1000. and 2000. <= out['seconds']['start'] < 2500. and numbers(out)==numbers(done[1])

@needs('grown')
def test_the_preset_of_the_papers(tmp_path, capsys):
    (tmp_path/'d').mkdir()
    for i, x in enumerate(images('photos', 'train', 150)): Image.fromarray(x[:, :8, :8].permute(1, 2, 0).numpy()).save(tmp_path/'d'/f'{i:03}.png')
    r = recipe(str(tmp_path/'d'), 'paper', patch=2, teacher='pixels', clusters=4, n_train=60, n_test=8, epochs=2, batch=30, autoregressive=False,
               emission=dict(heads=2, start=1, states=3, epochs=2)); assert r.colour=='bt709_lossy' and len(r.lr)==3
    out = distill(r, tmp_path/'run', 'cpu', progress=False)
    assert 4 < grew(out) <= 8 and not (tmp_path/'run'/'inpaint.png').exists()             # no conditioning on pixels in a lossy map
    assert cli.main(['evaluate', str(tmp_path/'run'), '-n', '8'])==0 and abs(float(re.search(r'images: ([\d.]+)', capsys.readouterr().out)[1]) - out['student']['bits']) < 6e-5   # in RGB, exactly corrected

def exported(folder, out):
    "By the script that writes what E01 reads."
    return runpy.run_path(Path(__file__).parents[1]/'benchmarks'/'export.py')['export_run'](folder, out)

def test_export(done, tmp_path):
    small = json.loads(exported(done[0], tmp_path/'x.json').read_text())
    assert small['results']==done[1] and len(small['images']['student'])==40 and (tmp_path/'x.json').stat().st_size < 300_000
    m = R.load_run(done[0], 'cpu').nats; mean = float(m['student_student_b'].mean()); D = 64
    assert abs(-mean/D/np.log(2) - done[1]['student']['bits']) < 1e-5
    with pytest.raises(Refused, match='finished run'): R.Run(recipe('digits'), tmp_path/'new', 'cpu').nats

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
    image, x = R.load_run(done[0], 'cpu').image, torch.zeros(2, 1, 8, 8)
    def bare(f): return getattr(f, '__wrapped__', f).__get__(image)             # without the shape checks of this suite
    rows, mask_rows = bare(type(image).rows), bare(type(image).mask_rows)
    with pytest.raises(Refused, match='uint8'): rows(x)
    with pytest.raises(Refused, match='uint8'): rows(x.long() + 300)
    with pytest.raises(Refused, match='images of'): rows(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(Refused, match='masks of'): mask_rows(torch.ones(2, 8, 7, dtype=torch.bool))

def test_patch_that_does_not_divide(capsys, tmp_path):
    assert '3' in refused(capsys, 'distill', '--patch', 3, '--out', tmp_path/'x') and not (tmp_path/'x').exists()

def test_unknown_preset_family_teacher_mask_split(capsys, tmp_path, done):
    for bad in (['--preset', 'huge'], ['--emission', 'oak'], ['--teacher', 'socrates'], ['--set', 'leaves=1'], ['--preset', 'paper', '--emission', 'normals'], ['--colour', 'sepia']): refused(capsys, 'distill', *bad, '--out', tmp_path/'x')
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
    assert 'version 0.0.1' in refused(capsys, 'evaluate', copy) and 'version 0.0.1' in refused(capsys, 'distill', '--out', copy)
    before = dict(old, version='0.1.0', leaf=dict(family='hclt'), grow=None)     # as it was before families had configurations of their own
    (copy/'recipe.json').write_text(json.dumps({k: v for k, v in before.items() if k not in ('family', 'emission')}))
    for words in (['evaluate', copy], ['sample', copy], ['distill', '--out', copy]): assert 'version 0.1.0' in refused(capsys, *words)
    (copy/'recipe.json').write_text('{'); assert 'JSON' in refused(capsys, 'evaluate', copy)
    (copy/'recipe.json').write_text(json.dumps(dict(version=R.pcdistill.__version__, rows=3))); refused(capsys, 'evaluate', copy)

def test_nan_in_parameters(capsys, copy):
    tensors, meta = load(copy/'student.safetensors')
    tensors['tiles.prior.root1'][0, 0, 0] = torch.nan; save(copy/'student.safetensors', tensors, meta)
    assert 'NaN' in refused(capsys, 'evaluate', copy)

@pytest.mark.parametrize('how', ['missing', 'more', 'shape', 'prior', 'emission', 'colour'])
def test_a_student_that_fits_in_part(copy, how, capsys):
    tensors, meta = runs.load(copy/'student.safetensors'); first = next(iter(tensors))
    if how=='missing': del tensors[first]
    elif how=='more': tensors['another'] = torch.zeros(2)
    elif how=='shape': tensors[first] = tensors[first][..., :-1].contiguous()
    elif how=='emission': meta['emission'] = None
    else: del meta[how]
    runs.save(copy/'student.safetensors', tensors, meta)
    assert 'do not fit' in refused(capsys, 'evaluate', copy)

def test_seeds_and_counts_out_of_range(copy, tmp_path, capsys):
    assert 'seed' in refused(capsys, 'sample', copy, '--seed', 2**70, '--out', tmp_path/'x.png')
    assert 'seed' in refused(capsys, 'distill', '--seed', 2**70, '--out', tmp_path/'x') and not (tmp_path/'x').exists()
    assert 'fewer than 0' in refused(capsys, 'inpaint', copy, '--samples', -2, '--out', tmp_path/'x.png')

def test_one_training_image_can_be_planned(tmp_path):
    assert min(estimate(recipe('digits', 'tiny', shape=(1, 8, 8), n_train=1, n_test=2, clusters=2)).values()) >= 0

def test_images_too_large_and_not_enough_memory(capsys, tmp_path, monkeypatch):
    (tmp_path/'d').mkdir()
    for i in range(3): Image.fromarray(np.zeros((75, 75, 3), np.uint8)).save(tmp_path/'d'/f'{i}.png')
    assert '16,384' in refused(capsys, 'distill', '--data', tmp_path/'d', '--out', tmp_path/'x') and not (tmp_path/'x').exists()
    def full(*_, **__): torch.empty(2**60, dtype=torch.uint8)
    monkeypatch.setattr(R, 'distill', full)
    assert 'memory' in refused(capsys, 'distill', '--out', tmp_path/'x')
    def broken(*_, **__): raise RuntimeError('something else')
    monkeypatch.setattr(R, 'distill', broken)
    with pytest.raises(RuntimeError): cli.main(['distill', '--out', str(tmp_path/'x')])

def test_disk_full_keeps_what_was_there(copy, monkeypatch, capsys):
    before = (copy/'student.safetensors').read_bytes()
    def full(fd): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(os, 'fsync', full)
    image = R.load_run(copy, 'cpu').image
    with pytest.raises(Refused, match='no space left'): save(copy/'student.safetensors', *R.image_state(image))
    assert (copy/'student.safetensors').read_bytes()==before and not list(copy.glob('*.tmp')) + list(copy.glob('.*.tmp'))

@pytest.mark.parametrize('n', [1, 2, 4])
def test_a_disk_that_is_full_at_the_end_is_one_sentence(n, done, copy, monkeypatch):
    "While the student, the results or a picture is written."
    real, count = os.fsync, [0]
    def full(fd):
        count[0] += 1
        if count[0]==n: raise OSError(28, 'No space left on device')
        return real(fd)
    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(Refused, match='no space left'): distill(small(), copy, 'cpu', progress=False)
    assert sorted(p.name for p in copy.iterdir())==sorted(p.name for p in done[0].iterdir())
    assert numbers(distill(small(), copy, 'cpu', progress=False))==numbers(done[1])

@pytest.mark.parametrize('stage', ['measured', 'student', 'readings', 'latents'])
def test_one_turned_bit_in_a_stage_is_refused(stage, done, copy, refuses):
    "Not taken for the numbers; without the file they are made again."
    file = copy/f'{stage}.safetensors'; whole = file.read_bytes(); at = len(whole) - (3 if stage!='readings' else 30)
    file.write_bytes(whole[:at] + bytes([whole[at] ^ 2]) + whole[at+1:]); held = {p: p.read_bytes() for p in copy.iterdir()}
    refuses(lambda: R.distill(small(), copy, 'cpu', progress=False), 'damaged', file.name)
    assert {p: p.read_bytes() for p in copy.iterdir()}==held
    file.unlink(); assert numbers(distill(small(), copy, 'cpu', progress=False))==numbers(done[1])

def test_curves_that_are_spoiled_end_no_run(done, copy):
    file = copy/'curves.jsonl'; whole = file.read_bytes()
    for data in (whole[:-40] + b'\xff', whole.replace(b'valid bits', b'valie bits', 1), b''):
        file.write_bytes(data); assert numbers(distill(small(), copy, 'cpu', progress=False))==numbers(done[1])
    with pytest.raises(Refused, match='curves.jsonl'): R.load_run(copy, 'cpu').curves()

def test_one_process_in_a_run(done, copy, refuses):
    (copy/'.student-x.safetensors.4711.tmp').write_bytes(b'half'); (copy/'.images-train.npy.through').write_bytes(b'x')
    with runs.locked(copy/'recipe.json'): refuses(lambda: R.distill(small(), copy, 'cpu', progress=False), 'nothing else works')
    assert numbers(distill(small(), copy, 'cpu', progress=False))==numbers(done[1])
    assert {p.name for p in copy.iterdir()}=={p.name for p in done[0].iterdir()}

def test_a_clock_that_is_set_back(done, tmp_path, monkeypatch):
    real, calls = R.time.time, [0]
    def back(): calls[0] += 1; return real() - 1e5*calls[0]
    monkeypatch.setattr('time.time', back)
    out = distill(small(), tmp_path/'run', 'cpu', progress=False)
    assert numbers(out)==numbers(done[1]) and all(0 <= s < 600 for s in out['seconds'].values())

@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a CUDA device')
def test_cuda_without_one(capsys, tmp_path):
    assert 'CUDA' in refused(capsys, 'distill', '--device', 'cuda', '--out', tmp_path/'x') and not (tmp_path/'x').exists()

def test_as_a_process(tmp_path):
    run = lambda *a: subprocess.run([sys.executable, '-m', 'pcdistill', *a], capture_output=True, text=True, cwd=tmp_path)
    help = run('--help'); assert help.returncode==0 and all(c in help.stdout for c in ('distill', 'evaluate', 'sample', 'inpaint', 'play'))
    bad = run('evaluate', 'nowhere'); assert bad.returncode==2 and bad.stderr.count('\n')==1 and 'Traceback' not in bad.stderr


# Test images are opened once, when everything is fitted and chosen.
@pytest.mark.parametrize('what', ['plain', 'vqvae', pytest.param('growing', marks=needs('grown')), 'normals'])
def test_no_test_image_is_opened_before_scoring(what, tmp_path, monkeypatch):
    "Teacher, code prior, divisions of heads, the best epoch of student and of the plain HCLT: all chosen without."
    opened, scoring = [], []
    def guarded(name, split='train', f=R.open_split):
        assert split!='test' or scoring, 'test images were opened before the final scoring'
        opened.append(split)
        return f(name, split)
    monkeypatch.setattr(R, 'open_split', guarded)
    monkeypatch.setattr(R, 'bound', lambda *a, f=R.bound: (scoring or pytest.fail('scored too early')) and f(*a))
    measured = R.Run.measured
    def late(self):
        assert scoring or not list(self.folder.glob('measured*')) and all(self.file(s).is_file() for s in STAGES[:6])
        scoring.append(True)
        return measured(self)
    monkeypatch.setattr(R.Run, 'measured', late)
    r = dict(plain=small, vqvae=lambda: few('vqvae'), growing=lambda: replace(growing(), epochs=1),
             normals=lambda: recipe('digits', 'tiny', 'normals', teacher='pixels', clusters=3, n_train=200, n_test=20, epochs=1, autoregressive=False))[what]()
    distill(r, tmp_path/'run', 'cpu', progress=False)
    assert opened.index('test') > opened.index('valid')

def test_the_plan_opens_no_test_image(refuses):
    with no_test():
        refuses(lambda: images('digits', 'test', 1), 'without the test split')
        assert 'student' in estimate(small(autoregressive=False))

def test_validation_images_choose(tmp_path, monkeypatch):
    "What is given to choose by is the validation split itself, not other images that may be opened (training ones)."
    valid, given = images('digits', 'valid', 1000), {}
    def spy(name, pick, f):
        def g(*args, **kwargs):
            given[name] = pick(args, kwargs)
            return f(*args, **kwargs)
        monkeypatch.setattr(R, name, g)
    spy('finetune', lambda a, k: a[3], R.finetune)
    spy('fit_plain_hclt', lambda a, k: k['valid_x'], R.fit_plain_hclt)
    spy('fit_one_normal', lambda a, k: a[1], R.fit_one_normal)
    spy('choose_prior', lambda a, k: a[1], R.choose_prior)
    def fit(rows, *args):                                             # a family that wants features
        given['family'] = rows
        return trees.fit_trees(rows, *args)
    monkeypatch.setitem(FAMILIES, 'trees', emission.Family(trees.TreesConfig, fit, True))
    r = small(epochs=1); run = R.Run(r, tmp_path/'of', 'cpu', False)
    distill(r, tmp_path/'run', 'cpu', progress=False)
    assert all(torch.equal(given[k], valid) for k in ('finetune', 'fit_plain_hclt', 'fit_one_normal'))
    teacher, rows = run.teacher(), given['family']
    assert torch.equal(given['choose_prior'], teacher.codes(valid).long())
    assert len(rows.f_xf)==len(rows.y_xd)==len(rows.z_xq)==200*4

# Faults that were found by trying it.
def test_what_is_there_is_not_written_over(copy, tmp_path, capsys):
    picture = tmp_path/'x.png'; Image.fromarray(images('digits', 'test', 1)[0, 0].numpy()).save(picture)
    other = tmp_path/'thesis.pdf'; other.write_bytes(b'%PDF precious')
    (tmp_path/'link.png').symlink_to(picture)
    student = copy/'student.safetensors'; held = {f: f.read_bytes() for f in (picture, other, student, copy/'recipe.json')}
    coding = ['compress', picture, '--run', copy, '-o']
    for words in (coding, ['sample', copy, '--out'], ['inpaint', copy, '-n', '2', '--out']):
        for out in (*held, tmp_path/'link.png', tmp_path): assert '--overwrite' in refused(capsys, *words, out)
        refused(capsys, *words, tmp_path, '--overwrite')
    for c in ('sample', 'inpaint'): assert '.svg' in refused(capsys, c, copy, '--out', student, '--overwrite')
    assert '.svg' in refused(capsys, 'sample', copy, '--out', tmp_path/'new.pdf') and not (tmp_path/'new.pdf').exists()
    assert all(f.read_bytes()==b for f, b in held.items())
    assert cli.main([*map(str, coding), str(other), '--overwrite'])==0 and other.read_bytes()!=held[other]
    assert cli.main(['sample', str(copy), '-n', '2', '--out', str(picture), '--overwrite'])==0 and picture.read_bytes()!=held[picture]
    with pytest.raises(Refused, match='outside the run'): exported(copy, copy/'results.json')

def strict(path):
    "JSON as the standard has it: NaN and Infinity are no numbers."
    def none(word): raise AssertionError(f'{word} in {path}')
    return json.loads(path.read_text(), parse_constant=none)

def test_one_test_image(tmp_path, capsys):
    out = distill(replace(small(), n_test=1), tmp_path/'run', 'cpu', progress=False)
    assert out['student']['stderr'] is None and strict(tmp_path/'run'/'results.json')==out and '±' not in R.comparison(out) and 'nan' not in R.comparison(out)
    strict(exported(tmp_path/'run', tmp_path/'x.json'))
    assert cli.main(['evaluate', str(tmp_path/'run'), '-n', '1'])==0 and 'nan' not in capsys.readouterr().out

def test_an_image_without_probability_leaves_json_whole(tmp_path, monkeypatch):
    class Never(torch.nn.Module):
        def forward(self, x): return torch.full((len(x),), -torch.inf)
    monkeypatch.setattr(R, 'fit_one_normal', lambda x, valid: Never())
    out = distill(small(), tmp_path/'run', 'cpu', progress=False)
    assert out['baselines']['gaussian'] is None and strict(tmp_path/'run'/'results.json')==out and 'one full-covariance Gaussian' not in R.comparison(out)

def test_results_say_how_many_images_were_trained_on(done):
    assert done[1]['data']['n_train']==200 and distill(replace(small(), n_train=60_000, n_test=3, epochs=0), done[0].parent/'all', 'cpu', progress=False)['data']['n_train']==len(images('digits', 'train'))

BROKEN = dict(data=3, patch=[4], colour=7, teacher={}, teacher_size=1, clusters='many', emission=3, family='oak', n_train='all', n_test=2.5, n_tune=-1,
              epochs='few', batch=None, micro=0, lr=7, pseudocount='none', preset_=1, version=2)
BROKEN_EMISSION = dict(states='x', own=3, inputs=[], halves='x', bark=1, n_fit=0)

def test_broken_values_in_a_recipe(copy, tmp_path):
    "As a process of its own, without the type checks of this suite."
    held = json.loads((copy/'recipe.json').read_text())
    Image.fromarray(images('digits', 'test', 1)[0, 0].numpy()).save(tmp_path/'x.png')
    words = [['evaluate', copy], ['sample', copy, '--out', tmp_path/'s.png'], ['inpaint', copy, '--out', tmp_path/'i.png'],
             ['compress', tmp_path/'x.png', '--run', copy, '-o', tmp_path/'x.pcd'], ['distill', '--teacher', 'pixels', '--out', copy]]
    cases = [held | {k: v} for k, v in BROKEN.items()] + [held | dict(emission=held['emission'] | {k: v}) for k, v in BROKEN_EMISSION.items()] + [held | dict(family={})]
    work = """
import json, sys
from pathlib import Path
from pcdistill.cli import main
file, cases, words = json.loads(sys.stdin.read())
for case in cases:
    Path(file).write_text(json.dumps(case))
    for w in words:
        status = main(w)
        assert status==2, (case, w, status)
"""
    said = subprocess.run([sys.executable, '-c', work], input=json.dumps([str(copy/'recipe.json'), cases, [[str(w) for w in ws] for ws in words]]), capture_output=True, text=True)
    assert said.returncode==0, said.stderr[-2000:]
    lines = said.stderr.splitlines()
    assert len(lines)==len(cases)*len(words) and all(l.startswith('pcdistill: wanted') for l in lines)

@pytest.mark.parametrize('family, name, value', [('trees', 'states', 'x'), ('trees', 'states', None), ('trees', 'own', 3), ('trees', 'inputs', []), ('trees', 'bark', 1), ('trees', 'lr_end', -1.),
                         ('normals', 'halves', 'x'), ('normals', 'joined', 4), ('normals', 'joined', ['x']), ('normals', 'scales', True),
                         pytest.param('grown', 'heads', 'x', marks=needs('grown')), pytest.param('grown', 'twigs', 2, marks=needs('grown'))])
def test_broken_values_within_a_recipe(family, name, value):
    d = json.loads(json.dumps(asdict(recipe('digits', family=family))))
    assert recipe_from(d)
    d['emission'][name] = value
    with pytest.raises(Refused): recipe_from(d)

def test_broken_json_beside_a_recipe(copy, capsys):
    (copy/'recipe.json').write_text('[1]'); refused(capsys, 'evaluate', copy); refused(capsys, 'distill', '--out', copy)
    with pytest.raises(Refused, match='something else'): R.Run(small(), copy, 'cpu')

def test_broken_seconds(copy):
    (copy/'seconds.json').write_text('[1')
    with pytest.raises(Refused, match='seconds'): R.Run(small(), copy, 'cpu').seconds

def pipe(*words):
    "Standard error and status of a command whose reader has gone."
    r, w = os.pipe(); os.close(r)
    made = subprocess.run([sys.executable, '-m', 'pcdistill', *map(str, words)], stdout=w, stderr=subprocess.PIPE, text=True)
    os.close(w)
    return made.stderr, made.returncode

def test_a_closed_pipe_is_no_traceback(done):
    for words, want in ((['distill', '--help'], (0, 141)), (['evaluate', done[0], '-n', '2'], (141,)), ('distill --plan --teacher pixels --n-train 60 --n-test 4 --clusters 2 --set states=2'.split(), (141,))):
        err, status = pipe(*words)                       # argparse itself is silent when its help has no reader
        assert status in want and err=='', (words, status, err)

def test_stopped_while_importing(monkeypatch, capsys):
    import builtins, pcdistill.__main__ as entry
    real = builtins.__import__
    def stopped(name, *args, **kwargs):
        if name=='pcdistill.cli': raise KeyboardInterrupt
        return real(name, *args, **kwargs)
    monkeypatch.setattr(builtins, '__import__', stopped)
    assert entry.main()==130
    monkeypatch.undo()
    assert capsys.readouterr().err=='pcdistill: stopped\n'
    assert 'pcdistill.__main__:main' in (R.Path(__file__).parent.parent/'settings.ini').read_text()

def test_a_folder_spelled_otherwise_is_the_same_recipe(tmp_path, monkeypatch, capsys):
    (tmp_path/'d').mkdir(); monkeypatch.chdir(tmp_path); monkeypatch.setenv('HOME', str(tmp_path))
    for i, x in enumerate(images('digits', 'train', 60)): Image.fromarray(x[0].numpy()).save(tmp_path/'d'/f'{i:02}.png')
    words = ['distill', '--teacher', 'pixels', '--clusters', '4', '--n-train', '30', '--n-test', '2', '--epochs', '1', '--set', 'states=3', 'epochs=1', '--out', 'run', '--data']
    assert cli.main([*words, 'd'])==0
    stages = sorted(p.name for p in (tmp_path/'run').glob('*.safetensors'))
    for spelled in ('./d', 'd/', str(tmp_path/'d'), '~/d', '../' + tmp_path.name + '/d'): assert cli.main([*words, spelled])==0, spelled
    assert sorted(p.name for p in (tmp_path/'run').glob('*.safetensors'))==stages
    held = json.loads((tmp_path/'run'/'recipe.json').read_text()); (tmp_path/'run'/'recipe.json').write_text(json.dumps(held | dict(data='./d')))    # as it was written before
    assert cli.main([*words, 'd'])==0
    monkeypatch.chdir('/'); assert cli.main(['distill', *words[1:-2], str(tmp_path/'run'), '--data', str(tmp_path/'d')]) in (0, 2)                    # from elsewhere './d' is another folder
    assert recipe('digits').data=='digits' and recipe('user/set', shape=SHAPE).data=='user/set'

def test_a_folder_with_nothing_of_worth_is_empty(tmp_path, capsys):
    for name in ('.DS_Store', 'Thumbs.db', '.recipe.json.4711.tmp'):
        folder = tmp_path/name.strip('.'); folder.mkdir(); (folder/name).write_bytes(b'x')
        R.claim(folder, small()); assert (folder/'recipe.json').is_file() and (folder/name).is_file()
    (tmp_path/'file').write_text('x')
    with pytest.raises(Refused, match='got the file'): R.claim(tmp_path/'file', small())
    (tmp_path/'other').mkdir(); (tmp_path/'other'/'thesis.txt').write_text('x')
    with pytest.raises(Refused, match='something else'): R.claim(tmp_path/'other', small())

def test_help_and_plan_agree(capsys):
    "Only the plan says how long it takes."
    with pytest.raises(SystemExit): cli.main(['distill', '--help'])
    said = ' '.join(capsys.readouterr().out.split())
    assert '--plan says how long' in said and not re.search(r'(under|about) (two|half|\d+).{0,4}(minutes|an hour)', said)

def test_help_names_what_there_is(capsys):
    "The words in the comments of a command's parameters are those of the registries."
    shipped = [f.name for f in R.SHIPPED.iterdir()]
    for command, words in {'distill': [*FAMILIES, *TEACHERS, *COLOURS, *SIZES], 'inpaint': MASKS, '': shipped}.items():
        with pytest.raises(SystemExit): cli.main([*command.split(), '--help'])
        said = re.findall(r'\w+', capsys.readouterr().out)
        assert set(words) <= set(said), set(words) - set(said)

WRONG_CALLS = """
from pcdistill import distill, images, recipe
from pcdistill.core import Refused
calls = dict(foo=lambda: recipe('digits', foo=3), bark=lambda: recipe('digits', emission=dict(bark=1)), epochs=lambda: recipe('digits', epochs='few'),
             lr=lambda: recipe('digits', lr=.5), n_train=lambda: recipe('digits', n_train=True), micro=lambda: recipe('digits', micro=0),
             pseudocount=lambda: recipe('digits', pseudocount=float('nan')), seed=lambda: recipe('digits', seed=2**70),
             states=lambda: recipe('digits', emission=dict(states=1.5)), inputs=lambda: recipe('digits', emission=dict(inputs=3)))
calls |= {'family=': lambda: recipe('digits', emission='normals'), "recipe('digits')": lambda: distill('digits', 'nowhere'), '1.5': lambda: images('digits', n=1.5)}
for word, call in calls.items():
    try: call()
    except Refused as e: assert word in str(e) and str(e).startswith('wanted') and chr(10) not in str(e), (word, str(e))
    else: raise AssertionError(word)
assert recipe('digits', epochs=0, lr=(1, .05), seed=-3, pseudocount=0).lr==(1, .05) and recipe('digits', lr=[1, .05]).lr==(1, .05)
"""

def test_wrong_types_in_python_are_refused_at_the_door(tmp_path):
    "As a process of its own, without the type checks of this suite."
    made = subprocess.run([sys.executable, '-c', WRONG_CALLS], capture_output=True, text=True, cwd=tmp_path)
    assert made.returncode==0, made.stderr[-1000:]
    assert not (tmp_path/'nowhere').exists()

# --- one object, one import

def test_a_finished_run_computes_nothing(copy, monkeypatch):
    def timed(*a): raise AssertionError('a stage was made again')
    before = R.load_run(copy, 'cpu').results
    monkeypatch.setattr(R.Run, 'timed', timed)
    assert R.distill(small(), copy, 'cpu', progress=False).results==before
    run = R.load_run(copy, 'cpu')
    assert run.student() is run.student() and all(torch.equal(a, b) for a, b in zip(run.student().parameters(), run.image.parameters()))
    with pytest.raises(Refused, match='pseudocount'): R.Run(replace(small(), pseudocount=.2), copy, 'cpu', False)    # another setting, another folder

def test_a_run_is_what_distill_returns_and_load_run_reads(done, tmp_path):
    run = R.load_run(done[0], 'cpu')
    assert run.results==done[1] and run.recipe==small() and str(run)==R.comparison(done[1]) and run.image is run.image
    shown = run._repr_html_()
    assert shown.count('<img')==4 and 'plain HCLT' in shown
    again = R.distill(small(), done[0], 'cpu', progress=False)
    assert type(again) is type(run) and str(again)==str(run) and all(torch.equal(v, run.nats[k]) for k, v in again.nats.items())
    x = images('digits', 'test', 40)
    assert torch.allclose(run.image(x).double(), run.nats['student_student_b'], atol=1e-3)
    new = R.Run(small(), tmp_path/'new', 'cpu', False)
    assert 'not finished' in str(new) and '<img' not in new._repr_html_()
    with pytest.raises(Refused, match='results.json'): new.results

IMPORTS = '''
import sys
for first in ('', 'import pcdistill.inpainting, pcdistill.recipes', 'from pcdistill.chain import Run'):
    for name in [n for n in sys.modules if n.split('.')[0]=='pcdistill']: del sys.modules[name]    # torch stays: it takes seconds
    exec(first)
    from pcdistill import distill, load_run, recipe, inpaint, mask, images, score, bits, encode, decode
    from pcdistill.inpainting import MASKS
    import pcdistill
    assert all(map(callable, (distill, load_run, recipe, inpaint, mask, images, score, bits, encode, decode))) and MASKS, first
    assert recipe('digits').patch==4 and pcdistill.inpaint is inpaint and 'distill' in dir(pcdistill), first
'''

def test_one_import_whatever_came_before():
    "The package gives the functions, its modules stay importable."
    made = subprocess.run([sys.executable, '-c', IMPORTS], capture_output=True, text=True)
    assert made.returncode==0, made.stderr[-1000:]

@pytest.mark.parametrize('levels', [0, 1, 2, 3])
def test_labels_lie_where_the_squares_of_a_square_are_cut(levels):
    "With the label of a pixel in the pixel itself, cutting squares and cutting labels is one thing."
    from pcdistill.either import cut, places
    from pcdistill.patches import to_patches
    u = 2**levels
    z_bn = torch.randint(99, (2, (3*u)*(2*u)), generator=rng(0))
    rows = to_patches(z_bn.view(2, 1, 3*u, 2*u), u).flatten(0, 1)
    q = rows
    for side in (2**i for i in range(levels, 0, -1)): q = cut(q, places(side, 1))
    assert torch.equal(R.square_labels(z_bn, 3*u, u), q.view(len(rows), -1))

@needs('normals')
def test_two_meanings_of_bits(tmp_path):
    "Of trees one number; of normals the density's bounds are beside the chain's bits, on a stated number of images."
    r = recipe('digits', 'tiny', 'normals', teacher='pixels', clusters=3, n_train=200, n_test=40, epochs=1, autoregressive=False, emission=dict(halves=0, epochs=2))
    run = R.distill(r, tmp_path/'run', 'cpu', progress=False); out = run.results['readings']
    assert {k: v['n_images'] for k, v in out.items()}==dict.fromkeys(('chain', 'dequantised', 'rounded'), 32)
    assert 2e-5 < out['dequantised']['bits'] - out['chain']['bits']
    again = R.readings(run.image, x := images('digits', 'test', 32), rng(r.seed + 8))
    assert abs(out['chain']['bits'] - R.bits(R.score(run.image, x), 64).bits) < 2e-5
    assert abs(again.rounded.bits - out['rounded']['bits']) < 2e-5

def test_readings_of_trees_are_one_number(done):
    out = done[1]['readings']
    assert out['chain']==out['dequantised']==out['rounded']

def test_a_redirected_command_has_a_line_an_epoch(tmp_path, capsys):
    "Bits and the time left on stderr; nobody is left listening."
    assert cli.main('distill --data digits --preset tiny --n-train 40 --device cpu --out'.split() + [str(tmp_path/'run')])==0
    said = capsys.readouterr().err.splitlines()
    assert any(line.startswith('fine-tuning 1/') and 'train bits' in line and 'valid bits' in line and line.endswith('left') for line in said), said
    assert not logging.getLogger('pcdistill').handlers
