"""What the bound of 36 saves: exact scores on the integers by all components of a run's leaf, and by those that matter.

    PCDISTILL_DATA=… python benchmarks/lattice.py --run runs/cifar10-best-gaussian

For every Gaussian block of the leaf: processor seconds of the first --images test images, median of three, either way in turn; the largest difference of log Σ_k mass_k p(x | k), nats
a row; how many components a row needed. One thread.
"""
import argparse, statistics
from pathlib import Path
import torch
from chain import timed
from pcdistill.blocks import GaussianBlock, _chunked, _lattice, _near
from pcdistill.chain import load_run
from pcdistill.data import images
from pcdistill.cuts import Cut
from pcdistill.show import table

@torch.no_grad()
def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--run', type=Path, required=True, help='folder of a finished run with Gaussian leaves'); p.add_argument('--images', type=int, default=64); a = p.parse_args()
    torch.set_num_threads(1); joint, recipe = load_run(a.run, 'cpu'); y_xd, _ = joint.rows(images(recipe.data, 'test', a.images)); leaf, rows = joint.leaf, []
    def blocks(leaf, x_xd, name): # every block, and the rows it sees
        if not isinstance(leaf, Cut): return [(name, leaf, x_xd)]
        return sum((blocks(w.leaf, w.cut(x_xd), f'{name}, {how}') for how, w in leaf.ways.items()), [(name, leaf.whole, x_xd[:, leaf.order])])
    for name, block, x_xd in blocks(leaf, y_xd, 'whole'):
        assert isinstance(block, GaussianBlock)
        runs = [(timed(_chunked, _lattice, block, x_xd, elements=1<<20), timed(_chunked, _near, block, x_xd, elements=1<<22)) for _ in range(3)]
        (full, _), (near, _) = runs[0]; log_k = block.mass_k.log(); gap = ((full + log_k).logsumexp(1) - (near + log_k).logsumexp(1)).abs().max().item()
        all_s, few_s = (statistics.median(r[i][1] for r in runs) for i in (0, 1))
        best = full.gather(1, (full + log_k).argmax(1, keepdim=True))
        rows.append([f'{name}: {block.n_heads} components, {block.n_vars} variables', len(x_xd), f'{all_s:.2f}', f'{few_s:.2f}', f'{all_s/few_s:.1f}', f'{gap:.1e}', f'{(full > best - 40).sum(1).float().mean():.0f}'])
    print(table(rows, ['block', 'rows', 'all, s', 'those that matter, s', 'times faster', 'difference, nats a row', 'components within 40 nats']))

if __name__=='__main__': main()
