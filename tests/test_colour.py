import pytest, torch
from pcdistill.colour import BT709_LOSSY, COLOURS, RGB, YCOCG_R, all_colours
from pcdistill.core import rng

def some(b=3, c=3, h=4, w=5): return torch.randint(0, 256, (b, c, h, w), generator=rng(0)).to(torch.uint8)

@pytest.mark.parametrize('colour', COLOURS.values(), ids=COLOURS)
@pytest.mark.parametrize('c', [1, 3])
def test_contract(colour, c):
    x = some(c=c); y = colour.forward(x)
    assert y.dtype==torch.int16 and y.shape==x.shape
    of_channels = (256, 511, 511) if colour is YCOCG_R and c==3 else (256,)*c
    assert colour.levels(c)==max(of_channels)
    for i, n in enumerate(of_channels): assert 0<=int(y[:,i].min()) and int(y[:,i].max())<n
    back = colour.inverse(y); hidden = colour.hidden_bits(x)
    assert back.dtype==torch.uint8 and hidden.shape==(3,) and hidden.dtype==torch.float64
    if c==1: assert (y==x).all() and (back==x).all() and (hidden==0).all()
    elif colour is BT709_LOSSY: assert (hidden>0).all() and (back.int() - x.int()).abs().max()<=3
    else: assert (back==x).all() and (hidden==0).all()

@pytest.mark.slow
def test_ycocg_r_inverts_exactly_on_every_colour():
    seen = torch.zeros(256*511*511, dtype=torch.bool)
    for x in all_colours():
        y = YCOCG_R.forward(x)
        assert (YCOCG_R.inverse(y)==x).all()
        a, b, c = y.long().unbind(1); seen[(a*511 + b)*511 + c] = True
    assert seen.sum()==2**24

def test_ycocg_r_against_the_lifting_steps_in_python():
    x = some(b=2)
    for r, g, b, got in zip(*x.unbind(1), YCOCG_R.forward(x).permute(0, 2, 3, 1)):
        for R, G, B, have in zip(r.flatten().tolist(), g.flatten().tolist(), b.flatten().tolist(), got.reshape(-1, 3).tolist()):
            co = R - B; t = B + co//2; cg = G - t
            assert have==[t + cg//2, co + 255, cg + 255]

def test_triples_that_are_no_colour_come_back_as_some_colour():
    y = torch.stack([torch.randint(0, n, (2, 9, 9), generator=rng(1), dtype=torch.int16) for n in (256, 511, 511)], 1)
    x = YCOCG_R.inverse(y)
    assert x.dtype==torch.uint8 and x.shape==y.shape
    white = torch.tensor([255, 510, 510], dtype=torch.int16).reshape(1, 3, 1, 1)     # would be brighter than white
    assert YCOCG_R.inverse(white).flatten().tolist()[1]==255

def test_mean_colours_of_ycocg_r():
    "The mean of colours from their mean in the other space: halves kept, nothing shifted, at most the floors are missing."
    x = some(b=400, h=1, w=1)
    even = (x[:, 0].int() - x[:, 2]) % 2==0                                                          # Co
    y = YCOCG_R.forward(x).double(); even = even & ((y[:, 2] - 255) % 2==0)                          # and Cg
    x = x[even.flatten()].double(); y = y[even.flatten()]
    assert len(x) > 50 and torch.equal(YCOCG_R.inverse(y), x)                                       # each by itself
    p = torch.rand(len(x), 1, 1, 1, generator=rng(2), dtype=torch.float64); p = p/p.sum()
    assert torch.allclose(YCOCG_R.inverse((p*y).sum(0, keepdim=True)), (p*x).sum(0, keepdim=True), atol=1e-9)
    x = some(b=400).double(); off = x - YCOCG_R.inverse(YCOCG_R.forward(x.byte()).double())
    assert off.min()==0 and off.max()==1 and set(off.unique().tolist())<={0, .25, .5, .75, 1.}

@pytest.mark.parametrize('colour', COLOURS.values(), ids=COLOURS)
@pytest.mark.parametrize('c', [1, 3])
def test_a_mean_of_one_colour_is_that_colour(colour, c):
    x = some(c=c, b=20); mean = colour.inverse(colour.forward(x).float())
    assert mean.dtype==torch.float32 and (mean - x).abs().max() <= {'rgb': 0, 'ycocg_r': 1, 'bt709_lossy': 2}[colour.name]*(c==3)
    assert (mean - x).mean().abs() < (.5 if c==3 else 1e-9)

def test_mean_grey_stays_grey_and_in_range():
    v = torch.tensor([0., 3.25, 128.5, 255.]).reshape(4, 1, 1, 1); none = torch.full((4, 1, 1, 1), 255.)
    assert torch.equal(YCOCG_R.inverse(torch.cat([v, none, none], 1)), v.expand(-1, 3, -1, -1))
    assert torch.allclose(BT709_LOSSY.inverse(torch.cat([v, none*0 + 128, none*0 + 128], 1)), v.expand(-1, 3, -1, -1), atol=1e-4)
    far = torch.tensor([250., 510., 0.]).reshape(1, 3, 1, 1); x = YCOCG_R.inverse(far); assert x.min()>=0 and x.max()<=255

@pytest.mark.slow
def test_bits_hidden_by_bt709_over_the_cube():
    n = BT709_LOSSY.preimages(); n = n[n>0].double()
    assert n.sum()==2**24 and len(n)==4_146_948
    assert abs((n*n.log2()).sum().item()/2**24/3 - .675) < 5e-4
    x = next(all_colours())[..., :1<<16]
    assert torch.allclose(BT709_LOSSY.hidden_bits(x), BT709_LOSSY.hidden_bits(x.reshape(3, -1).T[:, :, None, None]).sum())   # adds up over pixels

def test_refused(refuses):
    refuses(lambda: YCOCG_R.forward(torch.rand(1, 3, 2, 2)), 'uint8', 'float32')
    refuses(lambda: RGB.forward(torch.zeros(1, 3, 2, 2, dtype=torch.int64)), 'int64')
    for colour in (YCOCG_R, BT709_LOSSY):
        refuses(lambda: colour.forward(torch.zeros(1, 2, 2, 2, dtype=torch.uint8)), 'got 2')
        refuses(lambda: colour.levels(4), 'got 4')
    assert RGB.levels(4)==256
