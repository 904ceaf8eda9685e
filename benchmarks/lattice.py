"""What the bound in `normals` saves: exact scores on the integers (the chain) by all components of a run's emission, and by those that matter.

    PCDISTILL_DATA=… python benchmarks/lattice.py --run runs/cifar10-best-normals

For all normals of the emission, however nested: processor seconds of the first --images test images, median of three, either way in turn; the largest difference of log Σ_k share_k p(x | k), nats
a row; how many components a row needed. One thread.
"""
import argparse, math, statistics
from pathlib import Path
import torch
from chain import timed
from pcdistill.data import images
from pcdistill.either import Either
from pcdistill.image import load_image
from pcdistill.normals import AT_ONCE, Normals, _chain, _residuals
from pcdistill.runs import load_json
from pcdistill.show import table
from pcdistill.tiles import Tiles

def scores(e, x_xd, behind): # of the chain; components so many nats behind the best get a bound
    residuals, seen_xd = _residuals(e), torch.ones_like(x_xd, dtype=torch.bool)
    parts = zip(*(t.split(max(1, AT_ONCE//e.mu_gd.numel())) for t in (x_xd, seen_xd)))
    return torch.cat([_chain(e, residuals(x), x, seen, behind) for x, seen in parts])

@torch.no_grad()
def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--run', type=Path, required=True, help='folder of a finished run of normals'); p.add_argument('--images', type=int, default=64); a = p.parse_args()
    torch.set_num_threads(1); image, data, rows = load_image(a.run/'student.safetensors'), load_json(a.run/'recipe.json')['data'], []
    y_xd, *_ = image.tiles.pieces(image.rows(images(data, 'test', a.images)))
    def found(e, x_xd, name): # all normals, and the rows they see
        if isinstance(e, Normals): return [(name, e, x_xd[:, e.order])]
        if isinstance(e, Tiles): return found(e.emission, e.pieces(x_xd)[0], f'{name}, {e.n_pieces} pieces')
        assert isinstance(e, Either)
        return sum((found(part, x_xd, name) for part in e.parts), [])
    for name, block, x_xd in found(image.emission, y_xd, 'whole'):
        runs = [(timed(scores, block, x_xd, math.inf), timed(scores, block, x_xd, 40.)) for _ in range(3)]
        (full, _), (near, _) = runs[0]; log_k = block.share_k.log(); gap = ((full + log_k).logsumexp(1) - (near + log_k).logsumexp(1)).abs().max().item()
        all_s, few_s = (statistics.median(r[i][1] for r in runs) for i in (0, 1))
        best = full.gather(1, (full + log_k).argmax(1, keepdim=True))
        rows.append([f'{name}: {block.n_heads} components, {block.n_vars} variables', len(x_xd), f'{all_s:.2f}', f'{few_s:.2f}', f'{all_s/few_s:.1f}' if few_s else '–', f'{gap:.1e}', f'{(full > best - 40).sum(1).float().mean():.0f}'])
    print(table(rows, ['normals', 'rows', 'all, s', 'those that matter, s', 'times faster', 'difference, nats a row', 'components within 40 nats']))

if __name__=='__main__': main()
