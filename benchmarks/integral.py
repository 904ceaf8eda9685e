"""Sum tables from functions on MNIST, beside the published pair: the figures of neighbours/N4_integral.

    PCDISTILL_DATA=… python benchmarks/integral.py                    # two cores, about half an hour
    PCDISTILL_DATA=… python benchmarks/integral.py --only functions   # one of the rows

The functions stand in the notebook, and are taken from there. Quad tree over 28×28 pixels, dense
sums, 64 states (points), batches of 256, ten passes; Adam from .01 to .0005 along a cosine, for the
functions and for the logits of plain tables; EM of the plain tables beside them. Nothing is tuned
per row. The epoch that is best on validation images is scored once on all test images; functions
also on other numbers of points. A killed row goes on at its last epoch (--runs).
Published (cirkit's notebooks, MNIST, quad graph, CP sums, 64 states, 10 epochs): plain 1.255, PIC
1.189. Another structure, another optimizer's settings: a pair beside a pair, not a repetition.
Results: nbs/neighbours/results/integral-mnist.json, after every row.
"""
import argparse, json
from pathlib import Path
import torch
from chain import COMMIT, timed
from returns import HERE as FOLDER, definitions
from pcdistill.circuit import Circuit
from pcdistill.core import bpd, rng
from pcdistill.data import images
from pcdistill.em import fit
from pcdistill.inputs import Categorical
from pcdistill.runs import save_json
from pcdistill.extra.graphs import quad_tree

N, BATCH, EPOCHS, SEED = 64, 256, 10, 0

def bits(pc, x_bd) -> float:
    with torch.no_grad():
        return bpd(pc(x_bd)[:, 0], x_bd.shape[1]).mean().item()

def row(n4, kind, data, ckpt) -> dict:
    tree, train = quad_tree(28, 28), data['train']
    if kind=='functions':
        m = n4['Integral'](tree, 256, rng(SEED))
        pc, rule = m.empty(N), n4['gauss']
        circuit, make = lambda n=N: m.circuit(rule, n), lambda m: torch.optim.Adam(m.parameters())
        log_prob = lambda rows: n4['log_prob'](m, train[rows], rule, N, pc)
    else:
        m = Circuit(tree, Categorical(784, 256, N, rng(SEED)), 1, rng(SEED + 100))
        circuit, make = lambda: m, n4['on_logits'] if kind=='plain, Adam' else None
        log_prob = lambda rows: m(train[rows])[:, 0]
    history = fit(m, log_prob, len(train), rng(SEED), EPOCHS, BATCH, BATCH, make=make, ckpt=ckpt,
                  lr=(1., .05) if make is None else (.01, .0005), pseudocount=.01, dims=784,
                  validate=lambda: -bits(circuit(), data['valid']), desc=kind)
    out = dict(kind=kind, states=N, epochs=EPOCHS, parameters=sum(p.numel() for p in m.parameters()),
               passes=bpd(torch.tensor(history, dtype=torch.float64), 784).tolist(),
               **{s: bits(circuit(), data[s]) for s in ('valid', 'test')})
    if kind=='functions':
        out['at'] = {n: bits(circuit(n), data['test']) for n in (32, 128)}
    return out | dict(commit=COMMIT, threads=torch.get_num_threads())

def rows_of(file:Path) -> dict:
    "Rows that are there."
    return json.loads(file.read_text()) if file.is_file() else {}

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--only', nargs='+', default=['plain, Adam', 'functions', 'plain, EM'])
    p.add_argument('--threads', type=int, default=2)
    p.add_argument('--runs', type=Path, default=Path('runs/integral'))
    p.add_argument('--n', type=int, help='only so many images, to try the script')
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    file, n4 = FOLDER/'results/integral-mnist.json', definitions(FOLDER/'N4_integral.ipynb')
    data = {s: images('mnist', s, a.n).long().flatten(1) for s in ('train', 'valid', 'test')}
    data['valid'] = data['valid'][:1000]
    a.runs.mkdir(parents=True, exist_ok=True)
    for kind in a.only:
        if kind not in rows_of(file):
            made, seconds = timed(row, n4, kind, data, a.runs/f'{kind}.ckpt')
            # read again: another process may have written another row
            save_json(file, rows_of(file) | {kind: made | dict(seconds=seconds)})
            print(kind, made, flush=True)

if __name__=='__main__':
    main()
