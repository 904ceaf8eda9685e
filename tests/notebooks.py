"""Run the notebooks, each in a process of its own; store and clean their outputs; write README.md.

    python tests/notebooks.py test   [PATH …] [--jobs 2]
    python tests/notebooks.py render [PATH …] [--jobs 2]
    python tests/notebooks.py clean  [PATH …]              # without running: after nbdev-test --save

A full render writes nbs/.rendered.json: what each notebook's outputs were made from (`fingerprint`). After that, a
render of single notebooks keeps it up to date, and a test says which outputs are staler than code and results.
"""
import argparse, ast, functools, hashlib, json, multiprocessing, os, re, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

root = Path(__file__).resolve().parent.parent
WIDGET = 'application/vnd.jupyter.widget-view+json'   # carries random ids

def notebooks() -> list[Path]:
    "All notebooks of the project, in reading order."
    return sorted(p for p in (root/'nbs').rglob('*.ipynb') if not any(s.startswith(('.', '_')) for s in p.relative_to(root).parts))

# a process that has imported what is slow, and of ours nothing; each notebook is run in a fork of it
FORKS = multiprocessing.get_context('forkserver')
SLOW = ['torch', 'matplotlib.pyplot', 'matplotlib_inline.backend_inline', 'scipy.sparse.csgraph', 'sklearn.cluster', 'nbdev.test', 'anywidget']
ENV = dict(OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1', MPLBACKEND='module://matplotlib_inline.backend_inline')

def nbdev_test(nb:Path, save:bool, log:str):
    "What `nbdev-test` does, in the process that calls this; all that is said goes into a file."
    with open(log, 'w') as f:
        for said in (1, 2): os.dup2(f.fileno(), said)
    multiprocessing.set_start_method(None, force=True)   # the usual one, for what a notebook itself starts
    from nbdev.test import nbdev_test
    nbdev_test(str(nb), save=save)   # leaves the process if a cell fails

def run(nb:Path, save:bool=False, seconds:int=900) -> tuple[bool,str,float]:
    "Run one notebook in a process of its own with one thread: passed, what it said, seconds."
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as d:
        p = FORKS.Process(target=nbdev_test, args=(nb, save, log := f'{d}/log'))
        p.start()
        p.join(seconds)
        if p.is_alive():
            p.kill()
            return False, f'still running after {seconds} s', seconds
        return p.exitcode==0, Path(log).read_text(encoding='utf-8', errors='replace'), time.monotonic() - start

def clean(nb:dict) -> dict:
    "Without execution counts, metadata (whether a cell is folded stays), and widget views; what is left is the same after every run."
    nb['metadata'] = {'kernelspec': {'display_name': 'python3', 'language': 'python', 'name': 'python3'}}
    for c in nb['cells']:
        c['metadata'] = {k: v for k, v in c['metadata'].items() if k=='jupyter'}
        if c['cell_type']!='code': continue
        c['execution_count'] = None
        c['outputs'] = [o for o in c['outputs'] if WIDGET not in o.get('data', {}) or 'image/png' in o['data']]
        for o in c['outputs']:
            o.get('data', {}).pop(WIDGET, None) # what stands in its place stays
            if 'execution_count' in o: o['execution_count'] = None
            if 'metadata' in o: o['metadata'] = {}
    return nb

def dump(nb:dict) -> str:
    "The text of a notebook file."
    return json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + '\n'

# --- what outputs are made from

RENDERED = root/'nbs'/'.rendered.json'   # notebook → fingerprint when its outputs were stored

def code_only(text:str) -> str:
    "Without lines that are comments (directives `#|` stay), and without spaces at ends of lines: what is left changes outputs."
    lines = [line.rstrip() for line in text.splitlines()]
    return '\n'.join(line for line in lines if line and not re.match(r'\s*#(?!\|)', line))

def imported(text:str, inside:str|None=None) -> set[str]:
    "Names in the package that code imports, anywhere in it; '' is the package itself. `inside`: code of that module of it."
    found, here = set(), ['pcdistill', *(inside or '').split('.')]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import): found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and not (node.level and inside is None):
            above = here[:len(here)-node.level] if node.level else []
            base = '.'.join(above + [node.module]*bool(node.module))
            found |= {base} | {f'{base}.{a.name}' for a in node.names}
    return {n.removeprefix('pcdistill').removeprefix('.') for n in found if n.split('.')[0]=='pcdistill'}

@functools.cache
def module_text(name:str, package:Path) -> str|None:
    "Source of a module of the package; '' is its __init__; None: there is no such module."
    at = package/name.replace('.', '/')
    path = at/'__init__.py' if at.is_dir() else at.with_suffix('.py')
    return code_only(path.read_text(encoding='utf-8')) if path.is_file() else None

@functools.cache
def modules_of(name:str, package:Path) -> frozenset[str]:
    "What a module imports from the package."
    return frozenset(imported(module_text(name, package) or '', inside=name))

def needed(code:str, package:Path) -> list[str]:
    "Modules of the package that code needs, directly or through others."
    found, todo = set(), imported(code)
    while todo:
        name = todo.pop()
        if name in found or module_text(name, package) is None: continue
        found.add(name)
        todo |= modules_of(name, package)
    return sorted(found)

def results_named(code:str, root:Path) -> list[Path]:
    "Files of results, and scripts that make them, whose names stand in code; `{…}` in a name may be anything."
    names = {re.sub(r'\{[^{}]*\}', '*', n).split('/')[-1] for n in re.findall(r'[\w{}.*/-]+\.(?:json|csv|py)\b', code)}
    folders = [root/'nbs'/'experiments'/'results', root/'nbs'/'neighbours'/'results', root/'benchmarks', root/'benchmarks'/'results']
    return sorted({p for d in folders for n in names if n.strip('*.') not in ('json', 'py') for p in d.glob(n)})

def code_cells(nb:Path, root:Path) -> list[str]:
    "A notebook's cells of code, then those of the notebooks in `extra` whose definitions it reads."
    cells = [''.join(c['source']) for c in json.loads(nb.read_text(encoding='utf-8'))['cells'] if c['cell_type']=='code']
    read = re.findall(r"\bdefinitions\(EXTRA/'(\w+\.ipynb)'\)", '\n'.join(cells))
    return cells + [c for name in dict.fromkeys(read) for c in code_cells(root/'nbs'/'extra'/name, root)]

def fingerprint(nb:Path, root:Path=root) -> str:
    """A number for everything a notebook's outputs are made from: its code and that of notebooks it reads, the modules it needs,
    their assets, the results it names."""
    cells = code_cells(nb, root)
    code = '\n'.join(re.sub(r'^\s*[!%].*$', '', code_only(c), flags=re.M) for c in cells)
    package = root/'pcdistill'
    names = needed(code, package)
    h = hashlib.sha256('\0'.join(map(code_only, cells)).encode())
    for name in names: h.update(f'\0{name}\0{module_text(name, package)}'.encode())
    files = results_named(code, root)
    folders = {f for name in names for f in re.findall(r"'assets'(?:/'(\w+)')?", module_text(name, package))}   # '': all of them
    files += sorted({p for f in folders for p in (package/'assets'/f).rglob('*') if p.is_file()})
    for p in files: h.update(f'\0{p.relative_to(root).as_posix()}\0'.encode() + file_digest(p))
    return h.hexdigest()[:16]

@functools.cache
def file_digest(path:Path) -> bytes: return hashlib.sha256(path.read_bytes()).digest()

def prints(paths:list[Path]) -> dict[str,str]:
    "Notebook → fingerprint."
    return {p.relative_to(root/'nbs').as_posix(): fingerprint(p) for p in paths}

def record(new:dict[str,str], everything:bool):
    "Write down what outputs were made from: after a full render all of it; after one of single notebooks theirs, if there is a file."
    if not everything and not RENDERED.is_file(): return
    old = {} if everything else json.loads(RENDERED.read_text(encoding='utf-8'))
    there = {p.relative_to(root/'nbs').as_posix() for p in notebooks()}
    text = json.dumps({k: v for k, v in (old | new).items() if k in there}, indent=1, sort_keys=True)
    RENDERED.write_text(text + '\n', encoding='utf-8')

def readme() -> dict[str,bytes]:
    "README.md and its figures, made from nbs/index.ipynb: path from the root → contents."
    with tempfile.TemporaryDirectory() as d:
        subprocess.run([sys.executable, '-m', 'nbconvert', '--to', 'markdown', '--output', 'README', '--output-dir', d, str(root/'nbs'/'index.ipynb')],
                       check=True, capture_output=True)
        made = {p.relative_to(d).as_posix(): p.read_bytes() for p in Path(d).rglob('*') if p.is_file()}
    text = made['README.md'].decode()
    text = re.sub(r'^```\w*\n#\| hide_input\n.*?^```$', '', text, flags=re.M | re.S)   # only what such a cell shows
    text = re.sub(r'^#\|.*\n', '', text, flags=re.M)
    text = re.sub(r'^```(\w*)\n(.*?)^```$', lambda m: f"```{m[1] or 'python'}\n{m[2]}```", text, flags=re.M | re.S)   # cells are Python
    text = re.sub(r'\]\((?!\w+:|#|/|README_files/)([^)]+)\)', lambda m: f"]({os.path.normpath('nbs/' + m[1])})", text)   # links as seen from the root
    made['README.md'] = (re.sub(r'\n{3,}', '\n\n', text).strip() + '\n').encode()
    return made

def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument('what', choices=['test', 'render', 'clean'])
    args.add_argument('paths', nargs='*', type=Path, help='notebooks; all if none is given')
    args.add_argument('--jobs', type=int, default=2, help='notebooks at a time')
    a = args.parse_args()
    paths, failed = [p.resolve() for p in a.paths] or notebooks(), []
    os.chdir(root)
    os.environ.update(ENV)
    FORKS.set_forkserver_preload(SLOW)
    before = prints(paths)   # what is run; code that changes while it runs makes outputs stale
    with ThreadPoolExecutor(a.jobs) as pool:
        runs = pool.map(lambda p: run(p, a.what=='render'), paths) if a.what!='clean' else ()
        for nb, (ok, said, seconds) in zip(paths, runs):
            print(f"{'passed' if ok else 'FAILED'}  {seconds:6.1f} s  {nb.relative_to(root)}", flush=True)
            if not ok: failed.append(nb); print(said)
    if a.what!='test':
        for nb in paths:
            if nb not in failed: nb.write_text(dump(clean(json.loads(nb.read_text(encoding='utf-8')))), encoding='utf-8')
    if a.what=='render':
        record({k: v for k, v in before.items() if root/'nbs'/k not in failed}, not a.paths)
        for old in (root/'README_files').glob('*'): old.unlink()
        for name, data in readme().items(): (root/name).parent.mkdir(exist_ok=True); (root/name).write_bytes(data)
    sys.exit(f"{len(failed)} of {len(paths)} notebooks failed: {', '.join(p.name for p in failed)}" if failed else None)

if __name__=='__main__': main()
