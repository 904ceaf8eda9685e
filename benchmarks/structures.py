"""What a structure and a kind of sum are worth in exact bits/dim: all trained alike on the same images.

    PCDISTILL_DATA=… python benchmarks/structures.py --data fashion_mnist                      # two cores, an hour
    PCDISTILL_DATA=… python benchmarks/structures.py --data fashion_mnist --preset full        # one large GPU

Every row: mini-batch EM (step from 1 to .05 along a cosine, 1,000 images a step), Categorical(256) inputs, random start. The epoch that
is best on validation images is kept and scored once on all test images. Nothing is tuned per row. Results go to
nbs/experiments/results/structures-DATA-PRESET.json after every row; rows that are there are not run again, a killed row goes on at its last epoch.
E06 shows the table.
"""
import argparse, json, math, time
from pathlib import Path
from typing import NamedTuple
import torch
from chain import COMMIT
from cells import EXTRA, definitions
from pcdistill.circuit import Circuit
from pcdistill.core import device, rng
from pcdistill.data import images
from pcdistill.em import fit
from pcdistill.inputs import Categorical
from pcdistill.runs import save_json
from pcdistill.structure import Tree, chain, chow_liu, mutual_information

graphs, sums = definitions(EXTRA/'graphs.ipynb'), definitions(EXTRA/'sums.ipynb')
SUMS = dict(dense=lambda structure: structure, cp=sums.cp, monarch=sums.monarch, tucker=sums.tucker)

class Row(NamedTuple):
    "A circuit to train."
    structure:str
    states:int
    sums:str='dense'
    option:int=0       # cell side of poon_domingos and quad_graph, repeats of rat
    @property
    def name(self): return f"{self.structure}{f' {self.option}' if self.option else ''}, {self.sums}, {self.states} states"

def build(row:Row, x_bd, side:int=28) -> Tree|graphs.RegionGraph:
    "The structure of a row; only the Chow-Liu tree looks at the data."
    d = side*side
    return {'independent': lambda: Tree((-1,), (0,)*d), 'one mixture': lambda: Tree((-1,), (0,)*d), 'HMM': lambda: chain(d),
            'HCLT': lambda: chow_liu(mutual_information(x_bd[:10_000])), 'quad tree': lambda: graphs.quad_tree(side, side),
            'quad graph': lambda: graphs.quad_graph(side, side, row.option), 'PD': lambda: graphs.poon_domingos(side, side, row.option),
            'RAT': lambda: graphs.rat(d, 4, row.option, rng(0))}[row.structure]()

CPU = [Row('HCLT', 32), Row('PD', 32, 'dense', 7), Row('HCLT', 64, 'monarch'), Row('quad tree', 32), Row('PD', 8, 'tucker', 7), Row('RAT', 16, 'dense', 4),
       Row('PD', 32, 'cp', 7), Row('quad graph', 16, 'dense', 1), Row('PD', 32, 'dense', 4), Row('RAT', 8, 'tucker', 4), Row('independent', 1), Row('one mixture', 64),
       Row('HCLT', 64), Row('quad graph', 16, 'cp', 1), Row('HMM', 32), Row('quad graph', 32, 'dense', 1)]
FULL = [Row('HCLT', 256), Row('HCLT', 512), Row('HCLT', 1024, 'monarch'), Row('quad graph', 128, 'dense', 1), Row('PD', 128, 'dense', 4), Row('PD', 64, 'dense', 2),
        Row('PD', 32, 'tucker', 4), Row('RAT', 32, 'tucker', 20), Row('quad tree', 256), Row('HMM', 256)]
PRESETS = {'cpu': (CPU, 8), 'full': (FULL, 40), 'smoke': ([Row('HCLT', 4), Row('PD', 4, 'tucker', 7)], 1)}

def train(row:Row, x_bd, valid_bd, test_bd, epochs:int, micro:int, ckpt:Path, dev) -> dict:
    "Train and score one row."
    start, busy = time.perf_counter(), time.process_time(); structure = SUMS[row.sums](build(row, x_bd))
    made = Circuit if isinstance(structure, Tree) else graphs.GraphCircuit
    pc = made(structure, Categorical(x_bd.shape[1]*(row.option if row.structure=='RAT' else 1), 256, row.states, rng(0)), 1, rng(1)).to(dev)
    lp = lambda y: torch.cat([pc(r.to(dev)).detach()[:, 0].double().cpu() for r in y.split(micro)])
    bits = lambda lp_b: -lp_b/math.log(2)/x_bd.shape[1]
    rows = lambda i: pc(x_bd[i].to(dev))[:, 0]
    history = fit(pc, rows, len(x_bd), rng(2), epochs, 1000, micro, (1., .05), .1, ckpt, True, row.name, lambda: lp(valid_bd).mean())
    seconds, busy = time.perf_counter() - start, time.process_time() - busy; test_b = bits(lp(test_bd))
    return dict(row._asdict(), name=row.name, parameters=sum(p.numel() for p in pc.parameters()), sum_parameters=sum(p.numel() for p in pc.parameters(recurse=False)),
                train=-history[-1]/math.log(2)/x_bd.shape[1], valid=float(bits(lp(valid_bd)).mean()), test=float(test_b.mean()), stderr=float(test_b.std()/len(test_b)**.5), seconds=seconds, cpu_seconds=busy, epochs=epochs)

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--data', default='fashion_mnist', help='a data set of 28×28 grey images')
    p.add_argument('--preset', default='cpu', choices=PRESETS)
    p.add_argument('--rows', type=int, help='only the first so many rows')
    p.add_argument('--only', nargs='+', help='only rows whose name begins so')
    p.add_argument('--images', type=int, help='only so many training images')
    p.add_argument('--micro', type=int, default=500, help='images at a time in memory')
    p.add_argument('--minutes', type=float, default=math.inf, help='no row begins after that')
    p.add_argument('--device', default=None, help="'cpu' or 'cuda'")
    p.add_argument('--out', type=Path, help='results file')
    a = p.parse_args(); dev, start = device(a.device), time.perf_counter()
    out = a.out or Path(__file__).parents[1]/f'nbs/experiments/results/structures-{a.data}-{a.preset}.json'
    x_bd, valid_bd, test_bd = (images(a.data, s).flatten(1).long() for s in ('train', 'valid', 'test'))
    x_bd, valid_bd = x_bd[:a.images], valid_bd[:2000]
    done = json.loads(out.read_text()) if out.exists() else dict(data=a.data, preset=a.preset, rows=[], images=dict(train=len(x_bd), valid=len(valid_bd), test=len(test_bd)))
    for row in PRESETS[a.preset][0][:a.rows]:
        if (a.only and not row.name.startswith(tuple(a.only))) or any(r['name']==row.name for r in done['rows']) or time.perf_counter()-start > 60*a.minutes: continue
        ckpt = Path('runs')/f'{out.stem}-{row.name}.ckpt'.replace(' ', '-').replace(',', ''); ckpt.parent.mkdir(exist_ok=True)
        r = train(row, x_bd, valid_bd, test_bd, PRESETS[a.preset][1], a.micro, ckpt, dev)
        r |= dict(device=torch.cuda.get_device_name(dev) if dev.type=='cuda' else f'CPU, {torch.get_num_threads()} threads', commit=COMMIT)
        done['rows'].append(r); save_json(out, done); ckpt.unlink(missing_ok=True)
        print(f"{r['name']:32} {r['parameters']/1e6:6.2f} M  train {r['train']:.3f}  valid {r['valid']:.3f}  test {r['test']:.3f} ± {r['stderr']:.3f}  {r['seconds']:.0f} s", flush=True)

if __name__=='__main__': main()
