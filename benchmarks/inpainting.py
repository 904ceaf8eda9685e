"""What a run knows of hidden pixels, on test images and all masks, beside what knows nothing of
circuits and a circuit without a teacher.

    python benchmarks/inpainting.py --run runs/digits
    PCDISTILL_DATA=… python benchmarks/inpainting.py --run runs/cifar10-small --images 200

For every mask of `inpaint` and the first --images test images:
  bits   −log2 p(hidden | seen) per hidden number (pixels × channels); probabilities of integers
         where `exact` is true. Normals know only densities of patches with holes: −log2 of the
         density at the integers there, `exact` false, not to be compared with probabilities.
  psnr   of the posterior mean on hidden numbers, 10 log10(255²/MSE), MSE pooled over images.
Baselines: the mean of the k nearest training images, by squared distance on the seen pixels, k
chosen on validation images for each mask (PSNR only: it is no distribution); and the run's plain
HCLT (all pixels in one tree, random start, the run's number of parameters), which answers the same
questions by the same code. `seconds` is the time of one image, one mask, four samples, likely
completion and all (median of five), on the threads named.
Results: nbs/experiments/results/inpainting-RUN.json, after every mask; a mask that is there is not
run again.
"""
import argparse, json, math, subprocess, sys, time
from pathlib import Path
from statistics import median
import torch
from pcdistill.chain import load_run
from pcdistill.core import Refused, device, rng
from pcdistill.data import images
from pcdistill.image import Image
from pcdistill.inpainting import MASKS, inpaint, mask
from pcdistill.runs import save_json

ROOT = Path(__file__).parents[1]

def commit() -> str:
    "Of the code that runs."
    asked = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True,
                           cwd=ROOT)
    return asked.stdout.strip()

def nearest(train, x, seen, ks) -> dict:
    "Mean of the k nearest training images on the seen pixels of each image, for every k."
    t, out = train.flatten(1).float(), {k: [] for k in ks}
    for x_b, m_b in zip(x.split(64), seen.split(64)):
        m = m_b[:, None].expand_as(x_b).flatten(1).float()
        far = m @ t.square().T - 2*(x_b.flatten(1).float()*m) @ t.T  # |x|² is the same for all
        near = far.topk(max(ks), largest=False).indices
        for k in ks:
            out[k].append(t[near[:, :k]].mean(1).view(x_b.shape))
    return {k: torch.cat(v) for k, v in out.items()}

def errors(x, mean, seen) -> torch.Tensor:
    "Mean squared error of each image on its hidden numbers."
    hidden = (~seen)[:, None].expand_as(x).flatten(1)
    return ((x.float() - mean).square().flatten(1)*hidden).sum(1).double()/hidden.sum(1)

def quality(se_b) -> dict:
    mse = float(se_b.mean())
    psnr = 10*math.log10(255**2/max(mse, 1e-9))
    return dict(psnr=psnr, mse=mse, mse_stderr=float(se_b.std()/len(se_b)**.5))

def answers(image:Image, x, seen, batch) -> tuple[dict, torch.Tensor]:
    "Bits and errors of a circuit."
    r = inpaint(image, x, seen, 0, rng(0, image.device), batch)
    per_b = math.log(2)*(~seen).sum((1, 2))*x.shape[1]
    bits_b, likely_b = -r.log_hidden_b.double()/per_b, -r.log_likely_b.double()/per_b
    se_b = errors(x, r.mean, seen)
    bits = dict(bits=float(bits_b.mean()), stderr=float(bits_b.std()/len(x)**.5))
    more = dict(exact=bool(r.exact.all()), bits_likely=float(likely_b.mean()))
    return bits | more | quality(se_b), se_b

def gain(own_b, other_b) -> dict:
    "What the student saves in squared error, image by image."
    saved_b = other_b - own_b
    return dict(mse_saved=float(saved_b.mean()), stderr=float(saved_b.std()/len(saved_b)**.5),
                better=float((saved_b > 0).double().mean()))

def seconds(image:Image, x, seen) -> float:
    "Median time of one image and mask."
    def once():
        start = time.perf_counter()
        inpaint(image, x[:1], seen[:1], 4, rng(0, image.device))
        if image.device.type=='cuda':
            torch.cuda.synchronize()
        return time.perf_counter()-start
    once()
    return median(once() for _ in range(5))

def measure(image:Image, plain:Image, name, splits, ks, batch) -> dict:
    "One mask."
    train, valid, test = splits
    seen_v, seen = (mask(name, len(x), *image.shape[1:], rng(s)).to(image.device)
                    for x, s in ((valid, 1), (test, 2)))
    guesses = nearest(train, valid, seen_v, ks)
    k = min(ks, key=lambda k: float(errors(valid, guesses[k], seen_v).mean()))
    se_k = errors(test, nearest(train, test, seen, [k])[k], seen)
    own, se_own = answers(image, test, seen, batch)
    hclt, se_hclt = answers(plain, test, seen, batch)
    own['seconds'] = seconds(image, test, seen)
    return dict(hidden=float((~seen).double().mean()), student=own, plain_hclt=hclt,
                neighbours=dict(k=k, **quality(se_k)),
                against=dict(plain_hclt=gain(se_own, se_hclt), neighbours=gain(se_own, se_k)))

def told(name, r) -> str:
    own, hclt, near = r['student'], r['plain_hclt'], r['neighbours']
    density = '' if own['exact'] else ' (density)'
    return (f"{name:9} student {own['bits']:.3f} bits{density} {own['psnr']:.2f} dB   "
            f"plain HCLT {hclt['bits']:.3f} bits {hclt['psnr']:.2f} dB   "
            f"{near['k']} nearest {near['psnr']:.2f} dB   {own['seconds']:.2f} s a mask")

def asked():
    p = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    p.add_argument('--run', type=Path, required=True, help='folder of a finished run')
    p.add_argument('--images', type=int, default=200)
    p.add_argument('--batch', type=int, default=50)
    p.add_argument('--train', type=int, default=20_000, help='images among which neighbours are')
    p.add_argument('--ks', type=int, nargs='*', default=[1, 3, 10, 30, 100])
    p.add_argument('--masks', nargs='*', default=list(MASKS))
    p.add_argument('--device')
    p.add_argument('--threads', type=int)
    p.add_argument('--out', type=Path)
    return p.parse_args()

def main():
    a = asked()
    if a.threads:
        torch.set_num_threads(a.threads)
    dev = device(a.device)
    run = load_run(a.run, dev)
    image, data = run.image, run.recipe.data
    sizes = dict(train=a.train, valid=a.images, test=a.images)
    splits = [images(data, s, n).to(dev) for s, n in sizes.items()]
    out = a.out or ROOT/f'nbs/experiments/results/inpainting-{a.run.name}.json'
    n_params, ks = image.n_params, [k for k in a.ks if k <= len(splits[0])]
    plain = run.plain()
    done = json.loads(out.read_text()) if out.exists() else dict(
        data=data, run=a.run.name, family=run.recipe.family, shape=list(image.shape),
        n_params=n_params, images={s: len(x) for s, x in zip(sizes, splits)},
        device=str(dev) if dev.type=='cpu' else torch.cuda.get_device_name(dev),
        threads=torch.get_num_threads(), commit=commit(), masks={},
        plain_hclt=dict(n_params=plain.n_params))
    for name in a.masks:
        if name not in done['masks']:
            done['masks'][name] = measure(image, plain, name, splits, ks, a.batch)
            save_json(out, done)
            print(told(name, done['masks'][name]), flush=True)

if __name__=='__main__':
    try:
        main()
    except Refused as e:
        sys.exit(f'inpainting: {e}')
