"""What may a circuit over latents say? The same emission and labels under one prior after another.

    PCDISTILL_DATA=… python benchmarks/priors.py   # one core, about half an hour when it is quiet

CIFAR-10, patches of 4×4 RGB, normals; latents are the components that --images training images
choose, 64 labels of k-means times --scales. Priors:
  independent    each latent by itself
  chain          from patch to patch, row after row
  tree           the Chow-Liu tree of the kit, counted, smoothed by each latent's own frequencies
  tied           the tree; its tables smoothed by those of all edges of the same offset
  trees          a mixture of such trees, one for each group of images: groups by classification EM
                 from k-means of small pictures, tables smoothed by those of all images
  hidden         a tree of hidden states beside the Chow-Liu tree's latents (an HCLT), EM
  quad           hidden states in a quad tree above the patches, EM
Strengths of smoothing and the epoch of EM are chosen on validation images, by log p of their
latents. Of test images: bits a latent, exact RGB bits/dim of whole images, PSNR of the mean where a
mask hides whole patches. Seconds are processor time of one core, numbers free to choose are counted.
Results: nbs/experiments/results/priors-cifar10.json, after every row; rows that are there are not
run again.
"""
import argparse, json, math
from pathlib import Path
import torch
from einops import einsum, rearrange
from torch import nn
from cells import EXTRA, definitions
from chain import COMMIT, RESULTS, start, timed
from pcdistill.circuit import Circuit, soft_posterior
from pcdistill.clusters import assign, kmeans
from pcdistill.core import rng
from pcdistill.data import images
from pcdistill.either import SquaresConfig
from pcdistill.em import fit
from pcdistill.emission import moments_of_rows
from pcdistill.evaluate import bits
from pcdistill.inpainting import MASKS
from pcdistill.inputs import Categorical, Evidence, one_hot_evidence
from pcdistill.latent_prior import count_pairs, fit_latent_prior
from pcdistill.patches import to_patches
from pcdistill.runs import save_json
from pcdistill.structure import chain

quad_tree = definitions(EXTRA/'graphs.ipynb').quad_tree

PATCH, ASKED, STRENGTHS = 4, ('top', 'left', 'centre', 'eyes'), (30., 300., 3000.)

class Mixture(nn.Module):
    "Priors side by side, each with a weight."
    def __init__(self, parts, w_m):
        super().__init__()
        self.parts, self.logw_m = nn.ModuleList(parts), w_m.log()

    def forward(self, lp_bnk):
        lp_bm = torch.cat([part(lp_bnk) for part in self.parts], 1)
        return (lp_bm + self.logw_m).logsumexp(1, keepdim=True)

class Told(nn.Module):
    "What evidence about a latent says of the hidden state above it."
    normalised = {}

    def __init__(self, inputs:Categorical):
        super().__init__()
        self.n_vars, self.n_states = inputs.n_vars, inputs.n_states
        self.p_dvs = inputs.logp_dvs.detach().exp()

    def forward(self, lp_bdv, seen_bd=None, row_d=None):
        most_bd1 = lp_bdv.amax(2, keepdim=True).detach()
        p_bds = einsum((lp_bdv - most_bd1).exp(), self.p_dvs[row_d], 'b d v, d v s -> b d s')
        return rearrange(p_bds.log() + most_bd1, 'b d s -> d b s').contiguous()

class Independent(nn.Module):
    def __init__(self, z_bn, K):
        super().__init__()
        own_nk = torch.stack([z.bincount(minlength=K) for z in z_bn.T]) + 1/K
        self.logp_nk = (own_nk/own_nk.sum(1, keepdim=True)).log()

    def forward(self, lp_bnk):
        return (lp_bnk + self.logp_nk).logsumexp(2).sum(1, keepdim=True)

def with_tables(like:Circuit, pair_est, base_est, strength) -> Circuit:
    "A tree with another's root; pairs counted, smoothed by tables of that strength."
    pc = Circuit(like.tree, Evidence(like.n_vars, like.n_states), 1, rng(0))
    with torch.no_grad():
        pc.root_rsk.copy_(like.root_rsk)
        pair_est = pair_est + strength*base_est
        pc.edges_est.copy_((pair_est/pair_est.sum(1, keepdim=True)).log_())
    return pc.requires_grad_(False)

def pairs_of(like:Circuit, z_bn):
    "How often each pair occurs at each edge of the tree, in the plan's order."
    pair_nst = count_pairs([z_bn], like.n_states, like.tree.parent)
    return pair_nst[like.plan().nodes[1:]].float()

def score_of(prior, z_bn, K) -> float:
    "Mean log p of latents, nats an image."
    with torch.no_grad():
        parts = [prior(one_hot_evidence(z, K)).double() for z in z_bn.split(50)]
    return float(torch.cat(parts).mean())

def best_of(made, valid_z, K):
    "The prior of an iterator that validation images find likeliest; one at a time is kept."
    best = -math.inf, None
    for prior in made:
        best = max(best, (score_of(prior, valid_z, K), prior), key=lambda b: b[0])
    return best[1]

def tied(tree:Circuit, z_bn, valid_z, side) -> Circuit:
    "Tables smoothed by those of all edges of the same offset."
    pair_est, nodes = pairs_of(tree, z_bn), tree.plan().nodes[1:].tolist()
    K, parent = tree.n_states, tree.tree.parent
    offset = [(i//side - parent[i]//side, i % side - parent[i] % side) for i in nodes]
    own_k = z_bn.flatten().bincount(minlength=K).float() + 1/K
    sums = {o: pair_est[[q==o for q in offset]].sum(0) for o in set(offset)}
    def tables(strength): # of an offset, by the frequencies of all patches
        smooth = {o: c + strength*(own_k/own_k.sum())[:, None] for o, c in sums.items()}
        return {o: c/c.sum(0) for o, c in smooth.items()}
    def made():
        for a in STRENGTHS:
            of = tables(a)
            base_est = torch.stack([of[o] for o in offset])
            for b in STRENGTHS:
                yield with_tables(tree, pair_est, base_est, b)
    return best_of(made(), valid_z, K)

def trees(tree:Circuit, z_bn, valid_z, x, M, rounds=3) -> Mixture:
    "A tree for each group of images."
    base_est, K = tree.edges_est.detach().exp(), tree.n_states
    small_bf = nn.functional.avg_pool2d(x.float(), x.shape[-1]//4).flatten(1)
    of_b = assign(small_bf, kmeans(small_bf, M, rng(0)))
    def mixture(strength):
        w_m = (of_b.bincount(minlength=M) + 1.)/(len(of_b) + M)
        parts = [with_tables(tree, pairs_of(tree, z_bn[of_b==m]), base_est, strength)
                 for m in range(M)]
        return Mixture(parts, w_m)
    for _ in range(rounds):
        now, lp_bm = mixture(STRENGTHS[1]), []
        with torch.no_grad():
            for z in z_bn.split(100):
                told = one_hot_evidence(z, K)
                lp_bm.append(torch.cat([part(told) for part in now.parts], 1) + now.logw_m)
        of_b = torch.cat(lp_bm).argmax(1)
    return best_of(map(mixture, STRENGTHS), valid_z, K)

def hidden(tree, z_bn, valid_z, K, S, epochs):
    "Hidden states on a tree, by EM from a random start."
    n = z_bn.shape[1]
    pc = Circuit(tree, Categorical(n, K, S, rng(1)), 1, rng(1))
    def validate():
        with torch.no_grad():
            return float(pc(valid_z).mean())
    fit(pc, lambda rows: pc(z_bn[rows])[:, 0], len(z_bn), rng(2), epochs, 1000, 250, (1., .05), .1,
        progress=False, validate=validate, dims=n)
    pc.inputs = Told(pc.inputs)
    return pc.requires_grad_(False)

def free(prior) -> int:
    "Numbers free to choose."
    if isinstance(prior, Mixture):
        return sum(map(free, prior.parts)) + len(prior.parts) - 1
    if isinstance(prior, Independent):
        return prior.logp_nk[:, 1:].numel()
    own = prior.inputs.p_dvs[:, 1:].numel() if isinstance(prior.inputs, Told) else 0
    return own + prior.edges_est[:, 1:].numel() + prior.root_rsk[:, 1:].numel()

class Test:
    "Test images as the emission sees them, asked once."
    def __init__(self, image, x):
        e = image.emission
        K, d = e.n_heads, e.n_vars
        with torch.no_grad():
            self.lp_bnk = torch.cat([image.evidence(part) for part in x.split(50)])
        self.z_bn = e.label(to_patches(x.long(), PATCH).flatten(0, 1)).view(len(x), -1)
        none, every = torch.zeros(K, d, dtype=torch.long), torch.zeros(K, d, dtype=torch.bool)
        self.mu_kd = moments_of_rows(e, none, every, torch.eye(K)).mean_xd
        self.y_bnd, self.dims = to_patches(x.float(), PATCH), x[0].numel()
        self.masks = {name: MASKS[name](*x.shape[2:], rng(0))[::PATCH, ::PATCH].flatten()
                      for name in ASKED}

    def __call__(self, prior) -> dict:
        with torch.no_grad():
            lp_b = torch.cat([prior(lp)[:, 0].double() for lp in self.lp_bnk.split(50)])
        whole, out = bits(lp_b, self.dims), {}
        for name, seen_n in self.masks.items():
            off = []
            for lp_bnk, y_bnd in zip(self.lp_bnk.split(50), self.y_bnd.split(50)):
                w_bnk = soft_posterior(prior, lp_bnk*seen_n[:, None])[:, ~seen_n]
                off.append((w_bnk @ self.mu_kd - y_bnd[:, ~seen_n]).square().mean((1, 2)))
            out[name] = 10*math.log10(255**2/float(torch.cat(off).mean()))
        return dict(bits=whole.bits, stderr=whole.stderr, psnr=out)

def rows(image, z_bn, valid_z, x, a):
    "Name → how to make it."
    n, K, side = z_bn.shape[1], image.emission.n_heads, x.shape[3]//PATCH
    top = image.prior.requires_grad_(False)
    yield 'independent', lambda: Independent(z_bn, K)
    yield 'chain', lambda: fit_latent_prior(z_bn, K, tree=chain(n)).requires_grad_(False)
    yield 'tree', lambda: top
    yield 'tied', lambda: tied(top, z_bn, valid_z, side)
    for M in a.trees:
        yield f'{M} trees', lambda: trees(top, z_bn, valid_z, x, M)
    for S in a.states:
        yield f'hidden, {S} states', lambda: hidden(top.tree, z_bn, valid_z, K, S, a.epochs)
        yield f'quad, {S} states', lambda: hidden(quad_tree(side, side), z_bn, valid_z, K, S,
                                                  a.epochs)

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--images', type=int, default=20_000)
    p.add_argument('--test', type=int, default=500)
    p.add_argument('--scales', type=int, nargs='+', default=[1, 16])
    p.add_argument('--trees', type=int, nargs='*', default=[8])
    p.add_argument('--states', type=int, nargs='*', default=[64, 256])
    p.add_argument('--epochs', type=int, default=8)
    p.add_argument('--out', type=Path, default=RESULTS/'priors-cifar10.json')
    a = p.parse_args()
    torch.set_num_threads(1)
    x, valid, test = (images('cifar10', s, n) for s, n in
                      (('train', a.images), ('valid', 200), ('test', a.test)))
    done = dict(data='cifar10', images=len(x), test=len(test), patch=PATCH, labels=64,
                seconds='processor time', rows=[])
    if a.out.exists():
        done = json.loads(a.out.read_text())
    mean_kf = kmeans(to_patches(x, PATCH).float().flatten(0, 1), 64, rng(0), n_fit=60_000)
    label_bn = torch.cat([assign(to_patches(part, PATCH).float(), mean_kf)
                          for part in x.split(1000)])
    for scales in a.scales:
        config = SquaresConfig(epochs=4, scales=scales)
        image, _, _ = start(x, label_bn, 64, 'normals', config, PATCH, 'rgb', rng(0))
        e, K = image.emission, image.emission.n_heads
        def components(x):
            return torch.cat([e.label(to_patches(part.long(), PATCH).flatten(0, 1))
                              .view(len(part), -1) for part in x.split(1000)])
        z_bn, valid_z, ask = components(x), components(valid), Test(image, test)
        for name, make in rows(image, z_bn, valid_z, x, a):
            if any((r['prior'], r['K'])==(name, K) for r in done['rows']):
                continue
            prior, seconds = timed(make)
            latent = -score_of(prior, ask.z_bn, K)/ask.z_bn.shape[1]/math.log(2)
            row = dict(prior=name, K=K, latent=latent, **ask(prior),
                       parameters=free(prior), seconds=seconds, commit=COMMIT)
            done['rows'].append(row)
            save_json(a.out, done)
            told = '  '.join(f'{m} {v:.2f}' for m, v in row['psnr'].items())
            print(f"K = {K:4}  {name:18} {row['latent']:.3f} bits a latent  {row['bits']:.4f} "
                  f"bits/dim  {told}  {seconds:.0f} s", flush=True)

if __name__=='__main__':
    main()
