"""HMMs of text from random starts and from clusters of embeddings: the figures of neighbours/N1_text.

    python benchmarks/text.py                         # one core, about six minutes when it is quiet
    python benchmarks/text.py --text ptb.txt          # any other text

The method stands in the notebook, and is taken from there: its definitions are this script's
library. Characters and words of the text, three seeds, equal steps of EM for every start. Validation
chooses the epoch; test rows are scored once. Seconds are processor time of one core.
Results: nbs/neighbours/results/text.json (or text-NAME.json), after every seed; rows that are there
are not run again.
"""
import argparse, hashlib, json, platform
from pathlib import Path
import torch
from cells import NEIGHBOURS, definitions
from chain import COMMIT, timed
from pcdistill.core import rng
from pcdistill.runs import save_json

LONGER = {'random, twice as long': 2, 'random, 8 times as long': 8} # times the epochs
ALL = 'random', 'random, twice as long', 'PPMI', 'masked', 'suffix', 'grown'
FEW = 'random', 'random, twice as long', 'suffix', 'grown'
FIRST = (*ALL[:-1], 'random, 8 times as long')
SIZES = dict(characters={64: FIRST, 128: ALL, 256: FEW}, words={64: ALL[:-1], 128: ALL})

def long_rows(x_bd, times=8):
    "Rows that follow each other, as one."
    n = len(x_bd)//times*times
    return x_bd[:n].reshape(-1, times*x_bd.shape[1])

def one(nb, c, kind:str, S:int, seed:int, epochs:int, known:dict, kept:dict) -> dict:
    "A start and its EM. `known`: embeddings by kind; `kept`: the HMMs that larger ones grow from."
    f_bdf, teacher = known.get(kind, (None, 0))
    if kind=='grown':
        pc, start = timed(nb.doubled, kept[S//2], rng(seed))
    else:
        pc, start = timed(nb.started, kind, c, S, seed, f_bdf)
    before = nb.bits(pc, c.test)
    told, em = timed(nb.fine_tuned, pc, c, epochs*LONGER.get(kind, 1), rng(seed))
    if kind=='grown' or kind=='random' and S//2 not in kept:
        kept[S] = pc
    long_bd = long_rows(c.test)
    whole = nb.stretched(pc, long_bd.shape[1])
    return dict(states=S, start=kind, seed=seed, valid=told, before=before, test=nb.bits(pc, c.test),
                long=nb.bits(whole, long_bd), teacher=teacher, clusters=start, em=em, commit=COMMIT)

def embeddings(nb, c, seed:int, lessons:int) -> dict:
    "Kind → embeddings of the training rows, and the seconds they took."
    known = dict(PPMI=timed(nb.beside, c.train, len(c.values)))
    for kind in ('masked', 'suffix'):
        net, seconds = timed(nb.taught, kind, c, lessons, seed)
        f_bdf, more = timed(nb.seen_by, net, c.train)
        known[kind] = f_bdf, round(seconds + more, 1)
    return known

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--text', type=Path)
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--epochs', type=int, default=5)
    p.add_argument('--lessons', type=int, default=3, help='epochs of a teacher')
    a = p.parse_args()
    torch.set_num_threads(1)
    nb = definitions(NEIGHBOURS/'N1_text.ipynb')
    text = a.text.read_text(encoding='utf-8') if a.text else nb.topics()
    out = NEIGHBOURS/'results'/(f'text-{a.text.stem}.json' if a.text else 'text.json')
    done = dict(text=a.text.name if a.text else f'help of Python {platform.python_version()}',
                sha256=hashlib.sha256(text.encode()).hexdigest(), characters=len(text),
                epochs=a.epochs, lessons=a.lessons, seconds='processor time', rows=[])
    if out.exists():
        done = json.loads(out.read_text())
    for data, sizes in SIZES.items():
        c = nb.corpus(list(text) if data=='characters' else nb.words(text))
        size = dict(data=data, values=len(c.values), rows=len(c.train),
                    rare=float((c.test==0).float().mean()))
        for seed in range(a.seeds):
            there = {(r['states'], r['start']) for r in done['rows']
                     if (r['data'], r['seed'])==(data, seed)}
            todo = [(S, k) for S, kinds in sizes.items() for k in kinds if (S, k) not in there]
            told = {'PPMI', 'masked', 'suffix'} & {k for _, k in todo}
            known, kept, rows = embeddings(nb, c, seed, a.lessons) if told else {}, {}, []
            for S, kind in todo:
                row = size | one(nb, c, kind, S, seed, a.epochs, known, kept)
                rows.append(row)
                print(f"{data:10} {S:4} {kind:20} seed {seed}  {row['before']:.3f} to "
                      f"{row['test']:.3f}, long rows {row['long']:.3f}  {row['teacher']:.0f} + "
                      f"{row['clusters']} + {row['em']} s", flush=True)
            done['rows'] += rows
            save_json(out, done)

if __name__=='__main__':
    main()
