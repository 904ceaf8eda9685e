"Small images of every family and combinator, with weights far from uniform; and their values by enumeration."
import itertools
import math
import torch
from pcdistill.colour import COLOURS
from pcdistill.core import rng
from pcdistill.either import Either
from pcdistill.em import tables
from pcdistill.image import Image, whole_image
from pcdistill.inputs import one_hot_evidence
from pcdistill.structure import chain
from pcdistill.tiles import Tiles
from pcdistill.trees import Trees, stack
from test_emission import normals, over, square

def weights_(m, seed, spread=1.5):
    "Random tables everywhere."
    gen = rng(seed)
    with torch.no_grad():
        for p, dim in tables(m):
            p.copy_((spread*torch.randn(p.shape, generator=gen)).log_softmax(dim))
    return m

def trees(heads=(3,), states=(2,), D=4, V=2, seed=0, inputs='categorical'):
    parts = [weights_(Trees([chain(D)], V, [h], [s], inputs, rng(seed+i)), seed+i)
             for i, (h, s) in enumerate(zip(heads, states))]
    return stack(parts) if len(parts) > 1 else parts[0]

def patches(e, shape=(1, 2, 4), p=2, seed=0, colour='rgb'):
    "An image of patches, with a random latent prior."
    n = shape[1]*shape[2]//p**2
    return Image(e, weights_(over(e.n_heads, n, 1), seed+50), COLOURS[colour], p, shape)

@torch.no_grad()
def two_terms(image, x_bchw, z_bn):
    "log p(x | z) and log p(z) of each image, from the definitions."
    lp_bnk, sure_bnk = image.evidence(x_bchw), one_hot_evidence(z_bn.long(), image.emission.n_heads)
    lp_bn = lp_bnk.gather(2, z_bn.long()[..., None])[..., 0]
    return lp_bn.sum(1) - image.hidden_nats(x_bchw), image.prior(sure_bnk)[:, 0]

def mixture(e, shape):
    "An emission over whole images."
    return whole_image(e, COLOURS['rgb'], shape)

def tiles(seed, V=2):
    "Patches of two columns, each a tree, under circuits with three heads."
    prior = weights_(over(2, 2, 3), seed+7)
    return Tiles(trees((2,), (2,), 2, V, seed), prior, torch.tensor([[0, 2], [1, 3]]))

# probabilities whatever is asked
DISCRETE = dict(
    trees=lambda s: patches(trees(seed=s), seed=s),
    own_trees=lambda s: patches(trees((2, 1, 2), (3, 2, 1), seed=s), seed=s),
    logistic=lambda s: patches(trees(inputs='logistic', seed=s), seed=s),
    tiles=lambda s: patches(tiles(s), seed=s),
    either=lambda s: patches(Either([trees(seed=s), trees((1,), (3,), seed=s+9)]), seed=s),
    whole=lambda s: mixture(trees(D=8, seed=s), (1, 2, 4)),
    pixels=lambda s: patches(trees(D=1, V=4, seed=s), (1, 2, 2), 1, s))

# probabilities of prefixes of their patches only
CHAINS = dict(
    normals=lambda s: patches(normals(3, 4, 2, seed=s), seed=s),
    shapes=lambda s: patches(normals(4, 4, 2, 2, seed=s), seed=s),
    squares=lambda s: patches(square(2, 2), seed=s),
    mixed=lambda s: patches(Either([trees(seed=s), normals(2, 4, 2, seed=s)]), seed=s),
    whole_normal=lambda s: mixture(normals(1, 8, 2, seed=s), (1, 2, 4)),
    joined=lambda s: mixture(square(4, 2, inner=square(2, 2)), (1, 4, 4)))

# wide normals on many values: sums over integers stand for integrals of the density
DENSE = dict(
    normals=lambda s: patches(normals(3, 4, 12, seed=s), (1, 2, 2), seed=s),
    shapes=lambda s: patches(normals(4, 4, 12, 2, seed=s), (1, 2, 2), seed=s),
    whole_normal=lambda s: mixture(normals(1, 4, 12, seed=s), (1, 2, 2)),
    squares=lambda s: patches(square(2, 12), (1, 2, 2), seed=s))

# as they are used: 256 values, too many to enumerate
BYTES = dict(
    normals=lambda s: patches(normals(3, 4, 256, seed=s), seed=s),
    shapes=lambda s: patches(normals(4, 4, 256, 2, seed=s), seed=s),
    squares=lambda s: patches(square(2, 256), seed=s),
    joined=lambda s: patches(square(4, 256, inner=square(2, 256)), (1, 4, 8), 4, s),
    mixed=lambda s: patches(Either([trees(V=256, seed=s), normals(2, 4, 256, seed=s)]), seed=s),
    trees=lambda s: patches(trees(V=256, seed=s), seed=s),
    own_trees=lambda s: patches(trees((2, 1, 2), (3, 2, 1), V=256, seed=s), seed=s),
    logistic=lambda s: patches(trees(V=256, inputs='logistic', seed=s), seed=s),
    colours=lambda s: patches(trees(D=12, V=511, seed=s), (3, 2, 4), seed=s, colour='ycocg_r'),
    whole=lambda s: mixture(trees(D=8, V=256, seed=s), (1, 2, 4)),
    whole_normal=lambda s: mixture(normals(1, 24, 256, seed=s), (3, 2, 4)))

def every_image(image):
    "All images of the circuit's values."
    V, (c, h, w) = image.emission.n_values, image.shape
    rows = torch.cartesian_prod(*[torch.arange(V, dtype=torch.uint8)]*(c*h*w))
    return rows.view(-1, c, h, w)

@torch.no_grad()
def log_joint(image, lp_xnk, belief_nk=None):
    "log p of images with this evidence, latents summed out one combination after another."
    lp_xnk = lp_xnk.double()
    N, K = lp_xnk.shape[1:]
    lp_x = torch.full((len(lp_xnk),), -math.inf, dtype=torch.double)
    for z in itertools.product(range(K), repeat=N):
        lp_z = image.prior(one_hot_evidence(torch.tensor([z]), K))[0, 0].double()
        for n, k in enumerate(z):
            lp_z = lp_z + lp_xnk[:, n, k] + (0 if belief_nk is None else belief_nk[n, k])
        lp_x = torch.logaddexp(lp_x, lp_z)
    return lp_x

def exact_masks(image, n, gen):
    "Random masks that have a probability: a prefix of each patch's coding order."
    e, at_pd = image.emission, image.tiles.at_pd
    until = torch.randint(0, e.n_vars+1, (n, len(at_pd)), generator=gen)
    rank_d = e.order_d.argsort()
    seen = torch.zeros(n, image.tiles.n_vars, dtype=torch.bool)
    for p, at_d in enumerate(at_pd):
        seen[:, at_d] = rank_d < until[:, p, None]
    return image.pixels(seen)[:, 0]

def masks(image, n, gen):
    "Random masks, the first two of them full and empty."
    seen = torch.rand(n, *image.shape[1:], generator=gen) > .5
    seen[0], seen[1] = True, False
    return seen
