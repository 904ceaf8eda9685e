"""Which teacher distils best: the same student from the labels of different teachers.

    PCDISTILL_DATA=… python benchmarks/teachers.py            # one core, about 25 minutes when it is quiet

CIFAR-10, whole images, exact RGB bits/dim; 4×4 patches for all teachers and students. A seed draws the training images (disjoint subsets), the teachers and the students; test images stay
the same. Labels: K = 64 values a patch. 'vq codes' takes the bottom codes themselves and 'switching' its patch latents; the others are k-means of features ('vq vectors', 'conv vectors':
both codebook vectors of a patch); 'noise' is random. Students: hidden Chow-Liu trees on YCoCg-R (reversible) and full-covariance normals on RGB, the same passes of EM for all.
A teacher's bound is log t(x | h) + log t(h) with the simple prior of 25 that is best on validation codes; a masked auto-encoder has none.
Results: nbs/experiments/results/teachers-cifar10.json, after every row; what is there is not run again. Seconds are processor time of one core. E02 shows them.
"""
import argparse, json, time
from pathlib import Path
import torch
from chain import RESULTS, COMMIT, student, timed
from pcdistill.clusters import assign, kmeans
from pcdistill.either import SquaresConfig
from pcdistill.extra.conv import ConvVQVAE2
from pcdistill.core import rng
from pcdistill.data import images
from pcdistill.evaluate import bits
from pcdistill.latents import extract, features, load_teacher, save_teacher
from pcdistill.mae import MAE, MAEConfig
from pcdistill.priors import choose_prior, simple_priors
from pcdistill.runs import save_json
from pcdistill.extra.switching import SwitchingAR, SwitchingConfig
from pcdistill.extra.controls import fit_noise, fit_pca
from pcdistill.teacher import bound, fit_pixels
from pcdistill.trees import TreesConfig
from pcdistill.vqvae import VQConfig, VQVAE2

PATCH, K, N = 4, 64, 64                                   # side of a patch, labels, patches an image
VQ = VQConfig.tiny(PATCH, K_bottom=K, epochs=30, lr=4e-3)
TEACHERS = {'pixels': lambda x, g: fit_pixels(x, PATCH, K, g), 'vq': lambda x, g: VQVAE2.fit(x, VQ, g, progress=False), 'noise': lambda x, g: fit_noise(x, PATCH, K, g),
            'switching': lambda x, g: SwitchingAR.fit(x, SwitchingConfig(PATCH, K, passes=6), g, progress=False), 'conv': lambda x, g: ConvVQVAE2.fit(x, VQ, g, progress=False),
            'pca': lambda x, g: fit_pca(x, PATCH, K, g), 'mae': lambda x, g: MAE.fit(x, MAEConfig.tiny(PATCH, K=K, epochs=24), g, progress=False)}
LABELS = {'pixels': ('pixels', 'clusters'), 'vq vectors': ('vq', 'clusters'), 'vq codes': ('vq', 'codes'), 'noise': ('noise', 'codes'), 'switching': ('switching', 'codes'),
          'conv vectors': ('conv', 'clusters'), 'pca': ('pca', 'clusters'), 'mae': ('mae', 'clusters')}

def train(name:str, seed:int, x, valid, test, path:Path) -> dict:
    "Train a teacher; its bound on test images."
    teacher, s = timed(TEACHERS[name], x, rng(seed)); save_teacher(path, teacher)
    out = dict(teacher=name, seed=seed, seconds=s, commit=COMMIT)
    if name=='mae': return out
    prior = choose_prior(simple_priors(extract(teacher, x), teacher.n_codes), extract(teacher, valid))
    L = bound(teacher, prior.prior, test); dims = test[0].numel()
    out |= dict(prior=prior.name, bound=bits(L.conditional_b + L.codes_prior_b, dims)._asdict(), conditional=bits(L.conditional_b, dims).bits, uniform=bits(L.codes_uniform_b, dims).bits)
    if name=='switching': out['exact'] = bits(torch.cat([teacher.log_prob(p).double() for p in test.split(50)]), dims).bits
    return out

def labels(way:str, teacher, x, gen):
    "The latent value of each patch."
    if way=='codes': return teacher.codes(x)[:, :N]
    f_bnf = features(teacher, x)
    return assign(f_bnf, kmeans(f_bnf.flatten(0, 1), K, gen, n_fit=60_000, steps=20))

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--images', type=int, default=2000); p.add_argument('--test', type=int, default=500); p.add_argument('--valid', type=int, default=300); p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--epochs', type=int, default=3, help='passes of EM on the emission'); p.add_argument('--tuning', type=int, default=2, help='passes of EM on log p(x)'); p.add_argument('--states', type=int, default=32, help='of the trees')
    p.add_argument('--minutes', type=float, default=1e9, help='no row begins after that'); p.add_argument('--out', type=Path, default=RESULTS/'teachers-cifar10.json')
    a = p.parse_args(); torch.set_num_threads(1); start, folder = time.monotonic(), Path('runs/teachers'); folder.mkdir(parents=True, exist_ok=True)
    valid, test = images('cifar10', 'valid', a.valid), images('cifar10', 'test', a.test)
    done = json.loads(a.out.read_text()) if a.out.exists() else dict(data='cifar10', patch=PATCH, labels=K, images=dict(train=a.images, valid=len(valid), test=len(test)), epochs=a.epochs, tuning=a.tuning, states=a.states, device='CPU, 1 thread', seconds='processor time', teachers=[], rows=[])
    for seed in range(a.seeds):
        x = images('cifar10', 'train', a.images*(seed+1))[a.images*seed:]
        for name, (kind, way) in LABELS.items():
            path = folder/f'{kind}-{seed}-{a.images}.safetensors'
            for family, colour in (('trees', 'ycocg_r'), ('normals', 'rgb')):
                if any((r['labels'], r['seed'], r['family'])==(name, seed, family) for r in done['rows']) or time.monotonic()-start > 60*a.minutes: continue
                if not path.exists() or not any((t['teacher'], t['seed'])==(kind, seed) for t in done['teachers']):
                    done['teachers'].append(train(kind, seed, x, valid, test, path)); save_json(a.out, done); print(done['teachers'][-1], flush=True)
                z_bn, s = timed(labels, way, load_teacher(path), x, rng(seed+100))
                config = TreesConfig(states=a.states, epochs=a.epochs) if family=='trees' else SquaresConfig(epochs=a.epochs, batch=40_000)
                out = student(x, valid, test, z_bn, K, family, config, PATCH, colour, rng(seed+200), a.tuning)
                row = dict(labels=name, teacher=kind, family=family, seed=seed, **out | dict(seconds=dict(labels=s, **out['seconds'])), commit=COMMIT)
                done['rows'].append(row); save_json(a.out, done)
                print(f"{seed} {name:12} {family:8} " + '  '.join(f"{w} {row[w]['test']:.4f}" for w in ('alone', 'top', 'tuned')) + f"  {sum(row['seconds'].values()):.0f} s", flush=True)

if __name__=='__main__': main()
