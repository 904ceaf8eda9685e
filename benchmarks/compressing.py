"""Are the bits real? Test images into a file by a run's circuit and back, and the file's size beside the bits the circuit is scored with.

    python benchmarks/compressing.py --run runs/digits --images 360
    PCDISTILL_DATA=… python benchmarks/compressing.py --run runs/cifar10-small-hclt --images 100

Compared: 8 × the bytes of the coded pixels (one stream for all images, its end included) with −Σ log2 p(x) as `evaluate` scores it, in float32 and in one pass over whole images.
Not in it, named apart: the header, of a fixed part, a zlib-packed description and a check sum. WebP and PNG are one file an image, headers included.
Results: nbs/experiments/results/compressing-RUN.json.
"""
import argparse, math, sys, time
from pathlib import Path
import torch
from chain import COMMIT
from pcdistill.extra.compress import decode, encode, unpack
from pcdistill.core import Refused
from pcdistill.data import images
from pcdistill.evaluate import png_bits, score, webp_bits
from pcdistill.image import load_image
from pcdistill.runs import load_json, save_json

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--run', type=Path, required=True, help='folder of a finished run'); p.add_argument('--images', type=int, default=100); p.add_argument('--batch', type=int, default=128)
    p.add_argument('--threads', type=int); p.add_argument('--out', type=Path); a = p.parse_args()
    if a.threads: torch.set_num_threads(a.threads)
    r = load_json(a.run/'recipe.json'); image = load_image(a.run/'student.safetensors'); x = images(r['data'], 'test', a.images)
    start = time.perf_counter(); data = encode(x, image, batch=a.batch, progress=True); middle = time.perf_counter()
    back, _ = decode(data, image, progress=True); end = time.perf_counter()
    payload, model_bits, D = len(unpack(data)[1]), -float(score(image, x, 50, False).sum())/math.log(2), x.numel()
    out = dict(data=r['data'], run=a.run.name, emission=image.emission.kind, n_images=len(x), shape=list(image.shape), exact=bool(torch.equal(back, x)), model_bits=model_bits, coded_bits=8*payload,
               over=8*payload/model_bits-1, header_bytes=len(data)-payload, per_dim=dict(model=model_bits/D, coded=8*payload/D, file=8*len(data)/D, webp=float(webp_bits(x).mean()), png=float(png_bits(x).mean())),
               seconds=dict(encode=round(middle-start, 1), decode=round(end-middle, 1)), device='cpu', threads=torch.get_num_threads(), commit=COMMIT)
    save_json(a.out or Path(__file__).parents[1]/f'nbs/experiments/results/compressing-{a.run.name}.json', out)
    print(f"{len(x)} images of {r['data']}, back exactly: {out['exact']}; circuit {model_bits:,.0f} bits, coded {8*payload:,} ({out['over']:+.3%}), header {out['header_bytes']} bytes; per dimension {', '.join(f'{k} {v:.3f}' for k, v in out['per_dim'].items())}; {out['seconds']}")
    sys.exit(0 if out['exact'] and abs(out['over']) < .01 else 1)

if __name__=='__main__':
    try: main()
    except Refused as e: sys.exit(f'compressing: {e}')
