"""Ten times more pixels than memory, through the whole chain: batches as those of ImageNet at 32×32, then `distill`.

    python benchmarks/streaming.py [--limit-mb 200] [--times 10] [--side 32] [--folder DIR] [--json out.json]
    torchrun --nproc-per-node=2 benchmarks/streaming.py --folder DIR …     # each process within the limit

The images are crops at any place of the three training photos, mirrored, channels exchanged, brightness moved, a little noise, written as
train_data_batch_1.npz … and val_data.npz. The limit is of memory of the process's own (not of pages of mapped files, which the system takes
back when it wants) above what a first chain over 50 digits leaves (all imports). A thread looks every 5 ms; the peak of each stage is printed, and the exit status is 1 if
one is above the limit. With --folder a killed run goes on.

    python benchmarks/streaming.py --pass --images 1281167 --side 32 --limit-mb 4000    # as many images as ImageNet has

--pass: no chain, only one pass: the batches into one file, then every image once, shuffled by shards; each is counted, and its sum compared.
"""
import argparse, json, math, os, sys, tempfile, threading, time
from importlib.resources import files
from pathlib import Path
import numpy as np, torch
from PIL import Image
from pcdistill import chain
from pcdistill.chain import Run, distill
from pcdistill.core import require, rng
from pcdistill.data import by_shards, open_split
from pcdistill.ranks import agreed, joined, rank, size, sum_
from pcdistill.recipes import recipe
from pcdistill.runs import load_json, save_json
from pcdistill.show import table

PHOTOS = dict(train=('astronaut_a', 'astronaut_b', 'hubble_a'), val=('coffee_a', 'coffee_b'))

def anonymous() -> int:
    "Bytes of this process that no file holds."
    return next(int(l.split()[1])*1024 for l in Path('/proc/self/status').read_text().splitlines() if l.startswith('RssAnon'))

class Watch(threading.Thread):
    "The most since `reset`."
    def __init__(self): super().__init__(daemon=True); self.most = 0; self.start()
    def run(self):
        while True: self.most = max(self.most, anonymous()); time.sleep(.005)
    def reset(self): most, self.most = self.most, 0; return most

def crops(split:str, b:int, side:int, gen) -> np.ndarray:
    "b images, a row each."
    photo_phwc = torch.stack([torch.from_numpy(np.array(Image.open(files('pcdistill')/'assets'/'photos'/f'{n}.png'))) for n in PHOTOS[split]])
    windows = photo_phwc.permute(0, 3, 1, 2).contiguous().unfold(2, side, 1).unfold(3, side, 1)           # a view [p c i j h w]
    pick = lambda n: torch.randint(0, n, (b,), generator=gen)
    x_bchw = windows[pick(len(photo_phwc)), :, pick(windows.shape[2]), pick(windows.shape[3])]
    x_bchw = x_bchw[torch.arange(b)[:, None], torch.rand(b, 3, generator=gen).argsort(1)]
    mirrored = pick(2).bool(); x_bchw[mirrored] = x_bchw[mirrored].flip(3)
    y_bchw = torch.empty(x_bchw.shape, dtype=torch.int16).random_(-2, 3, generator=gen).add_(x_bchw).add_((pick(61) - 30).to(torch.int16)[:, None, None, None])
    return y_bchw.clamp_(0, 255).byte().flatten(1).numpy()

def write_batch(path:Path, n:int, split:str, side:int, seed:int):
    "As np.savez writes it, some images at a time."
    import io, zipfile
    head, gen, d = io.BytesIO(), rng(seed), 3*side**2
    np.lib.format.write_array_header_1_0(head, dict(descr='|u1', fortran_order=False, shape=(n, d)))
    with zipfile.ZipFile(path, 'w', allowZip64=True) as z:
        with z.open('data.npy', 'w', force_zip64=True) as f:
            f.write(head.getvalue())
            for i in range(0, n, 2048): f.write(crops(split, min(2048, n-i), side, gen))
        with z.open('labels.npy', 'w') as f: np.save(f, np.ones(n, np.int64))

def write_data(data:Path, n:int, side:int):
    "The batches that are not there yet."
    data.mkdir(parents=True, exist_ok=True)
    for i in range(11):
        file = data/(f'train_data_batch_{i+1}.npz' if i < 10 else 'val_data.npz')
        if not file.is_file(): write_batch(file.with_suffix('.new'), -(-n//10) if i < 10 else 500, 'train' if i < 10 else 'val', side, i); os.replace(file.with_suffix('.new'), file)

def one_pass(folder:Path, side:int) -> list:
    "Every training image once, in shuffled order: (what, seconds, peak MB)."
    base, watch, rows = anonymous(), Watch(), []
    def told(what, start): rows.append((what, round(time.monotonic() - start, 1), round(max(0, watch.reset() - base)/1e6, 1))); print(*rows[-1], flush=True)
    start = time.monotonic(); split = open_split('imagenet32'); n = len(split); told('batches opened', start)
    start = time.monotonic(); x_bchw = chain.keep_images(split, folder/'images.npy'); told('images into one file', start)
    start, order, seen_b, sum_b = time.monotonic(), by_shards(n, rng(0)), torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.int32)
    for at in order.split(512): seen_b[at], sum_b[at] = True, x_bchw[at].flatten(1).int().sum(1, dtype=torch.int32)
    told('every image once, shuffled', start)
    some = torch.randperm(n, generator=rng(1))[:50].tolist()
    require(bool(seen_b.all()), f'wanted all of {n} images, got {int(seen_b.sum())}')
    require([int(split[i:i+1].sum()) for i in some]==sum_b[some].tolist(), 'wanted the pixels of the batches, got others')
    return rows

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--limit-mb', type=float, default=200.); p.add_argument('--times', type=float, default=10., help='bytes of pixels over the limit')
    p.add_argument('--side', type=int, default=32); p.add_argument('--patch', type=int, default=8); p.add_argument('--clusters', type=int, default=8)
    p.add_argument('--states', type=int, default=4); p.add_argument('--teacher', default='pixels'); p.add_argument('--family', default='trees'); p.add_argument('--n-fit', type=int, default=50_000)
    p.add_argument('--epochs', type=int, default=1); p.add_argument('--n-tune', type=int); p.add_argument('--folder', type=Path); p.add_argument('--json', type=Path)
    p.add_argument('--pass', dest='once', action='store_true', help='one pass over the images, no chain'); p.add_argument('--images', type=int, help='instead of --times')
    a = p.parse_args(); torch.set_num_threads(1); limit = a.limit_mb*1e6
    n = a.images or math.ceil(limit*a.times/(3*a.side**2)); require(size()==1 or a.folder, 'wanted --folder DIR for several processes, got none')
    with tempfile.TemporaryDirectory() as temp:
        folder = a.folder or Path(temp); data = folder/'data'/'imagenet32'; os.environ['PCDISTILL_DATA'] = str(folder/'data')
        started = time.monotonic(); agreed(lambda: write_data(data, n, a.side))
        print(f'limit {a.limit_mb:.0f} MB; {n:,} images of {a.side}×{a.side}, {n*3*a.side**2/1e9:.2f} GB of pixels, written in {time.monotonic()-started:.0f} s; load {os.getloadavg()[0]:.1f}, torch {torch.__version__}', flush=True)
        if a.once:
            rows = one_pass(folder, a.side); worst = max(most for *_, most in rows)
            print(f'\n{table(rows, ["what", "seconds", "peak MB above the imports"])}\n\n{n*3*a.side**2/1e6:.0f} MB of pixels')
            if a.json: save_json(a.json, dict(limit_mb=a.limit_mb, side=a.side, images=n, mb=n*3*a.side**2/1e6, peak_mb=worst, stages=[dict(zip(('stage', 'seconds', 'peak_mb'), row)) for row in rows]))
            return int(worst > a.limit_mb)
        config = dict(n_fit=a.n_fit) | (dict(states=a.states, epochs=1) if a.family=='trees' else {})
        r = recipe('imagenet32', family=a.family, teacher=a.teacher, patch=a.patch, clusters=a.clusters, epochs=a.epochs, n_tune=a.n_tune, n_test=200, emission=config, batch=20_000, micro=512)
        distill(recipe('digits', teacher=a.teacher, family=a.family, n_train=50, n_test=5, epochs=1), folder/'first', 'cpu', False)   # what is imported late
        base, watch, kept = anonymous(), Watch(), folder/f'stages-{rank()}.json'; rows = load_json(kept) if kept.is_file() else []
        def done(stage, seconds):
            most = max(0, watch.reset() - base)/1e6; rows.append((stage, round(seconds, 1), round(most, 1))); print(*rows[-1], flush=True); kept.write_text(json.dumps(rows))
        def timed(f, name):
            def stage(*args, **kw):
                start = time.monotonic(); out = f(*args, **kw); spent = time.monotonic() - start
                if spent > .05: done(name, spent)
                return out
            return stage
        chain.keep_images = timed(chain.keep_images, 'images into one file'); chain.rows_file = timed(chain.rows_file, 'ids of all images')
        for name in ('teacher', 'prior', 'latents', 'start', 'student', 'plain', 'measured', 'readings', 'baselines'): setattr(Run, name, once(timed, getattr(Run, name), name))
        run = distill(r, folder/'run', 'cpu')
        done('pictures and results', 0.)
        peak_r = torch.zeros(size()); peak_r[rank()] = max(most for *_, most in rows); sum_(peak_r); worst = float(peak_r.max())
        print('\n' + table(rows, ['stage (with those it asks for)', 'seconds', 'peak MB above the imports']))
        print(f'\n{n*3*a.side**2/1e6:.0f} MB of pixels, peak {worst:.0f} MB above the {base/1e6:.0f} of the imports and a first small chain: {n*3*a.side**2/1e6/worst:.1f} times the peak\n\n{run}')
        if a.json and rank()==0: save_json(a.json, dict({k: v for k, v in vars(a).items() if k not in ('json', 'folder')}, ranks=size(), peak_mb_of_ranks=[round(v, 1) for v in peak_r.tolist()], images=n, mb=n*3*a.side**2/1e6, imports_mb=base/1e6, peak_mb=worst,
                                          stages=[dict(zip(('stage', 'seconds', 'peak_mb'), row)) for row in rows], results=run.results))
    return int(worst > a.limit_mb)

def once(timed, f, name):
    "A stage is timed the first time it is asked for in a run."
    return lambda self: f(self) if name in self.held else timed(f, name)(self)

if __name__ == '__main__':
    with joined(): status = main()   # the exit comes when all ranks have left together
    sys.exit(status)
