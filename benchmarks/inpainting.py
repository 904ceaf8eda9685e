"""What a run knows of hidden pixels, on test images and all masks, beside what knows nothing of circuits and a circuit without a teacher.

    python benchmarks/inpainting.py --run runs/digits
    PCDISTILL_DATA=… python benchmarks/inpainting.py --run runs/cifar10-small-hclt --images 200

For every mask of `inpaint` and the first --images test images:
  bits       −log2 p(hidden | seen) per hidden number (pixels × channels), exact probabilities of integers where `exact` is true. Normals know
             densities only of patches with holes: −log2 of the density at the integers there, `exact` false, not to be compared with probabilities.
  psnr       of the posterior mean on hidden numbers, 10 log10(255²/MSE), MSE pooled over images.
Baselines: the mean of the k nearest training images, by squared distance on the seen pixels, k chosen on validation images for each mask (PSNR only: it is no
distribution); and the plain HCLT (see `evaluate`: all pixels in one tree, random start, the run's number of parameters), which answers the same questions by the same code.
`seconds` is the time of one image, one mask, four samples, likely completion and all (median of five), on the threads named.
Results: nbs/experiments/results/inpainting-RUN.json, after every mask; masks that are there are not run again. The plain HCLT is kept in the run's folder.
"""
import argparse, json, math, sys, time
from pathlib import Path
import torch
from chain import COMMIT
from pcdistill.colour import COLOURS
from pcdistill.core import Refused, device, rng
from pcdistill.data import images
from pcdistill.evaluate import fit_plain_hclt
from pcdistill.image import Image, image_from_state, image_state, load_image
from pcdistill.inpaint import MASKS, inpaint, mask
from pcdistill.runs import cached, load_json, save_json

def plain_hclt(run:Path, data:str, shape:tuple, n_params:int, epochs:int, dev) -> Image:
    "The plain HCLT: a circuit of whole images, so it answers the same questions."
    colour = COLOURS['ycocg_r' if shape[0]==3 else 'rgb']
    def work():
        ckpt = run/'.plain-hclt.ckpt'
        model = fit_plain_hclt(images(data, 'train').to(dev), colour, n_params, rng(6), valid_x=images(data, 'valid', 1000).to(dev), epochs=epochs, ckpt=ckpt)
        ckpt.unlink(missing_ok=True); return image_state(model)
    return image_from_state(*cached(run, 'plain-hclt', [data, n_params, epochs], work)).to(dev)

def nearest(train, x, seen, ks) -> dict:
    "Mean of the k nearest training images on the seen pixels of each image, for every k."
    t, out = train.flatten(1).float(), {k: [] for k in ks}; t2 = t.square()
    for x_b, m_b in zip(x.split(64), seen.split(64)):
        m = m_b[:, None].expand_as(x_b).flatten(1).float(); far = m @ t2.T - 2*(x_b.flatten(1).float()*m) @ t.T      # |x|² is the same for all
        near = far.topk(max(ks), largest=False).indices
        for k in ks: out[k].append(t[near[:, :k]].mean(1).view(x_b.shape))
    return {k: torch.cat(v) for k, v in out.items()}

def errors(x, mean, seen) -> torch.Tensor:
    "Mean squared error of each image on its hidden numbers."
    hidden = (~seen)[:, None].expand_as(x).flatten(1)
    return ((x.float() - mean).square().flatten(1)*hidden).sum(1).double()/hidden.sum(1)

def quality(se_b) -> dict: return dict(psnr=10*math.log10(255**2/max(float(se_b.mean()), 1e-9)), mse=float(se_b.mean()), mse_stderr=float(se_b.std()/len(se_b)**.5))

def answers(image, x, seen, batch) -> tuple[dict, torch.Tensor]:
    "Bits and errors of a circuit."
    r = inpaint(image, x, seen, 0, rng(0, image.device), batch)
    bits_b = -r.log_hidden_b.double()/math.log(2)/((~seen).sum((1, 2))*x.shape[1])
    likely_b = -r.log_likely_b.double()/math.log(2)/((~seen).sum((1, 2))*x.shape[1]); se_b = errors(x, r.mean, seen)
    return dict(bits=float(bits_b.mean()), stderr=float(bits_b.std()/len(x)**.5), exact=bool(r.exact.all()), bits_likely=float(likely_b.mean()), **quality(se_b)), se_b

def seconds(image, x, seen) -> float:
    "Median time of one image and mask."
    def once():
        start = time.perf_counter(); inpaint(image, x[:1], seen[:1], 4, rng(0, image.device))
        if image.device.type=='cuda': torch.cuda.synchronize()
        return time.perf_counter()-start
    once(); return sorted(once() for _ in range(5))[2]

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--run', type=Path, required=True, help='folder of a finished run'); p.add_argument('--images', type=int, default=200); p.add_argument('--batch', type=int, default=50)
    p.add_argument('--train', type=int, default=20_000, help='training images among which neighbours are looked for'); p.add_argument('--ks', type=int, nargs='*', default=[1, 3, 10, 30, 100])
    p.add_argument('--epochs', type=int, default=10, help='of the plain HCLT'); p.add_argument('--masks', nargs='*', default=list(MASKS)); p.add_argument('--device'); p.add_argument('--threads', type=int); p.add_argument('--out', type=Path)
    a = p.parse_args(); dev = device(a.device)
    if a.threads: torch.set_num_threads(a.threads)
    image, data = load_image(a.run/'student.safetensors', dev), load_json(a.run/'recipe.json')['data']
    train, valid, test = (images(data, s, n).to(dev) for s, n in (('train', a.train), ('valid', a.images), ('test', a.images)))
    out = a.out or Path(__file__).parents[1]/f'nbs/experiments/results/inpainting-{a.run.name}.json'
    n_params, ks = sum(q.numel() for q in image.parameters()), [k for k in a.ks if k <= len(train)]
    done = json.loads(out.read_text()) if out.exists() else dict(data=data, run=a.run.name, emission=image.emission.kind, shape=list(image.shape), n_params=n_params,
        images=dict(test=len(test), valid=len(valid), train=len(train)), device=str(dev) if dev.type=='cpu' else torch.cuda.get_device_name(dev), threads=torch.get_num_threads(), commit=COMMIT, masks={})
    if all(n in done['masks'] for n in a.masks): print(f'all there: {out}'); return
    plain = plain_hclt(a.run, data, image.shape, n_params, a.epochs, dev); done['plain_hclt'] = dict(n_params=sum(q.numel() for q in plain.emission.parameters()), states=plain.emission.states[0], epochs=a.epochs)
    for name in a.masks:
        if name in done['masks']: continue
        seen_v, seen = (mask(name, len(x), *image.shape[1:], rng(s)).to(dev) for x, s in ((valid, 1), (test, 2)))
        on_valid = {k: float(errors(valid, m, seen_v).mean()) for k, m in nearest(train, valid, seen_v, ks).items()}; k = min(on_valid, key=on_valid.get)
        se_k = errors(test, nearest(train, test, seen, [k])[k], seen)
        own, se_own = answers(image, test, seen, a.batch); hclt, se_hclt = answers(plain, test, seen, a.batch)
        gain = lambda other: dict(mse_saved=float((other-se_own).mean()), stderr=float((other-se_own).std()/len(test)**.5), better=float((se_own < other).double().mean()))
        done['masks'][name] = dict(hidden=float((~seen).double().mean()), student=own | dict(seconds=seconds(image, test, seen)), plain_hclt=hclt, neighbours=dict(k=k, **quality(se_k)), against=dict(plain_hclt=gain(se_hclt), neighbours=gain(se_k)))
        save_json(out, done)
        print(f"{name:9} student {own['bits']:.3f} bits{'' if own['exact'] else ' (density)'} {own['psnr']:.2f} dB   plain HCLT {hclt['bits']:.3f} bits {hclt['psnr']:.2f} dB   {k} nearest {done['masks'][name]['neighbours']['psnr']:.2f} dB   {done['masks'][name]['student']['seconds']:.2f} s a mask", flush=True)

if __name__=='__main__':
    try: main()
    except Refused as e: sys.exit(f'inpainting: {e}')
