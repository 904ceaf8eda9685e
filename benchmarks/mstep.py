"""What it saves to take an M-step some shapes at a time (see `normals`): Gram matrices that stay in the cache, against all at once.

    python benchmarks/mstep.py

Normals of the sizes of the preset best, counts of 4,000 random rows; processor seconds of one M-step, median of three, either way in turn; the largest difference of a scale's logarithm. One thread.
"""
import copy, statistics
import torch
import pcdistill.normals as normals
from chain import timed
from pcdistill.core import rng
from pcdistill.show import table

SIZES = [('16×16', 64, 2, 768), ('16×8', 256, 8, 384), ('8×8', 1024, 64, 192), ('8×4', 512, 32, 96)] # name, components, shapes, variables

def counted(K, G, D): # normals with counts
    g = rng(0); b = normals.Normals(K, D, shapes=G); few = torch.randint(K, (4000,), generator=g)
    b.accumulate(128 + 20*torch.randn(4000, D, generator=g), torch.nn.functional.one_hot(few, K).float())
    return b

def step(b, count, at_once:int):
    normals.AT_ONCE, b.count = at_once, count.clone()
    b.em_step_(.3)
    return b

def main():
    torch.set_num_threads(1); ours, rows = normals.AT_ONCE, []
    for name, *size in SIZES:
        b = counted(*size); count, b.count = b.count, None
        runs = [(timed(step, copy.deepcopy(b), count, 1 << 60), timed(step, copy.deepcopy(b), count, ours)) for _ in range(3)]
        (whole, _), (parts, _) = runs[0]; whole_s, parts_s = (statistics.median(r[i][1] for r in runs) for i in (0, 1))
        rows.append([f'{name}: {size[0]} components of {size[1]} shapes', f'{whole_s:.2f}', f'{parts_s:.2f}', f'{whole_s/parts_s:.1f}', f'{(whole.logs_kd - parts.logs_kd).abs().max():.0e}'])
    print(table(rows, ['normals', 'all at once, s', 'some at a time, s', 'times faster', 'difference of log s']))

if __name__=='__main__': main()
