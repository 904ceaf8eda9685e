"""Run the notebooks, each in a process of its own; store and clean their outputs; write README.md.

    python tests/notebooks.py test   [PATH …] [--jobs 2]
    python tests/notebooks.py render [PATH …] [--jobs 2]
    python tests/notebooks.py clean  [PATH …]              # without running: after nbdev-test --save
"""
import argparse, json, os, re, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

root = Path(__file__).resolve().parent.parent
WIDGET = 'application/vnd.jupyter.widget-view+json'   # carries random ids

def notebooks() -> list[Path]:
    "All notebooks of the project, in reading order."
    return sorted(p for p in (root/'nbs').rglob('*.ipynb') if not any(s.startswith(('.', '_')) for s in p.relative_to(root).parts))

def run(nb:Path, save:bool=False, seconds:int=900) -> tuple[bool,str,float]:
    "Run one notebook in a new process with one thread: passed, what it said, seconds."
    env = dict(os.environ, OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1', MPLBACKEND='module://matplotlib_inline.backend_inline')
    command = [str(Path(sys.executable).parent/'nbdev-test'), str(nb)] + ['--save']*save
    start = time.monotonic()
    try: p = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired: return False, f'still running after {seconds} s', seconds
    return p.returncode==0, p.stdout + p.stderr, time.monotonic() - start

def clean(nb:dict) -> dict:
    "Without execution counts, metadata, and widget views; what is left is the same after every run."
    nb['metadata'] = {'kernelspec': {'display_name': 'python3', 'language': 'python', 'name': 'python3'}}
    for c in nb['cells']:
        c['metadata'] = {}
        if c['cell_type']!='code': continue
        c['execution_count'] = None
        c['outputs'] = [o for o in c['outputs'] if WIDGET not in o.get('data', {})]
        for o in c['outputs']:
            if 'execution_count' in o: o['execution_count'] = None
            if 'metadata' in o: o['metadata'] = {}
    return nb

def dump(nb:dict) -> str:
    "The text of a notebook file."
    return json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + '\n'

def readme() -> dict[str,bytes]:
    "README.md and its figures, made from nbs/index.ipynb: path from the root → contents."
    with tempfile.TemporaryDirectory() as d:
        subprocess.run([sys.executable, '-m', 'nbconvert', '--to', 'markdown', '--output', 'README', '--output-dir', d, str(root/'nbs'/'index.ipynb')],
                       check=True, capture_output=True)
        made = {p.relative_to(d).as_posix(): p.read_bytes() for p in Path(d).rglob('*') if p.is_file()}
    text = made['README.md'].decode()
    text = re.sub(r'^#\|.*\n', '', text, flags=re.M)
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
    with ThreadPoolExecutor(a.jobs) as pool:
        runs = pool.map(lambda p: run(p, a.what=='render'), paths) if a.what!='clean' else ()
        for nb, (ok, said, seconds) in zip(paths, runs):
            print(f"{'passed' if ok else 'FAILED'}  {seconds:6.1f} s  {nb.relative_to(root)}", flush=True)
            if not ok: failed.append(nb); print(said)
    if a.what!='test':
        for nb in paths:
            if nb not in failed: nb.write_text(dump(clean(json.loads(nb.read_text(encoding='utf-8')))), encoding='utf-8')
    if a.what=='render':
        for old in (root/'README_files').glob('*'): old.unlink()
        for name, data in readme().items(): (root/name).parent.mkdir(exist_ok=True); (root/name).write_bytes(data)
    sys.exit(f"{len(failed)} of {len(paths)} notebooks failed: {', '.join(p.name for p in failed)}" if failed else None)

if __name__=='__main__': main()
