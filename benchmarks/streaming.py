"""Ten times more pixels than memory, through extraction, EM of patches, counting and EM of the whole circuit.

    python benchmarks/streaming.py --limit-gb 4 --times 10 [--threads 1] [--device cpu] [--folder shards] [--json out.json]

The images (32×32 RGB) are made on the fly, anew for every stage: crops at any place of the three training photos, mirrored, channels exchanged,
brightness moved, a little noise. On the CPU the kernel refuses the process more than the limit of memory of its own (RLIMIT_DATA), and
the peak of what was resident is printed after each stage. On a GPU the allocator gets the same limit. Bits/dim is of 2,000 images made likewise from
the two validation photos. With --folder a killed run keeps its shards
and the stages of EM that are done.
"""
import argparse, math, os, resource, sys, tempfile, time
from importlib.resources import files
from pathlib import Path
import numpy as np, torch
from PIL import Image
from pcdistill.colour import RGB
from pcdistill.core import bpd, device, rng
from pcdistill.em import fit
from pcdistill.emission import Labelled
from pcdistill.image import Image as Student
from pcdistill.latents import extract
from pcdistill.patches import to_patches
from pcdistill.runs import key, save_json
from pcdistill.show import table
from pcdistill.extra.stream import extract_parts, in_parts, made, sample_rows
from pcdistill.teacher import fit_pixels
from pcdistill.latent_prior import fit_latent_prior, recount_
from pcdistill.trees import TreesConfig, fit_trees
from w1 import Peak

SIDE, PATCH, PIXELS = 32, 4, 3*32*32
PHOTOS = dict(train=('astronaut_a', 'astronaut_b', 'hubble_a'), valid=('coffee_a', 'coffee_b'))

def crops(split:str, b:int, passed:list, dev:torch.device):
    "A maker of parts of b images; counts what it makes."
    read = lambda name: torch.from_numpy(np.array(Image.open(files('pcdistill')/'assets'/'photos'/f'{name}.png')))
    photo_phwc = torch.stack([read(n) for n in PHOTOS[split]]).to(dev)
    windows = photo_phwc.permute(0, 3, 1, 2).contiguous().unfold(2, SIDE, 1).unfold(3, SIDE, 1)           # a view [p c i j h w]
    def make(gen):
        pick = lambda n: torch.randint(0, n, (b,), generator=gen, device=dev)
        x_bchw = windows[pick(len(photo_phwc)), :, pick(windows.shape[2]), pick(windows.shape[3])]
        channels = torch.rand(b, 3, generator=gen, device=dev).argsort(1)
        x_bchw = x_bchw[torch.arange(b, device=dev)[:, None], channels]
        mirrored = pick(2).bool(); x_bchw[mirrored] = x_bchw[mirrored].flip(3)
        y_bchw = torch.empty(x_bchw.shape, dtype=torch.int16, device=dev).random_(-2, 3, generator=gen).add_(x_bchw).add_((pick(61) - 30).to(torch.int16)[:, None, None, None])
        passed[0] += b
        return y_bchw.clamp_(0, 255).byte()
    return make

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--limit-gb', type=float, default=4.); p.add_argument('--times', type=float, default=10., help='bytes of pixels over the limit')
    p.add_argument('--part', type=int, default=1024, help='images a part'); p.add_argument('--micro', type=int, default=64, help='images at a time through circuits')
    p.add_argument('--labels', type=int, default=16, help='latent values of a patch'); p.add_argument('--states', type=int, default=4, help="states of the trees' latents"); p.add_argument('--batch', type=int, default=16384, help='images an EM step')
    p.add_argument('--threads', type=int, default=1); p.add_argument('--device', default='cpu'); p.add_argument('--folder', type=Path); p.add_argument('--json', type=Path)
    a = p.parse_args(); torch.set_num_threads(a.threads); dev, peak = device(a.device), Peak(); limit = int(a.limit_gb*1e9)
    if dev.type=='cpu': resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    else: torch.cuda.set_per_process_memory_fraction(limit/torch.cuda.mem_get_info()[1])
    n = math.ceil(limit*a.times/PIXELS/a.part); N = n*a.part; passed, rows = [0], []
    photos = made(crops('train', a.part, passed, dev), n, 0, dev)
    test = made(crops('valid', 500, [0], dev), 4, 1, dev)
    print(f"limit {a.limit_gb} GB; {N:,} images in {n:,} parts, {N*PIXELS/1e9:.1f} GB of pixels; {a.device}, {a.threads} thread(s), load {os.getloadavg()[0]:.1f}, torch {torch.__version__}", flush=True)
    started = [time.monotonic()]; kept = lambda stage: a.folder/f'{stage}.ckpt' if a.folder else None
    def done(stage, bits=None):
        seconds = time.monotonic() - started[0]; top = torch.cuda.max_memory_allocated()/1e9 if dev.type=='cuda' else None
        rows.append([stage, round(passed[0]*PIXELS/1e9, 3), round(seconds, 1), peak.read(), top, bits]); print(*rows[-1], flush=True)
        passed[0] = 0; started[0] = time.monotonic()

    with tempfile.TemporaryDirectory() as temp:
        few, = sample_rows(2048, rng(1), photos, read=16)
        teacher = fit_pixels(few.cpu(), PATCH, a.labels, rng(2)).to(dev)
        done('teacher and start from a sample')
        labels = extract_parts(lambda x: extract(teacher, x), a.labels, a.folder or temp, key(N, a.part, a.labels, str(dev)), photos); done('extraction')
        y_xd, z_x = to_patches(few, PATCH).flatten(0, 1), extract(teacher, few).flatten().long()
        trees, _ = fit_trees(Labelled(y_xd, z_x, 256, a.labels, PATCH), TreesConfig(states=a.states, epochs=0, n_fit=50_000), rng(3), progress=False); trees.to(dev); del y_xd, z_x
        prior = recount_(fit_latent_prior(sample_rows(5000, rng(4), labels, read=64)[0], a.labels), labels).to(dev)
        student = Student(trees, prior, RGB, PATCH, (3, SIDE, SIDE))
        @torch.no_grad()
        def bits(): return float(torch.cat([bpd(student(x), PIXELS) for t in test for x in t.split(a.micro)]).mean())
        done('latent prior counted over all shards', bits())
        more = dict(epochs=1, batch=a.batch, pseudocount=.1, progress=False)
        def labelled_log_prob(r): return trees(to_patches(r[0].to(dev), PATCH).flatten(0, 1)).gather(1, r[1].flatten()[:, None].to(dev).long())[:, 0].view(len(r[0]), -1).sum(1)
        fit(trees, labelled_log_prob, N, rng(5), lr=(1., .1), ckpt=kept('trees'), order=in_parts(N, a.micro, photos, labels), **more); done('EM of patches, one pass', bits())
        fit(student, lambda r: student(r[0]), N, rng(6), lr=(.5, .05), ckpt=kept('student'), order=in_parts(N, a.micro, photos), **more); done('EM of both, one pass', bits())
    print('\n' + table(rows, ['stage', 'GB of pixels', 'seconds', 'peak GB resident', 'peak GB on the GPU', 'bits/dim']))
    used = rows[-1][4] or peak.read()
    print(f'\n{N*PIXELS/1e9:.1f} GB of pixels a pass, {sum(r[1] for r in rows):.1f} GB in all stages; peak {used:.2f} GB: {N*PIXELS/1e9/used:.1f} times the peak')
    if a.json: save_json(a.json, dict(vars(a) | dict(json=None, folder=None), images=N, gb=N*PIXELS/1e9, peak_gb=used, stages=[dict(zip(('stage', 'gb', 'seconds', 'peak_gb', 'gpu_gb', 'bpd'), r)) for r in rows]))
    sys.exit(used > a.limit_gb)

if __name__ == '__main__': main()
