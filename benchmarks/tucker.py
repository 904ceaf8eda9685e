"""Tucker sums compressed to CP on MNIST, beside the published pair: for neighbours/N6_tucker.

    PCDISTILL_DATA=… python benchmarks/tucker.py        # one core, about two hours
    PCDISTILL_DATA=… python benchmarks/tucker.py --states 32 --passes 20 --device cuda

The method stands in the notebook, and is taken from there. Quad graph over 28×28 pixels, one seed,
starts sharpened as validation chose on digits (--sharp). EM in batches of 250 from step 1 to a
twentieth of it; what is trained on begins with each of STEPS. All get --passes passes from where they
start; those from scratch twice as many, and `Tucker, more` has them in all, since the fine-tuned ones
have. The pass that is best on 1,000 validation images, the start included, is scored once on all test
images. A killed row goes on at its last pass (--runs).
  less     test bits/dim of this row less those of every other: mean over images, its standard error
Published (Loconte et al., arXiv 2409.07953): Tucker of 32 states 1.2229, CP after it 1.2104.
Results: nbs/neighbours/results/tucker-mnist.json, after every row; rows there are not run again.
"""
import argparse, copy, json
from pathlib import Path
import torch
from cells import EXTRA, NEIGHBOURS, definitions
from chain import COMMIT, timed
from pcdistill.core import bpd, rng
from pcdistill.data import images
from pcdistill.em import fit
from pcdistill.evaluate import mean_bits
from pcdistill.inputs import Categorical
from pcdistill.runs import save_json

graphs = definitions(EXTRA/'graphs.ipynb')
sums = definitions(EXTRA/'sums.ipynb')
BATCH, SEED, STEPS = 250, 0, (1., .1)

@torch.no_grad()
def bits(pc, x_bd):
    "Bits/dim of every image."
    return torch.cat([bpd(pc(x)[:, 0], 784).cpu() for x in x_bd.split(BATCH)])

def used(n6, pc, x_bd) -> dict:
    "Expected count of every weight on images, by the name of its table."
    parts = [n6.counted(pc, x) for x in x_bd.split(BATCH)]
    return {name: sum(p[name] for p in parts) for name in parts[0]}

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--states', type=int, default=16)
    p.add_argument('--ranks', type=int, nargs='+', default=[16, 8])
    p.add_argument('--passes', type=int, default=6)
    p.add_argument('--sharp', type=float, default=.1)
    p.add_argument('--device', default='cpu')
    p.add_argument('--threads', type=int, default=1)
    p.add_argument('--runs', type=Path, default=Path('runs/tucker'))
    p.add_argument('--n', type=int, help='only so many images, to try the script')
    p.add_argument('--out', type=Path, default=NEIGHBOURS/'results/tucker-mnist.json')
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    n6, graph = definitions(NEIGHBOURS/'N6_tucker.ipynb'), sums.tucker(graphs.quad_graph(28, 28))
    data = {s: images('mnist', s, a.n).long().flatten(1).to(a.device)
            for s in ('train', 'valid', 'test')}
    train, valid = data['train'], data['valid'][:1000]
    a.runs.mkdir(parents=True, exist_ok=True)
    done = json.loads(a.out.read_text()) if a.out.is_file() else dict(
        states=a.states, passes=a.passes, sharp=a.sharp, published=dict(tucker=1.2229, cp=1.2104),
        rows={})
    rows = done['rows']

    def scratch(g):
        pc = graphs.GraphCircuit(g, Categorical(784, 256, a.states, rng(SEED)), 1, rng(SEED + 100))
        return n6.sharpened(pc, a.sharp).to(a.device)

    def trained(pc, name, passes, step=1.):
        fit(pc, lambda rows: pc(train[rows])[:, 0], len(train), rng(SEED), passes, BATCH, BATCH,
            lr=(step, step/20), pseudocount=.01, dims=784, ckpt=a.runs/f'{name}.ckpt', desc=name,
            validate=lambda: -bits(pc, valid).mean().item())
        return pc

    def load(name):
        "Make and parameters of its circuit, and the bits of every test image."
        return torch.load(a.runs/f'{name}.pt')

    def row(name, make):
        "The circuit of a name, made where it is not yet, and its row."
        file = a.runs/f'{name}.pt'
        if name not in rows or not file.is_file():
            pc, seconds = timed(make)
            test_b = bits(pc, data['test'])
            rows[name] = dict(valid=bits(pc, valid).mean().item(), test=test_b.mean().item(),
                              parameters=sum(p.numel() for p in pc.parameters()),
                              seconds=seconds, commit=COMMIT, device=a.device)
            torch.save((pc.spec(), pc.state_dict(), test_b), file)
            test = {n: load(n)[2] for n in rows}
            less = {n: {o: mean_bits(test[n] - test[o]) for o in rows if o!=n} for n in rows}
            for n, of in less.items():
                rows[n]['less'] = {o: (gap.bits, gap.stderr) for o, gap in of.items()}
            save_json(a.out, done)
            print(name, rows[name], flush=True)
        spec, state, _ = load(name)
        pc = graphs.GraphCircuit.from_spec(spec).to(a.device)
        pc.load_state_dict(state)
        return pc

    big, use = row('Tucker', lambda: trained(scratch(graph), 'Tucker', a.passes)), None
    for rank in a.ranks:
        g = n6.with_rank(graph, rank) # makes its kind of sums known
        if f'compressed {rank}' not in rows:
            use = use or used(n6, big, train[:10_000])
        small = row(f'compressed {rank}', lambda: n6.compressed(big, rank, rng(SEED), use))
        for step in STEPS:
            name = f'fine-tuned {rank}, step {step:g}'
            row(name, lambda: trained(copy.deepcopy(small), name, a.passes, step))
    for step in STEPS:
        name = f'Tucker, more, step {step:g}'
        row(name, lambda: trained(copy.deepcopy(big), name, a.passes, step))
    for rank in a.ranks:
        name, g = f'from scratch {rank}', n6.with_rank(graph, rank)
        row(name, lambda: trained(scratch(g), name, 2*a.passes))

if __name__=='__main__':
    main()
