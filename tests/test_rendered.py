"Stored outputs are not staler than the code and the results they were made from."
import json, os
from pathlib import Path
import pytest
import notebooks

NBS = notebooks.notebooks()

def test_no_stored_output_is_stale():
    if not notebooks.RENDERED.is_file():
        pytest.skip('nbs/.rendered.json is not there yet: make render writes it')
    then = json.loads(notebooks.RENDERED.read_text(encoding='utf-8'))
    now = notebooks.prints(NBS)
    stale = sorted(n for n in now if then.get(n)!=now[n])
    assert not stale, 'outputs staler than code or results, render these again: ' + ', '.join(stale)
    assert set(then)==set(now), f'no such notebooks: {sorted(set(then) - set(now))}'

# --- the mechanism itself, on a small project

def write(nb, code, said='1', prose='words'):
    cells = [dict(cell_type='markdown', source=[prose]),
             dict(cell_type='code', source=[code], outputs=[dict(text=[said])])]
    nb.write_text(json.dumps(dict(cells=cells)))

@pytest.fixture
def project(tmp_path):
    for folder in ('pcdistill/assets', 'pcdistill/extra', 'nbs/experiments/results', 'benchmarks/results'):
        (tmp_path/folder).mkdir(parents=True)
    for name, text in {'__init__': "__version__ = '1'\n", 'core': 'a = 1\n', 'far': 'b = 1\n',
                       'near': 'from .core import a\n', 'deep': 'def f():\n    from .near import a\n',
                       'pics': "from pathlib import Path\nfolder = Path('pcdistill')/'assets'\n"}.items():
        (tmp_path/'pcdistill'/f'{name}.py').write_text(text)
    (tmp_path/'pcdistill'/'extra'/'__init__.py').write_text('')
    (tmp_path/'pcdistill'/'extra'/'more.py').write_text('from ..core import a\n')
    (tmp_path/'pcdistill'/'extra'/'most.py').write_text('from .more import a\n')
    (tmp_path/'pcdistill'/'assets'/'a.js').write_text('1')
    for name in ('ledger-a', 'other'): (tmp_path/'nbs'/'experiments'/'results'/f'{name}.json').write_text('{}')
    return tmp_path

CODE = "!ls\nfrom pcdistill.deep import f\nname = 'a'\nopen(folder/f'ledger-{name}.json')"

def of(project, code=CODE, **more):
    for cached in (notebooks.module_text, notebooks.modules_of, notebooks.file_digest): cached.cache_clear()
    nb = project/'nbs'/'x.ipynb'
    write(nb, code, **more)
    return notebooks.fingerprint(nb, project)

@pytest.mark.parametrize('file, text', [
    ('pcdistill/deep.py', 'def f():\n    from .near import a; return 2\n'), ('pcdistill/near.py', 'from .core import a; c = 3\n'),
    ('pcdistill/core.py', 'a = 2\n'), ('nbs/experiments/results/ledger-a.json', '{"x": 1}'),
    ('nbs/experiments/results/ledger-b.json', '{}')])
def test_what_outputs_are_made_from(project, file, text):
    before = of(project)
    (project/file).write_text(text)
    assert of(project)!=before

@pytest.mark.parametrize('file, text', [
    ('pcdistill/far.py', 'b = 2\n'), ('pcdistill/__init__.py', "__version__ = '2'\n"), ('pcdistill/assets/a.js', '2'),
    ('pcdistill/core.py', '# %% ../nbs/00_core.ipynb #c1\n\na = 1  \n'), ('nbs/experiments/results/other.json', '[]')])
def test_what_they_are_not_made_from(project, file, text):
    before = of(project)
    (project/file).write_text(text)
    assert of(project)==before

def test_code_counts_and_words_do_not(project):
    before = of(project)
    assert of(project, said='2', prose='other words')==before and of(project, CODE + '\n# said')==before
    assert of(project, CODE + '\nf()')!=before

@pytest.mark.parametrize('code, file', [('from pcdistill import deep', 'core'), ('import pcdistill.deep as d', 'core'),
                                        ('from pcdistill.extra.more import a', 'core'), ('from pcdistill.extra import more', 'core'),
                                        ('import pcdistill.extra.most', 'core'), ('import pcdistill.extra.most', 'extra/more'),
                                        ('import pcdistill', '__init__'), ('from pcdistill import f', '__init__')])
def test_every_way_to_import(project, code, file):
    before = of(project, code)
    (project/'pcdistill'/f'{file}.py').write_text('changed = 1\n')
    assert of(project, code)!=before

def test_notebooks_that_are_read_count(project):
    extra, read = project/'nbs'/'extra', "a = definitions(EXTRA/'a.ipynb')"
    extra.mkdir()
    write(extra/'a.ipynb', "b = definitions(EXTRA/'b.ipynb')")
    write(extra/'b.ipynb', 'from pcdistill.far import b')
    before, other = of(project, read), of(project)
    write(extra/'b.ipynb', 'from pcdistill.far import b', said='2')
    assert of(project, read)==before
    (project/'pcdistill'/'far.py').write_text('b = 2')
    of_far = of(project, read)
    write(extra/'b.ipynb', 'b = 3')
    assert len({before, of_far, of(project, read)})==3 and of(project)==other

def test_assets_count_where_they_are_read(project):
    before = of(project, 'import pcdistill.pics')
    (project/'pcdistill'/'assets'/'a.js').write_text('2')
    assert of(project, 'import pcdistill.pics')!=before

def test_record(project, monkeypatch):
    write(project/'nbs'/'x.ipynb', CODE)
    monkeypatch.setattr(notebooks, 'root', project)
    monkeypatch.setattr(notebooks, 'RENDERED', project/'nbs'/'.rendered.json')
    said = lambda: json.loads(notebooks.RENDERED.read_text())
    notebooks.record({'x.ipynb': '1'}, everything=False)
    assert not notebooks.RENDERED.is_file(), 'single notebooks do not start the file'
    notebooks.record({'x.ipynb': '1', 'gone.ipynb': '2'}, everything=True)
    assert said()=={'x.ipynb': '1'}
    notebooks.record({'x.ipynb': '3'}, everything=False)
    assert said()=={'x.ipynb': '3'}

# --- how notebooks are run

def test_a_notebook_runs_in_a_process_of_its_own_and_a_cell_that_fails_is_seen(project):
    nb, kept = project/'nbs'/'x.ipynb', project/'kept'
    (project/'pyproject.toml').write_text('[project]\nname = "pcdistill"\nversion = "1"\n[tool.nbdev]\nnbs_path = "nbs"\n')
    def ran(code, **more):
        cell = dict(cell_type='code', id='c1', metadata={}, execution_count=None, outputs=[], source=code)
        nb.write_text(json.dumps(dict(cells=[cell], metadata={}, nbformat=4, nbformat_minor=5)))
        return notebooks.run(nb, **more)
    passed, said, _ = ran(f'import os, sys\nopen({str(kept)!r}, "w").write(str(os.getpid()))\nsys.one = 1; print(2 + 3)', save=True)
    assert passed and int(kept.read_text())!=os.getpid(), said
    assert json.loads(nb.read_text())['cells'][0]['outputs'][0]['text'][0].strip()=='5'
    passed, said, _ = ran('import sys\nassert not hasattr(sys, "one"), "not of its own"\nassert False, "a claim that is false"', save=True)
    assert not passed and 'a claim that is false' in said and not json.loads(nb.read_text())['cells'][0]['outputs']
    assert not ran('import os\nos._exit(3)')[0]
    passed, said, _ = ran('import time\ntime.sleep(60)', seconds=1)
    assert not passed and said=='still running after 1 s'
