"""A circuit over innovations on whole images of CIFAR-10: how many normals a cell should have, chosen
on validation images, and what all test images cost.

    PCDISTILL_DATA=… python benchmarks/innovations.py       # one core, about an hour; goes on where it was

For each --K: seconds of fitting on all training images and their mirror images, exact bits/dim of the
first 500 validation images (probabilities of integers) and the density's, dequantised. The K with the
fewest bits there is scored on the test images, once.
Results: nbs/experiments/results/innovations-cifar10.json, after every row; models in --runs.
"""
import argparse, json, math, time
from pathlib import Path
import torch
from chain import COMMIT, RESULTS
from pcdistill.core import bpd, rng
from pcdistill.data import images
from pcdistill.extra.innovations import Asked, InnovationsConfig, dequantised, fit_innovations
from pcdistill.inpainting import load_completer
from pcdistill.runs import save, save_json

def scored(model, x) -> dict:
    "Bits/dim with nothing seen, in both meanings."
    nothing, mass, density = torch.zeros(x.shape[2:], dtype=torch.bool), [], []
    for part in x.split(50):
        asked = Asked(model, part, nothing)
        mass.append(asked.log_mass())
        density.append(asked.log_prob(dequantised(asked.x_bd, rng(1))))
    bits_b, smooth_b = (bpd(torch.cat(t), x[0].numel()) for t in (mass, density))
    return dict(n_images=len(x), bits=float(bits_b.mean()),
                stderr=float(bits_b.std()/len(x)**.5), density=float(smooth_b.mean()))

def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    p.add_argument('--K', type=int, nargs='*', default=[64, 128, 256])
    p.add_argument('--runs', type=Path, default=Path('runs/innovations'))
    p.add_argument('--out', type=Path, default=RESULTS/'innovations-cifar10.json')
    a = p.parse_args()
    torch.set_num_threads(1)
    a.runs.mkdir(parents=True, exist_ok=True)
    train, valid = images('cifar10', 'train'), images('cifar10', 'valid')
    done = json.loads(a.out.read_text()) if a.out.is_file() else dict(
        data='cifar10', commit=COMMIT, n_train=len(train), rows={})
    for K in a.K:
        file, start = a.runs/f'c{K}.safetensors', time.monotonic()
        if not file.is_file():
            config = InnovationsConfig(K=K, n_fit=len(train), mirror=True)
            model = fit_innovations(train, valid, config, rng(0), file.with_suffix('.ckpt'))
            save(file, *model.state())
            done['rows'][str(K)] = dict(seconds=round(time.monotonic() - start))
        row = done['rows'].setdefault(str(K), {})
        if 'valid' not in row:
            model = load_completer(file)
            row |= dict(n_params=sum(t.numel() for t in model.parameters()) + model.mu_d.numel()
                        + model.mu_d.numel()*(model.mu_d.numel() + 1)//2)
            row['valid'] = scored(model, valid[:500])
            save_json(a.out, done)
            print(K, row, flush=True)
    best = min(done['rows'], key=lambda K: done['rows'][K]['valid']['bits'])
    if 'test' not in done:
        model = load_completer(a.runs/f'c{best}.safetensors')
        done |= dict(K=int(best), test=scored(model, images('cifar10', 'test')))
        save_json(a.out, done)
    print(done['K'], done['test'])

if __name__=='__main__':
    main()
