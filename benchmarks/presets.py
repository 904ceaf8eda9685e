"""Does a preset choose its teacher and its number of latents by the rule? The preset's own chain, with
others in their place: bits and completions of validation images.

    python benchmarks/presets.py        # one core, embedded data; goes on where it stopped

The recipe is the preset's; only `teacher` and `clusters` differ. No test image is looked at. What was
run so far:
  --data digits --families trees
  --data photos --families normals --teachers vqvae --clusters 16 32, and --teachers pixels --clusters 16
  --preset small --data fashion_mnist cifar10 --families trees --teachers vqvae --clusters 64 128 256
  --preset small --data fashion_mnist --families trees --teachers pixels; and mae, with --clusters 128
  --preset small --data cifar10 --families trees --teachers pixels --clusters 128
On a busy core a row of Fashion-MNIST takes two to four minutes, one of CIFAR-10 ten; of mae, sixteen.
  bits     exact bits/dim of whole validation images, of the student after fine-tuning
  psnr     of the posterior mean on hidden values, dB, the mean over masks; by mask too
  apart    paired differences to the preset's own row, image by image, with standard errors; in dB
           that of the squared error relative to the mean one of the preset's row
Results: nbs/experiments/results/presets-PRESET.json, after every row. E02 shows them, and asserts that
the presets are what the rule gives, or not clearly worse.
"""
import argparse, json, math
from pathlib import Path
import torch
from chain import COMMIT, RESULTS, timed
from pcdistill.chain import Run
from pcdistill.core import bpd, rng
from pcdistill.data import images
from pcdistill.evaluate import mean_bits, score
from pcdistill.inpainting import MASKS, inpaint
from pcdistill.recipes import recipe
from pcdistill.runs import save_json

ASKED = 'left', 'centre', 'strips'

def student(r, folder):
    "The student of a recipe; nothing is scored."
    run = Run(r, folder, 'cpu', False)
    for fit in (run.teacher, run.latents, run.start, run.student):
        fit()
    return run.student()

@torch.no_grad()
def answers(image, x) -> dict:
    "Of every image: bits/dim, and the squared error of the mean where hidden, for each mask."
    out = dict(bits=bpd(score(image, x, 64, False), x[0].numel()).double())
    for name in ASKED:
        seen_hw = MASKS[name](*x.shape[2:], rng(0))
        mean = inpaint(image, x, seen_hw, 0).mean.clamp(0, 255)
        off = (mean - x.float())[:, :, ~seen_hw]
        out[name] = off.square().flatten(1).mean(1).double()
    return out | dict(psnr=torch.stack([out[name] for name in ASKED]).mean(0))

def told_of(answer, against) -> dict:
    "Means, and paired differences to another's."
    def decibels(v_b):
        return 10*math.log10(255**2/float(v_b.mean()))
    out = {k: float(v.mean()) if k=='bits' else decibels(v) for k, v in answer.items()}
    scale = {k: 1 if k=='bits' else 10/math.log(10)/float(against[k].mean()) for k in answer}
    apart = {k: mean_bits(v - against[k]) for k, v in answer.items()}
    sign = {k: 1 if k=='bits' else -1 for k in answer}
    return out | dict(apart={k: dict(mean=sign[k]*e.bits*scale[k], stderr=e.stderr*scale[k])
                             for k, e in apart.items()})

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--preset', default='tiny')
    p.add_argument('--data', nargs='+', default=['digits', 'photos'])
    p.add_argument('--families', nargs='+', default=['trees', 'normals'])
    p.add_argument('--teachers', nargs='+', default=['vqvae', 'mae', 'pixels'])
    p.add_argument('--clusters', nargs='+', type=int, default=[16, 32, 64])
    p.add_argument('--valid', type=int, default=200)
    p.add_argument('--seeds', type=int, default=1)
    p.add_argument('--runs', type=Path, default=Path('runs/presets'))
    a = p.parse_args()
    torch.set_num_threads(1)
    file = RESULTS/f'presets-{a.preset}.json'
    done = json.loads(file.read_text()) if file.is_file() else dict(
        preset=a.preset, valid=a.valid, masks=ASKED, rows=[])
    for seed, data, family in ((s, d, f) for d in a.data for f in a.families
                               for s in range(a.seeds)):
        own, answer = recipe(data, a.preset, family), {}
        x = images(data, 'valid', a.valid)
        ways = [(t, K) for t in a.teachers for K in a.clusters]
        for teacher, K in sorted(ways, key=lambda w: w!=(own.teacher, own.clusters)):
            told = dict(data=data, family=family, teacher=teacher, clusters=K, seed=seed)
            kept = a.runs/f'{a.preset}-{data}-{family}-{teacher}-{K}-{seed}'
            if any(told.items() <= r.items() for r in done['rows']):
                continue
            r = recipe(data, a.preset, family, teacher=teacher, clusters=K, seed=seed,
                       autoregressive=False)
            image, seconds = timed(student, r, kept)
            answer = answers(image, x)
            torch.save(answer, kept/'answer.pt')
            others = a.runs/f'{a.preset}-{data}-{family}-{own.teacher}-{own.clusters}-{seed}'
            told |= told_of(answer, torch.load(others/'answer.pt'))
            done['rows'].append(told | dict(heads=image.emission.n_heads, n_params=image.n_params,
                                            seconds=seconds, commit=COMMIT))
            save_json(file, done)
            print(data, family, teacher, K, f"{told['bits']:.4f} {told['psnr']:.2f} dB",
                  f'{seconds:.0f} s', flush=True)

if __name__=='__main__':
    main()
