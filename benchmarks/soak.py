"""Faults from outside against whole runs: SIGKILL at random moments, a full disk, broken files, two processes, a wrong clock, a read-only folder.

    python benchmarks/soak.py [--kills 50] [--ranked 8] [--seed 0] [--out nbs/experiments/results/soak.json] [--only killed full …]

Each fault has to end with the numbers of a run that was left alone (results.json, nats of every test image, parameters of the student), or with
one sentence and nothing lost: the same command then goes on to those numbers. A run is a process that is forked after all imports, so that no
time goes into them; ranks likewise, by torchrun. The disk that is full and the folder that is read-only are small mounted
ones, for which one has to be root; else they are skipped. The exit status is 1 if something did not pass.
"""
import argparse, io, json, os, random, re, shutil, signal, subprocess, sys, tempfile, time
from collections import Counter
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
import matplotlib; matplotlib.use('agg')
import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import config_from_args, elastic_launch, parse_args
import pcdistill
from pcdistill import chain, cli, teacher
from pcdistill.runs import load, load_json, resumable, save_json
from pcdistill.show import table

WORDS = 'distill --data digits --preset tiny --n-train 120 --n-test 20 --epochs 30 --set epochs=20 --device cpu --out'.split()

def often(*words, **settings): return resumable(*words, **settings | dict(every_s=0.))
chain.resumable = teacher.resumable = often            # saved after each epoch, so that a kill meets more
chain.estimate, chain.plan_table = lambda *of: None, lambda e: ''   # what a run will cost is not asked anew after each kill

STAGES = 'teacher', 'prior', 'latents', 'start', 'student', 'plain', 'baselines' # that ranks are killed in

# --- a process, and what became of it

def begin(words, log:Path, before=lambda: None, main=cli.main) -> int:
    "A process that does a command, after `before`; what it says goes to the log."
    sys.stdout.flush()
    if pid := os.fork(): return pid
    to = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(to, 1); os.dup2(to, 2)
    sys.stdout, sys.stderr = (open(fd, 'w', buffering=1) for fd in (1, 2))
    status = 70
    try: before(); status = main([str(w) for w in words])
    except BaseException: import traceback; traceback.print_exc()
    finally: sys.stdout.flush(); os._exit(status or 0)

def torchrun(words):
    "Two ranks by torchrun, which forks them, so that no time goes into imports."
    options = '--nproc-per-node=2 --rdzv-backend=c10d --rdzv-endpoint=localhost:0 --rdzv-id=soak --start-method=fork -m pcdistill'
    try: elastic_launch(config_from_args(parse_args(options.split()))[0], exiting)(words)
    except ChildFailedError: return 1

def exiting(words): sys.exit(cli.main(words))

def status_of(pid:int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def over(pid:int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

def do(words, log:Path, before=lambda: None) -> dict:
    "A command to its end: exit status, and its sentence."
    return told(status_of(begin(words, log, before)), log)

def told(status:int, log:Path) -> dict:
    text = log.read_text()
    said = re.findall(r'^pcdistill: (.*)$', text, re.M)
    error = text.strip().splitlines()[-1] if re.search('^Traceback', text, re.M) and not said else None
    return dict(status=status, said=[re.sub(r'/\S*/', '', s) for s in said]) | (dict(error=error) if error else {})

def sentence(end:dict) -> bool:
    "One sentence, and no traceback."
    return end['status'] in (1, 2, 130) and len(end['said'])==1 and 'error' not in end

def stage_of(log:Path) -> str:
    "The last stage that a run has begun."
    return (['before the first'] + re.findall(r'^digits: (\w+) …$', log.read_text(), re.M))[-1]

# --- what a run ended with

def numbers(run:Path) -> dict:
    "Everything a finished run is judged by."
    results = load_json(run/'results.json')
    for name in ('seconds', 'threads'): results.pop(name)
    return dict(results=results, nats=load(run/'measured.safetensors')[0], student=load(run/'student.safetensors')[0],
                files={p.name for p in run.iterdir()})

def differ(a:dict, b:dict) -> list[str]:
    "What of two runs is not the same, bit for bit."
    off = [k for k in ('results', 'files') if a[k]!=b[k]]
    for k in ('nats', 'student'):
        same = set(a[k])==set(b[k]) and all(torch.equal(a[k][n].nan_to_num(), b[k][n].nan_to_num()) for n in a[k])
        off += [] if same else [k]
    if 'files' in off: off += sorted(a['files'] ^ b['files'])
    return off

def content(run:Path) -> dict:
    return {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}

@contextmanager
def mounted(at:Path, mb:float):
    "A small disk of its own."
    at.mkdir(); subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={int(mb*1024)}k', 'soak', at], check=True)
    try: yield at
    finally: subprocess.run(['umount', at], check=True)

def remount(at:Path, how:str): subprocess.run(['mount', '-o', f'remount,{how}', at], check=True)

# --- the faults

class Soak:
    def __init__(self, temp:Path, seed:int):
        self.temp, self.log, self.dice = temp, temp/'log', random.Random(seed)
        start = time.monotonic()
        assert do([*WORDS, temp/'alone'], self.log)['status']==0, self.log.read_text()[-3000:]
        self.whole_s, self.want = time.monotonic() - start, numbers(temp/'alone')
        with redirect_stdout(io.StringIO()): cli.main([*WORDS, str(temp/'alone')])             # what is imported late

    def copied(self, name:str) -> Path:
        "A copy of the run that was left alone."
        shutil.rmtree(self.temp/name, ignore_errors=True)
        return Path(shutil.copytree(self.temp/'alone', self.temp/name))

    def killed(self, kills:int) -> dict:
        "One process, killed again and again until it ends; then another run, until all kills are done."
        hit, ends, n, i = Counter(), [], 0, 0
        while n < kills:
            run, i, began = self.temp/f'killed{i}', i + 1, n
            while True:
                pid = begin([*WORDS, run], self.log)
                end_at = time.monotonic() + (self.dice.uniform(0, .45*self.whole_s) if n < kills else 1e9)
                while not (ended := over(pid)) and time.monotonic() < end_at: time.sleep(.003)
                if not ended: os.kill(pid, signal.SIGKILL)
                status = status_of(pid)
                if ended: break
                hit[stage_of(self.log)] += 1; n += 1
            off = differ(self.want, numbers(run)) if status==0 else [told(status, self.log)]
            ends.append(dict(kills=n - began, differs=off))
        return dict(passed=not any(e['differs'] for e in ends), kills=n, hit=dict(hit.most_common()), runs=ends)

    def ranked(self, kills:int) -> dict:
        "Two ranks, one of which is killed, in one stage after the other; the other rank has to end with a sentence."
        def ranks(pid): return [int(c) for c in Path(f'/proc/{pid}/task/{pid}/children').read_text().split()]
        began = time.monotonic(); status = status_of(begin([*WORDS, self.temp/'two'], self.log, main=torchrun)); two_s = time.monotonic() - began
        assert status==0, self.log.read_text()[-3000:]
        want, run, found, n = numbers(self.temp/'two'), self.temp/'ranked', [], 0
        while True:
            pid, wanted = begin([*WORDS, run], self.log, main=torchrun), STAGES[n*len(STAGES)//kills:]
            while not over(pid) and (n==kills or len(ranks(pid)) < 2 or stage_of(self.log) not in wanted): time.sleep(.005)
            if n < kills: time.sleep(self.dice.uniform(0, .5))
            if over(pid): break
            of = self.dice.randrange(2); os.kill(ranks(pid)[of], signal.SIGKILL); at = time.monotonic(); n += 1
            end = told(status_of(pid), self.log)
            found.append(dict(rank=of, stage=stage_of(self.log), ended_after_s=round(time.monotonic() - at, 1), **end))
        status = status_of(pid)
        off = differ(want, numbers(run)) if status==0 else [told(status, self.log)]
        bad = [f for f in found if f['status']==0 or len(f['said'])!=1]
        return dict(passed=not off and not bad, kills=n, two_ranks_alone_s=round(two_s, 1), differs=off, ends=found)

    def full(self) -> dict:
        "A disk that is full at another moment each time, and then has room."
        found = []
        with mounted(self.temp/'disk', 8) as disk:
            run, filler = disk/'run', disk/'filler'
            for kb in (0, 4, 800, 1900, 2250):
                shutil.rmtree(run, ignore_errors=True); filler.unlink(missing_ok=True)
                free = os.statvfs(disk).f_bavail*os.statvfs(disk).f_frsize
                filler.write_bytes(bytes(free - kb*1024))
                end = do([*WORDS, run], self.log); stage = stage_of(self.log); filler.unlink()
                kept = content(run) if run.is_dir() else {}
                litter = [f for f in kept if f.endswith('.tmp')]
                again = do([*WORDS, run], self.log)
                off = differ(self.want, numbers(run)) if again['status']==0 else [again]
                lost = [f for f, data in kept.items() if f.endswith(('.safetensors', '.npy')) and f[0]!='.' and (run/f).read_bytes()!=data]
                found.append(dict(free_kb=kb, stage=stage, **end, differs=off, lost=lost, litter=litter,
                                  passed=(end['status']==0 or sentence(end)) and not (off or lost or litter)))
        return dict(passed=all(f['passed'] for f in found), ends=found)

    def broken(self) -> dict:
        "Every file of a finished run, but its pictures, cut short, and with one bit turned; asked in three ways."
        found = []
        evaluate = do(['evaluate', self.temp/'alone', '--device', 'cpu'], self.log); right = self.log.read_text()
        assert evaluate['status']==0
        for name in sorted(f for f in content(self.temp/'alone') if not f.endswith('.png')):       # pictures are drawn anew
            for how in ('cut', 'bit'):
                run = self.copied('broken'); file = run/name; data = bytearray(file.read_bytes()); at = self.dice.randrange(len(data))
                if how=='bit': data[at] ^= 1 << self.dice.randrange(8)
                file.write_bytes(data[:at] if how=='cut' else data); n, before = len(data), content(run)
                ends = dict(evaluate=do(['evaluate', run, '--device', 'cpu'], self.log)); ends['evaluate']['same'] = self.log.read_text()==right
                ends['load_run'] = do([], self.log, lambda: self.read(run)); ends['load_run']['same'] = ends['load_run']['status']==0
                untouched = content(run)==before
                ends['distill'] = end = do([*WORDS, run], self.log)
                off = differ(self.want, numbers(run)) if end['status']==0 else []
                end['same'] = end['status']==0 and not off
                lost = [f for f in before if not (run/f).is_file()]
                ok = untouched and not lost and all(e['same'] or sentence(e) for e in ends.values())
                row = dict(file=re.sub('-[0-9a-f]{12}', '', name), how=how, at=at, of=n, passed=ok, lost=lost, differs=off, ends=ends)
                if sentence(end):                                 # without the file that is broken the run is made whole again
                    file.unlink(); row['without it'] = again = do([*WORDS, run], self.log)
                    row['passed'] = ok and (again['status']==0 and set(differ(self.want, numbers(run))) <= {'files', name} or sentence(again))
                found.append(row)
        return dict(passed=all(f['passed'] for f in found), ends=found)

    def read(self, run:Path):
        "In a process of its own: the student that is read is the one that was trained; ends there."
        from pcdistill.core import Refused
        try: got = dict(chain.load_run(run, 'cpu').image.state_dict())
        except Refused as e: print(f'pcdistill: {e}'); os._exit(2)
        want = chain.load_run(self.temp/'alone', 'cpu').image.state_dict()
        os._exit(0 if all(torch.equal(got[k], want[k]) for k in want) else 9)

    def two(self) -> dict:
        "Two processes on one folder: the second at another moment each time."
        found = []
        for i, wait in enumerate((0., .02, *(self.dice.uniform(0, self.whole_s) for _ in range(2)))):
            run, logs = self.temp/f'twice{i}', [self.temp/'log0', self.temp/'log1']
            first = begin([*WORDS, run], logs[0]); time.sleep(wait); second = begin([*WORDS, run], logs[1])
            ends = [told(status_of(pid), log) for pid, log in zip((first, second), logs)]
            off = differ(self.want, numbers(run)) if any(e['status']==0 for e in ends) else ['no run ended']
            found.append(dict(second_after_s=round(wait, 2), ends=ends, differs=off,
                              passed=not off and all(e['status']==0 or sentence(e) for e in ends)))
        return dict(passed=all(f['passed'] for f in found), ends=found)

    def clock(self) -> dict:
        "A clock that is set back by a day now and then, and files from the future and the past."
        run, real, calls = self.temp/'clock', time.time, [0]
        def odd(): calls[0] += 1; return real() - 86_400*(calls[0]//3)
        pid = begin([*WORDS, run], self.log, lambda: setattr(time, 'time', odd)); time.sleep(.5*self.whole_s)
        os.kill(pid, signal.SIGKILL); status_of(pid); stage = stage_of(self.log)
        for i, file in enumerate(sorted(run.iterdir())): os.utime(file, (real() + (-1)**i*1e7,)*2)
        end = do([*WORDS, run], self.log, lambda: setattr(time, 'time', odd))
        off = differ(self.want, numbers(run)) if end['status']==0 else [end]
        seconds = load_json(run/'seconds.json')
        return dict(passed=not off and all(0 <= s < 600 for s in seconds.values()), stage=stage, differs=off, stage_seconds=seconds)

    def read_only(self) -> dict:
        "A finished run may be read where nothing may be written; what writes says so."
        found = {}
        with mounted(self.temp/'readonly', 8) as disk:
            shutil.copytree(self.temp/'alone', disk/'run'); (disk/'empty').mkdir(); remount(disk, 'ro')
            before = content(disk/'run')
            found['distill, new'] = new = do([*WORDS, disk/'empty'], self.log)
            found['distill, finished'] = done = do([*WORDS, disk/'run'], self.log)
            found['evaluate'] = evaluated = do(['evaluate', disk/'run', '--device', 'cpu'], self.log)
            found['load_run'] = loaded = do([], self.log, lambda: self.read(disk/'run'))
            found['sample'] = sampled = do(['sample', disk/'run', '-n', 2, '--out', disk/'s.png'], self.log)
            same = content(disk/'run')==before
            ok = same and sentence(new) and (sentence(done) or done['status']==0) and sentence(sampled) and evaluated['status']==loaded['status']==0
            remount(disk, 'rw')
            found['distill, when it may write'] = again = do([*WORDS, disk/'run'], self.log)
            ok = ok and again['status']==0 and not differ(self.want, numbers(disk/'run'))
        return dict(passed=ok, ends=found)

def commit() -> str:
    where = dict(cwd=Path(__file__).parent, capture_output=True, text=True)
    found = subprocess.run(['git', 'describe', '--always', '--dirty'], **where)
    return found.stdout.strip()

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--kills', type=int, default=50, help='in all'); p.add_argument('--ranked', type=int, default=8, help='of them, of ranks')
    p.add_argument('--seed', type=int, default=0); p.add_argument('--out', type=Path); p.add_argument('--only', nargs='*')
    a = p.parse_args(); torch.set_num_threads(1); started = time.monotonic()
    out = dict(version=pcdistill.__version__, commit=commit(), torch=torch.__version__, device='cpu', seed=a.seed, command=' '.join(WORDS[:-1]))
    with tempfile.TemporaryDirectory() as temp:
        soak = Soak(Path(temp), a.seed); out['alone_s'] = round(soak.whole_s, 1)
        faults = dict(killed=lambda: soak.killed(a.kills - a.ranked), ranked=lambda: soak.ranked(a.ranked), full=soak.full, broken=soak.broken,
                      two=soak.two, clock=soak.clock, read_only=soak.read_only)
        for name, fault in faults.items():
            if a.only and name not in a.only: continue
            began = time.monotonic()
            if name in ('full', 'read_only') and os.getuid()!=0: out[name] = dict(passed=None, skipped='only root may mount a small disk')
            else: out[name] = fault()
            out[name]['seconds'] = round(time.monotonic() - began, 1)
            print(name, json.dumps(out[name], indent=1)[:20_000], flush=True)
    out['seconds'] = round(time.monotonic() - started, 1)
    out['passed'] = all(v['passed'] is not False for v in out.values() if isinstance(v, dict))
    if a.out: save_json(a.out, out)
    print(table([(k, str(v['passed']), v['seconds']) for k, v in out.items() if isinstance(v, dict)], ('fault', 'passed', 'seconds')))
    sys.exit(not out['passed'])

if __name__ == '__main__': main()
