"The package comes quickly, with its notebooks, and says in a sentence what it lacks."
import ast, os, re, shutil, socket, subprocess, sys, time, urllib.error, urllib.request
from pathlib import Path
from types import SimpleNamespace
import pytest
from pcdistill.extra import lab
from pcdistill.chain import SHIPPED
from pcdistill.cli import main, parser

root = Path(__file__).resolve().parents[1]

# --- light

LIGHT = """
import sys, runpy
sys.argv = {words}
try: {what}
except SystemExit as e: assert e.code==0
heavy = {{'torch', 'matplotlib', 'datasets', 'sklearn', 'scipy', 'PIL', 'ipywidgets', 'jupyterlab'}} & set(sys.modules)
assert not heavy, heavy
"""

def commands():
    return next(a.choices for a in parser()._actions if a.choices)

@pytest.mark.parametrize('words', [[], *([c] for c in commands())], ids=lambda w: ''.join(w) or 'pcdistill')
def test_help_imports_nothing_heavy(words):
    code = LIGHT.format(words=['pcdistill', *words, '--help'], what="runpy.run_module('pcdistill', run_name='__main__')")
    made = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert made.returncode==0 and 'usage: pcdistill' in made.stdout, made.stderr[-500:]

def test_the_package_names_what_it_offers_and_imports_it_when_wanted():
    code = LIGHT.format(words=['x'], what='import pcdistill; assert pcdistill.__version__ and {"distill", "images", "inpaint", "recipe", "load_run"} <= set(dir(pcdistill))')
    code += "from pcdistill import distill, images, inpaint, recipe, load_run; assert 'torch' in sys.modules and callable(load_run)"
    made = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert made.returncode==0, made.stderr[-500:]

def test_only_widgets_need_what_lab_brings():
    "The base installation does without: two modules import it, and no other module imports these."
    for f in (root/'pcdistill').rglob('*.py'):
        if f.stem in ('widgets', 'browsers'): continue
        top = [n for n in ast.parse(f.read_text()).body if isinstance(n, ast.Import|ast.ImportFrom)]
        names = {a.name for n in top for a in n.names} | {n.module or '' for n in top if isinstance(n, ast.ImportFrom)}
        found = {n for n in names if n.split('.')[0] in ('anywidget', 'ipywidgets', 'traitlets', 'jupyterlab', 'voila', 'IPython', 'widgets', 'browsers')}
        assert not found, (f.name, found)

# --- notebooks

def test_notebooks_are_copied_and_work_is_kept(tmp_path, capsys):
    assert main(['notebooks', str(tmp_path/'mine')])==0
    have = {p.relative_to(tmp_path/'mine') for p in (tmp_path/'mine').rglob('*') if p.is_file()}
    assert {Path('play.ipynb'), Path('app.ipynb'), Path('images/pad.png'), Path('experiments/results/limits-cifar10.json')} <= have
    assert len([p for p in have if p.suffix=='.ipynb']) > 60 and not [p for p in have if any(s.startswith(('.', '_')) for s in p.parts)] and Path('cells.py') in have
    work = tmp_path/'mine'/'play.ipynb'; work.write_text('work'); (tmp_path/'mine'/'own.txt').write_text('own')
    (tmp_path/'mine'/'mini.ipynb').unlink(); capsys.readouterr()
    assert main(['notebooks', str(tmp_path/'mine')])==0 and work.read_text()=='work' and (tmp_path/'mine'/'mini.ipynb').is_file()
    said = capsys.readouterr().out; assert 'kept 1 of your files' in said and 'play.ipynb' in said and '--overwrite' in said
    assert main(['notebooks', str(tmp_path/'mine'), '--overwrite'])==0 and work.read_bytes()==(root/'nbs'/'play.ipynb').read_bytes()
    assert 'kept' not in capsys.readouterr().out and (tmp_path/'mine'/'own.txt').read_text()=='own'

def test_a_folder_that_cannot_be_written_is_refused(tmp_path, capsys):
    (tmp_path/'file').write_text('x')
    assert main(['notebooks', str(tmp_path/'file')])==2 and capsys.readouterr().err.startswith('pcdistill: wanted')
    assert (tmp_path/'file').read_text()=='x'

def test_copies_can_be_written_though_the_package_cannot(tmp_path, monkeypatch):
    shipped = tmp_path/'shipped'/'theory'; shipped.mkdir(parents=True)
    for f in (shipped/'a.ipynb', shipped.parent/'play.ipynb'): f.write_text('{}'); f.chmod(0o444)
    shipped.chmod(0o555)
    monkeypatch.setattr(lab, 'notebooks', lambda: tmp_path/'shipped')
    assert lab.copy_notebooks(tmp_path/'mine')==[]
    for f in (tmp_path/'mine').rglob('*'): assert f.stat().st_mode & 0o200, f

@pytest.mark.parametrize('command, module, extra', [('play', 'jupyterlab.labapp', 'lab'), ('play', 'anywidget', 'lab'), ('app', 'voila.app', 'app')])
def test_what_is_missing_is_said_in_one_sentence(command, module, extra, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr('pcdistill.chain.load_run', lambda *_: SimpleNamespace(folder=tmp_path))
    words = dict(play=['--folder', str(tmp_path)], app=['--run', 'any'])[command]
    assert main([command, *words])==2
    assert re.fullmatch(rf'pcdistill: wanted .*: pip install "pcdistill\[{extra}\]"\n', capsys.readouterr().err)

def test_a_run_that_is_not_there_opens_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr('pcdistill.extra.lab.open_lab', lambda *_: pytest.fail('opened'))
    monkeypatch.setattr('pcdistill.extra.lab.serve', lambda *_: pytest.fail('served'))
    for words in (['play', '--folder', tmp_path/'mine', '--run', tmp_path/'none'], ['app', '--run', tmp_path/'none']):
        assert main([str(w) for w in words])==2 and str(tmp_path/'none') in capsys.readouterr().err
    assert not (tmp_path/'mine').exists()

def test_a_run_that_ships_is_told_by_its_folder(tmp_path, monkeypatch):
    "So that notebooks find it in whatever folder they work, and though a folder of data has its name."
    (tmp_path/'digits').mkdir(); monkeypatch.chdir(tmp_path); monkeypatch.setenv('PCDISTILL_RUN', '')
    monkeypatch.setattr('pcdistill.extra.lab.open_lab', lambda *_: None)
    assert main(['play', '--folder', 'mine', '--run', 'digits'])==0 and os.environ['PCDISTILL_RUN']==str(SHIPPED/'digits')
    shutil.copytree(SHIPPED/'digits', 'own')
    assert main(['play', '--folder', 'mine', '--run', 'own'])==0 and os.environ['PCDISTILL_RUN']==str(tmp_path/'own')

@pytest.mark.slow
def test_play_opens_jupyterlab_on_the_copy(tmp_path):
    "From another folder, with words for JupyterLab after a --; what it serves is the copy."
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    env = os.environ | {f'JUPYTER_{k}_DIR': str(tmp_path/k) for k in ('CONFIG', 'DATA', 'RUNTIME')} | dict(PYTHONPATH=str(root), HOME=str(tmp_path/'home'))
    browser = tmp_path/'browser'; browser.write_text(f'#!/bin/sh\ncat "${{1#file://}}" > {tmp_path}/page.tmp && mv {tmp_path}/page.tmp {tmp_path}/page.html\n'); browser.chmod(0o755)
    env['BROWSER'] = f'{browser} %s'                    # keeps the page that a browser would be sent to
    lab_words = ['--ServerApp.ip=127.0.0.1', f'--ServerApp.port={port}', '--ServerApp.allow_root=True', '--IdentityProvider.token=secret']
    log = (tmp_path/'log').open('w+')
    p = subprocess.Popen([sys.executable, '-m', 'pcdistill', 'play', '--', *lab_words], cwd=tmp_path, env=env, stdout=log, stderr=log)
    try:
        ask = urllib.request.Request(f'http://127.0.0.1:{port}/api/contents/play.ipynb?content=0', headers={'Authorization': 'token secret'})
        while True:
            assert p.poll() is None, (tmp_path/'log').read_text()
            try: answer = urllib.request.urlopen(ask, timeout=60); break
            except (urllib.error.URLError, ConnectionError): time.sleep(.2)
        assert answer.status==200 and (tmp_path/'home'/'pcdistill-notebooks'/'play.ipynb').is_file()
        while not (tmp_path/'page.html').exists(): time.sleep(.1)
        assert 'lab/tree/play.ipynb' in (tmp_path/'page.html').read_text()
    finally:
        p.terminate(); p.wait(60); log.close()

def test_the_page_is_closed_to_strangers():
    c = lab.page_config('localhost', 8866)
    assert c['Voila']['ip']=='localhost' and c['Voila']['auto_token'] and c['VoilaConfiguration']['strip_sources'] and not c['VoilaConfiguration']['file_allowlist']
    assert not re.search(r'https?:|\*', c['Voila']['tornado_settings']['headers']['Content-Security-Policy'])
