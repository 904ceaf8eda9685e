"""A circuit over patches and a model across the image in one answer: does it have fewer bits than both?

    PCDISTILL_DATA=… python benchmarks/fused.py        # one core; the run that ships; minutes

The circuit and the innovations (with their network) are those of the run that ships. `Fused` says
how the two become one distribution; its one number, the noise, is chosen on validation images by
bits. Then neighbours are heard too: `Heard` is half of what the network says, half the mean of the k
training images that are nearest on the seen pixels, k chosen on validation images. It is a function
of what is seen like the network alone, so innovations stay normalised, and so does `Fused` of it
(`with neighbours`). Asked about the first test images, those of completions.py, for each mask:
  bits     of a hidden value given the seen, probabilities of integers
  psnr     of the mean on hidden pixels, dB
  saved    bits an image that `fused` saves against each of the others; paired, with standard errors
  nearer   squared error that each saves against `nearest` of completions.py; paired, likewise;
           `normal`: psnr of one normal over whole images, and what `neighbours` saves against it
Bits and psnr of the first --few images too, for completions.py asks circuits about those only.
Results: nbs/experiments/results/fused-DATA.json, after every mask. E07 shows them.
"""
import argparse, copy, json, math
import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from chain import COMMIT, RESULTS
from completions import errors, nearest, row
from pcdistill.chain import load_run
from pcdistill.core import require, rng
from pcdistill.data import images
from pcdistill.evaluate import mean_bits
from pcdistill.image import Image
from pcdistill.inpainting import MASKS, Inpainted, answers, inpaint, model_of
from pcdistill.extra.innovations import Innovations
from pcdistill.runs import save_json

class Fused(nn.Module):
    "Half a circuit that hears what another model expects, half that model."
    joint = False # each mask has a distribution of its own

    def __init__(self,
        circuit:Image,    # in RGB or grey; its probabilities stay exact with soft evidence (trees)
        other:nn.Module,  # of the same images; a model that answers
        noise:float=150., # how far off its mean is taken to be, grey levels; more than 0
    ):
        super().__init__()
        exact = circuit.emission.soft_exact and circuit.colour.name=='rgb'
        require(exact and noise > 0, 'wanted a circuit in RGB whose soft evidence is exact, and '
                f'noise above 0, got {circuit.emission.kind}, {circuit.colour.name}, {noise:g}')
        self.circuit, self.other, self.noise = circuit, other, noise
        self.shape = circuit.shape

    @property
    def device(self) -> torch.device:
        return self.circuit.device

@answers.register
def answers_of_both(model:Fused, x, seen, n, gen, soft=None, belief_bnk=None) -> Inpainted:
    """log p̂ = log(p + q) − log 2, the mean of both means, draws of either by the toss of a coin.
    Entropy is given which of the two it is, so at most a bit an image below the mixture's."""
    require(soft is None and belief_bnk is None, 'wanted what is seen alone, got beliefs')
    q = answers(model.other, x, seen, n, gen)
    word = q.mean, torch.full_like(q.mean, model.noise**-2)
    p = answers(model.circuit, x, seen, n, gen, word)
    coin = torch.rand(n, len(x), 1, 1, 1, generator=gen, device=x.device) < .5
    log_hidden_b = torch.logaddexp(p.log_hidden_b.double(), q.log_hidden_b.double()) - math.log(2)
    return q._replace(mean=(p.mean + q.mean)/2, entropy=(p.entropy + q.entropy)/2,
                      samples=torch.where(coin, p.samples, q.samples), log_hidden_b=log_hidden_b)

class Heard(nn.Module):
    "What a network and the nearest training images say, half and half."
    def __init__(self,
        net:nn.Module,               # a MaskedNet
        train:UInt8[Tensor, "_ c h w"],
        k:int,                       # neighbours; k=10 of 54,000 images is usual
    ):
        super().__init__()
        self.net, self.train_bchw, self.k, self.config = net, train, k, net.config

    def forward(self, x_bchw, seen_b1hw, mean_bchw):
        near_bchw = nearest(self.train_bchw, x_bchw, seen_b1hw[0, 0], self.k)
        return (self.net(x_bchw, seen_b1hw, mean_bchw) + near_bchw)/2

def bits_of(r:Inpainted, few=None) -> float:
    "Bits a hidden value."
    n = int((~r.seen[0]).sum())*r.image.shape[1]
    return -float(r.log_hidden_b[:few].double().mean())/n/math.log(2)

def asked(model, x, seen_hw) -> Inpainted:
    return inpaint(model, x, seen_hw, 0, rng(1), batch=50)

def saved(better_b, worse_b) -> dict:
    "What the first saves, image by image."
    told = mean_bits(worse_b - better_b)
    return dict(saved=told.bits, stderr=told.stderr)

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--data', default='fashion_mnist', help='a run that ships, of trees')
    p.add_argument('--images', type=int, default=500)
    p.add_argument('--few', type=int, default=100)
    p.add_argument('--valid', type=int, default=50)
    p.add_argument('--noises', type=float, nargs='+', default=[75., 150., 300.])
    p.add_argument('--ks', type=int, nargs='+', default=[3, 10, 30])
    a = p.parse_args()
    torch.set_num_threads(1)
    run, file = load_run(a.data, 'cpu'), RESULTS/f'fused-{a.data}.json'
    told = model_of(run)
    done = json.loads(file.read_text()) if file.is_file() else dict(
        data=a.data, images=a.images, few=a.few, valid=a.valid, noises={}, masks={}, commit=COMMIT)
    train, x, test = (images(a.data, split, n) for split, n in
                      (('train', None), ('valid', a.valid), ('test', a.images)))
    some, seen = ('left', 'centre', 'random90'), {m: MASKS[m](*x.shape[2:], rng(0)) for m in MASKS}
    for noise in (n for n in a.noises if f'{n:g}' not in done['noises']):
        fused = Fused(run.image, told, noise)
        found = [bits_of(asked(fused, x, seen[name])) for name in some]
        done['noises'][f'{noise:g}'] = sum(found)/len(found)
        save_json(file, done)
        print(noise, found, flush=True)
    done['noise'] = float(min(done['noises'], key=done['noises'].get))
    if 'k' not in done:
        done['ks'] = {k: sum(float(errors(nearest(train, x, seen[m], k), x, seen[m]).mean())
                             for m in some) for k in a.ks}
        done['k'] = min(done['ks'], key=done['ks'].get)
    heard = copy.deepcopy(told)
    heard.network = Heard(told.network, train, done['k'])
    one = Innovations(told.mu_d, told.S_dd, told.shape, told.cell, 1)
    others = json.loads((RESULTS/f'completions-{a.data}.json').read_text())['masks']
    models = {'circuit': run.image, 'network': told, 'fused': Fused(run.image, told, done['noise']),
              'neighbours': heard, 'with neighbours': Fused(run.image, heard, done['noise'])}
    for name in (m for m in MASKS if m not in done['masks']):
        k = others[name]['nearest']['k'] # chosen on validation images for this mask
        def off(mean):
            return errors(mean, test, seen[name])
        near_b = off(nearest(train, test, seen[name], k))
        normal_b = off(asked(one, test, seen[name]).mean)
        rs = {who: asked(model, test, seen[name]) for who, model in models.items()}
        se, rows = {who: off(r.mean) for who, r in rs.items()}, {}
        for who, r in rs.items():
            rows[who] = row(se[who], a.few) | dict(bits=bits_of(r), bits_few=bits_of(r, a.few),
                                                   nearer=saved(se[who], near_b))
        for who, by in (('circuit', 'fused'), ('network', 'fused'), ('circuit', 'with neighbours'),
                        ('fused', 'with neighbours'), ('neighbours', 'with neighbours')):
            bits_b, by_b = (-rs[m].log_hidden_b.double()/math.log(2) for m in (who, by))
            rows[who][f'saved by {by}'] = saved(by_b, bits_b)
        rows['nearest'] = row(near_b, a.few) | dict(k=k)
        rows['normal'] = row(normal_b, a.few) | dict(
            neighbours_save=saved(se['neighbours'], normal_b))
        done['masks'][name] = rows
        save_json(file, done)
        print(name, json.dumps(done['masks'][name]), flush=True)

if __name__=='__main__':
    main()
