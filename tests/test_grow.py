"Trees side by side, the operators of growing, and the loop: same as separate trees, exact steps, same numbers after a kill."
import functools
import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path
import pytest
import torch
from pcdistill import grow as G
from pcdistill.colour import COLOURS
from pcdistill.core import rng
from pcdistill.em import EM, tables
from pcdistill.emission import Labelled, family, from_spec, moments_of_rows
from pcdistill.grow import (GrowConfig, Part, clone_tree, divide, fit_grown, own_bits, reassign, split_labels,
                            states_of, train_trees, worst)
from pcdistill.image import Image, finetune, image_state, load_image
from pcdistill.runs import save
from pcdistill.structure import Tree, chow_liu
from pcdistill.latent_prior import fit_latent_prior
from pcdistill.trees import Trees, columns, stack, unstack

sys.path.insert(0, str(Path(__file__).parents[1]/'benchmarks'))
from cells import EXTRA, definitions

thinning = definitions(EXTRA/'thinning.ipynb')
seeds = pytest.mark.parametrize('seed', range(6))

def random_tree(D, gen):
    a = torch.rand(D, D, generator=gen)
    return chow_liu(a + a.T)

def some_parts(seed, D=4, V=2):
    "Single trees of random shapes, heads, states and weights."
    gen = rng(seed)
    out = []
    for _ in range(1 + seed % 4):
        tree = random_tree(D, gen)
        h, s = (int(torch.randint(1, 5, (), generator=gen)) for _ in range(2))
        p = Trees([tree], V, [h], [s], gen=gen)
        with torch.no_grad():
            for w, dim in tables(p):
                w.copy_((1.5*torch.randn(w.shape, generator=gen)).log_softmax(dim))
        out.append(p)
    return out

def everything(D, V=2):
    return torch.tensor(list(itertools.product(range(V), repeat=D)))

def same_tables(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))

# --- trees side by side

@seeds
def test_trees_side_by_side_are_what_they_were(seed):
    parts, gen = some_parts(seed, V=3), rng(seed)
    e = stack(parts)
    x, seen = torch.randint(0, 3, (30, 4), generator=gen), torch.rand(30, 4, generator=gen) < .6
    def want(*a):
        return torch.cat([p(*a) for p in parts], 1)
    assert torch.allclose(e(x), want(x), atol=1e-5) and torch.allclose(e(x, seen), want(x, seen), atol=1e-5)
    assert e.n_heads==sum(p.n_heads for p in parts)
    assert e.tree_k.tolist()==[c for c, p in enumerate(parts) for _ in range(p.n_heads)]
    lp_nch = e.own(x[:, None].expand(-1, len(parts), -1))
    for c, p in enumerate(parts):
        assert torch.allclose(lp_nch[:, c, :p.n_heads], p(x), atol=1e-5)
    for p, q in zip(parts, unstack(e)):
        assert p.trees==q.trees and all(torch.equal(a, b) for (a, _), (b, _) in zip(tables(p), tables(q)))

@seeds
def test_heads_sum_to_one(seed):
    e = stack(some_parts(seed))
    assert torch.allclose(e(everything(4)).exp().sum(0), torch.ones(e.n_heads), atol=1e-5)
    for p, dim in tables(e):
        assert torch.allclose(p.exp().sum(dim), torch.ones(()), atol=1e-5)

@seeds
def test_em_of_all_trees_is_em_of_each(seed):
    "Also: weights that are not there stay zero, with pseudocounts and without."
    parts, gen, n = some_parts(seed, V=3), rng(seed), 40
    e = stack(parts)
    x_ncd = torch.randint(0, 3, (n, len(parts), 4), generator=gen)
    h_nc = torch.stack([torch.randint(0, p.n_heads, (n,), generator=gen) for p in parts], 1)
    zero = [p.isneginf() for p, _ in tables(e)]
    for lr, alpha in ((1., 0.), (.3, .5), (1., .1)):
        (-e.own(x_ncd).gather(2, h_nc[..., None]).sum()).backward()
        EM(e, lr, alpha).step()
        for c, p in enumerate(parts):
            (-p(x_ncd[:, c]).gather(1, h_nc[:, c:c+1]).sum()).backward()
            EM(p, lr, alpha).step()
        assert all(torch.equal(p.isneginf(), z) for (p, _), z in zip(tables(e), zero))
    for c, (p, q) in enumerate(zip(parts, unstack(e))):
        used = torch.bincount(h_nc[:, c], minlength=p.n_heads) > 0
        assert torch.allclose(p(x_ncd[:, 0])[:, used], q(x_ncd[:, 0])[:, used], atol=1e-4)

@seeds
def test_moments_and_draws(seed):
    "Against enumeration; draws against probabilities."
    e, x, gen = stack(some_parts(seed)), everything(4), rng(seed)
    y, seen = torch.tensor([[1, 0, 0, 1]]), torch.tensor([[True, False, False, True]])
    w_1k = torch.rand(1, e.n_heads, generator=gen)
    w_1k /= w_1k.sum()
    fits = (x[:, 0]==1) & (x[:, 3]==1)
    p_xk = e(x[fits]).detach().exp()
    p_xk /= p_xk.sum(0)
    mean, entropy = moments_of_rows(e, y, seen, w_1k)
    assert torch.allclose(mean[0], (p_xk @ w_1k[0]) @ x[fits].float(), atol=1e-4)
    m = mean[0, 2]
    assert torch.allclose(entropy[0, 2], torch.special.entr(torch.stack([m, 1-m])).sum(), atol=1e-4) and entropy[0, 0]==0
    k, n = e.n_heads-1, 4000
    drawn = e.draw(y.expand(n, -1), seen.expand(n, -1), torch.full((n,), k), rng(1))
    assert (drawn[:, [0, 3]]==1).all()
    share = torch.stack([(drawn==r).all(1).float().mean() for r in x[fits]])
    assert (share - p_xk[:, k]).abs().max() < 5*.5/n**.5

def test_spec_survives_json():
    e = stack(some_parts(3))
    e.counts = tuple(range(1, e.n_heads+1))
    made = from_spec(json.loads(json.dumps(e.spec() | dict(kind='trees'))))
    made.load_state_dict(e.state_dict())
    assert isinstance(made, Trees) and torch.equal(made(everything(4)), e(everything(4))) and made.counts==e.counts

def test_trees_refuse(refuses):
    t = random_tree(4, rng(0))
    refuses(lambda: Trees([t, t], 2, [1], [2, 2]), 'each tree')
    refuses(lambda: Trees([t], 2, [0], [2]), 'heads')
    refuses(lambda: Trees([Tree((-1,), (0, 0))], 2, [1], [2]), 'each variable')

def test_columns():
    c_x = torch.tensor([0, 1, 0, 0, 2, 2, 0])
    r_nc = columns(c_x, 4, 100)
    assert r_nc.shape==(4, 4) and (c_x[r_nc[:, :3]]==torch.arange(3)).all() and (r_nc[:, 3]==0).all()
    for c in range(3):
        assert set(r_nc[:, c].tolist())==set((c_x==c).nonzero().flatten().tolist())
    assert len(columns(c_x, 3, 2))==2 and torch.equal(columns(c_x, 3, 9, rng(1)), columns(c_x, 3, 9, rng(1)))

@seeds
def test_a_label_is_the_best_head_of_its_tree(seed):
    "Against all heads of all trees; shares decide between them; a tree with counts is asked even if it is alone."
    parts, gen = some_parts(seed, V=3), rng(seed)
    e = stack(parts)
    x = torch.randint(0, 3, (60, 4), generator=gen)
    c_x = torch.randint(0, len(parts), (60,), generator=gen)
    elsewhere = e.tree_k!=c_x[:, None]
    if len(parts) > 1:
        assert torch.equal(e.label(x, c_x), e(x).masked_fill(elsewhere, -torch.inf).argmax(1))
    else:
        z_x = torch.randint(0, e.n_heads, (60,), generator=gen)
        assert torch.equal(e.label(x, z_x), z_x)
    e.counts = tuple(torch.randint(1, 50, (e.n_heads,), generator=gen).tolist())
    want = (e(x) + torch.tensor(e.counts).float().log()).masked_fill(elsewhere, -torch.inf).argmax(1)
    assert torch.equal(e.label(x, c_x), want)
    assert torch.equal(e.label(x[:0], c_x[:0]), c_x[:0])

# --- the operators

@seeds
def test_reassign_gains(seed):
    gen = rng(seed)
    L = torch.randn(100, 4, generator=gen)
    h = torch.randint(0, 4, (100,), generator=gen)
    def at(to):
        return L.gather(1, to[:, None])[:, 0]
    for inertia in (0., .5, 1.):
        to = reassign(L, h, inertia)
        assert (at(to) + inertia*(to==h) >= at(h) + inertia).all() and (at(to) >= at(h)).all()
    assert torch.equal(reassign(L, h, 0.), L.argmax(1)) and torch.equal(reassign(L, h, 100.), h)

@seeds
def test_worst_holds_just_enough(seed):
    gen = rng(seed)
    L = torch.randn(60, 6, generator=gen)
    h = torch.randint(0, 5, (60,), generator=gen)   # head 5 has no patches
    mean = {k: L[h==k, k].mean().item() for k in range(5)}
    order = worst(L, h, .4)
    assert order==sorted(mean, key=mean.get)[:len(order)]
    def held(ks):
        return sum(int((h==k).sum()) for k in ks)/60
    assert held(order) > .4 >= held(order[:-1])

@seeds
def test_copies_without_noise_change_nothing(seed):
    e, gen = some_parts(seed, V=3)[0], rng(seed)
    x = torch.randint(0, 3, (30, 4), generator=gen)
    h = torch.randint(0, e.n_heads, (30,), generator=gen)
    source, S = [*range(e.n_heads), 0], e.pc.n_states
    for more in (0., .6):
        states_ls = states_of(Part(e, h), x, more)
        plain, noisy = (clone_tree(e, source, states_ls, noise, gen) for noise in (0., .3))
        assert plain.states==(S + round(more*S),) and torch.allclose(plain(x), e(x)[:, source], atol=1e-4)
        if plain.states[0] > 1:
            assert not torch.allclose(noisy(x)[:, :-1], e(x), atol=1e-4)
            assert not torch.allclose(noisy(x)[:, -1], noisy(x)[:, 0], atol=1e-4)
    if e.n_heads > 1:
        assert torch.allclose(clone_tree(e, [1], torch.arange(S), 0., gen)(x), e(x)[:, 1:2], atol=1e-4)

def weights(m):
    return sum(int((~p.isneginf()).sum()) for p in m.parameters())

def wide(seed, D=5, V=30, S=20, K=3):
    gen = rng(seed)
    e = Trees([random_tree(D, gen)], V, [K], [S], gen=gen)
    y, h = torch.randint(0, V, (200, D), generator=gen), torch.randint(0, K, (200,), generator=gen)
    return Part(e, h), y, gen

def thinned(part, y, below):
    thinning.thin_(part.e.pc, part.own(y), len(y), below)
    return part

@seeds
def test_thin(seed):
    "What goes is what few use; everything stays possible, and heads sum to one."
    part, x, _ = wide(seed, D=3, V=5)
    pc, lp_dvs = part.e.pc, part.e.pc.inputs.logp_dvs
    keep = lp_dvs.detach().clone()
    flow, = torch.autograd.grad(part.own(x)(torch.arange(200)).sum(), lp_dvs)
    thinned(part, x, 2.)
    gone = lp_dvs.isneginf()
    assert gone.any() and not gone[..., 0].any()
    assert torch.equal(gone[..., 1:], ((flow < 2) & (flow < flow.amax(1, keepdim=True)))[..., 1:])
    left = torch.where(gone, -torch.inf, keep).log_softmax(1)
    assert torch.allclose(lp_dvs[..., 1:].exp(), left[..., 1:].exp(), atol=1e-6, equal_nan=True)
    every = everything(3, 5)
    assert part.e(every).isfinite().all() and torch.allclose(part.e(every).exp().sum(0), torch.ones(3), atol=1e-4)
    with torch.no_grad():
        pc.edges_est.masked_fill_(torch.rand(pc.edges_est.shape, generator=rng(seed)) < .8, -torch.inf)
        pc.edges_est[:, 1] = 0.
        pc.edges_est.copy_(pc.edges_est.log_softmax(1))
    thinned(part, x, 2.)
    assert part.e(every).isfinite().all()
    (-part.e(x).sum()).backward()
    EM(part.e, .7, .1).step()
    assert torch.equal(lp_dvs.isneginf() | gone, lp_dvs.isneginf()) and part.e(every).isfinite().all()

@seeds
def test_the_budget_is_what_was_taken_out(seed):
    part, x, gen = wide(seed)
    config, size = thinning.Thinned(states=20, heads=3, thin=3.), weights(part.e)
    assert size==20*(5*30 + 4*20 + 3) and thinning.budget(part.e, 20) < 1e-6
    assert thinning.budget(part.e, 15)==0
    part, share = config.room(part, x)
    assert weights(part.e) < .9*size and share==thinning.budget(part.e, 20)
    copied, apart = (clone_tree(part.e, range(3), states_of(part, x, share), noise, gen) for noise in (0., .2))
    assert apart.states[0] > 20 and abs(weights(apart)/size - 1) < .1
    assert torch.allclose(copied(x), part.e(x), atol=1e-3)

def test_split_labels():
    gen = rng(0)
    f = torch.cat([torch.randn(50, 2, generator=gen) + 20*i for i in range(3)])
    h = torch.tensor([0]*50 + [1]*100)
    to = split_labels(f, h, [1], [2], gen)
    assert torch.equal(to==0, h==0) and set(to[50:].tolist())=={1, 2}
    assert len(to[50:100].unique())==len(to[100:].unique())==1
    assert torch.equal(split_labels(torch.zeros(150, 2), h, [1], [2], gen), h)   # nothing to tell apart

# --- the loop

def two_clusters(seed=0, n=600):
    "Patches of six variables with structure: in each cluster three kinds of patch."
    gen = rng(seed)
    kind = torch.randint(0, 6, (n,), generator=gen)
    base = torch.randint(0, 4, (6, 6), generator=rng(99))
    other = torch.rand(n, 6, generator=gen) < .25
    y = torch.where(other, torch.randint(0, 4, (n, 6), generator=gen), base[kind])
    return y, y.float() + .1*torch.randn(n, 6, generator=gen), kind//3

def rows_of(y, f, c, n_values=4):
    return Labelled(y, c, n_values, int(c.max())+1, 1, f)

Y, F, C = two_clusters()
ROWS = rows_of(Y, F, C)
CONFIG = GrowConfig(heads=3, rounds=3, states=2, epochs=4, batch=100, copy=.5)
THINNED = thinning.Thinned(heads=3, rounds=2, states=8, epochs=4, batch=100, thin=5.)

def run(config=CONFIG, rows=ROWS, ckpt=None, seed=3):
    return fit_grown(rows, config, rng(seed), ckpt, False)

@functools.cache
def grown(config=CONFIG):
    "The same, once for all tests that only look at it."
    return run(config)

def agree(a, b):
    return a[1]==b[1] and a[0].spec()==b[0].spec() and same_tables(a[0], b[0])

def test_what_is_asked_is_what_is_built():
    start = grown(replace(CONFIG, rounds=0, states=5))[0]
    assert start.states==(5,)*len(start.heads) and set(grown()[0].states) <= {2, 3, 4, 5, 6, 7}
    assert all(p.states==(3,) for p in unstack(run(replace(CONFIG, rounds=0, states=3))[0]))

def test_history_is_what_happened():
    "Each round starts where the last one ended; heads come as told, and the trees are worth what is said."
    e, history = grown()
    assert e.heads==(3, 3) and max(e.states) > 2
    for c in (0, 1):
        mine = [r for r in history if r['tree']==c]
        assert [r['round'] for r in mine]==list(range(1, len(mine)+1))
        assert len(mine[0]['patches'])==1 and sum(mine[0]['patches'])==int((C==c).sum())
        for a, b in zip(mine, mine[1:]):
            assert b['bits']['before']==a['bits']['after'] and set(a['split']) <= set(range(len(a['patches'])))
            assert len(b['patches']) <= len(a['patches']) + len(a['new'])
    stop = grown(replace(CONFIG, rounds=1))
    assert stop[1]==history[:2]             # a round does not know how many will follow
    nats = torch.tensor([0., 0.]).double()
    for r in stop[1]:
        nats[r['tree']] = -r['bits']['after']*6*0.6931471805599453
    best = stop[0](Y).detach().double().masked_fill(stop[0].tree_k!=C[:, None], -torch.inf).amax(1)
    for c in (0, 1):                        # a patch's own head is at most its best one
        assert best[C==c].mean() >= nats[c] - 1e-4
    json.dumps(history, allow_nan=False)

def test_a_division_adds_heads_and_leaves_the_tree_alone():
    start = run(replace(CONFIG, rounds=0))[0]
    one = unstack(start)[0]
    part, y, f = Part(one, torch.zeros(int((C==0).sum()), dtype=torch.long)), Y[C==0], F[C==0]
    kept = [p.clone() for p in one.parameters()]
    new, told = divide(part, y, f, CONFIG, rng(0))
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), kept))
    assert told['split']==[0] and told['new']==[1] and 0 < told['moved']==int((new.h_x!=0).sum())
    assert new.e.n_heads==2 and new.e.states==(3,) and own_bits(part, y) > 0
    same, told = divide(part, y, f*0, CONFIG, rng(0))       # nothing to tell apart
    assert told==dict(split=[0], new=[], moved=0) and same.e.n_heads==1 and same.e.states==(2,)

def test_labels_are_latent_values():
    e, _ = grown()
    z, lp = e.label(Y, C), e(Y)
    assert sum(e.counts)==len(Y) and min(e.counts) > 0
    assert torch.equal(e.tree_k[z], C) and len(z.unique()) > 3
    share, of_c = torch.tensor(e.counts).double(), torch.zeros(2).double()
    share = share/of_c.index_add_(0, e.tree_k, share)[e.tree_k]
    want = (lp + share.log().float()).masked_fill(e.tree_k!=C[:, None], -torch.inf).argmax(1)
    assert torch.equal(z, want)

def test_one_cluster_grows_too():
    "A lone tree that grew names heads by its own likelihood, not by the cluster's number."
    rows = rows_of(Y, F, C*0)
    e, _ = run(replace(CONFIG, heads=4), rows)
    assert len(e.trees)==1 and e.n_heads > 1 and len(e.label(Y, C*0).unique()) > 1

def test_same_seed_same_heads():
    assert agree(run(), grown())

def test_it_is_a_family_like_the_others():
    made = family('grown')
    assert made.config is GrowConfig and agree(made.fit(ROWS, CONFIG, rng(3), None, False), grown())

@pytest.mark.parametrize('config', [replace(c, epochs=2, rounds=2) for c in (CONFIG, THINNED)], ids=['plain', 'thinned'])
@pytest.mark.parametrize('where,call', [('_round', 1), ('_round', 2), ('train_trees', 1), ('train_trees', 3), ('divide', 2), ('own_bits', 4)])
def test_a_killed_run_ends_with_the_same_heads(tmp_path, monkeypatch, where, call, config):
    whole, calls, real = grown(config), itertools.count(1), getattr(G, where)
    def dies(*a):
        if next(calls)==call:
            raise KeyboardInterrupt
        return real(*a)
    monkeypatch.setattr(G, where, dies)
    with pytest.raises(KeyboardInterrupt):
        run(config, ckpt=tmp_path/'grow.ckpt')
    monkeypatch.setattr(G, where, real)
    again = run(config, ckpt=tmp_path/'grow.ckpt')
    assert (tmp_path/'grow.ckpt').exists() and agree(whole, again)
    assert agree(whole, run(config, ckpt=tmp_path/'grow.ckpt'))         # and when all is done

def test_trees_without_differences_stay_single():
    y, f = Y.clone(), F.clone()
    y[C==1], f[C==1] = 2, 0.                  # in cluster 1 there is nothing to tell apart
    e, history = run(CONFIG, rows_of(y, f, C), seed=0)
    assert not any(r['new'] for r in history if r['tree']==1)
    assert e.heads==(3, 1) and e.states[0] > e.states[1]==2

def test_weights_stay_what_they_were():
    e, history = grown(THINNED)
    size = 8*(6*4 + 5*8 + THINNED.heads)
    assert max(e.states) > 8 and any(r['new'] for r in history)
    assert all(weights(part) <= 1.1*size for part in unstack(e))
    assert agree((e, history), run(THINNED))
    assert e(two_clusters(7, 300)[0]).isfinite().all()

def test_start_with_two_heads():
    e, history = run(GrowConfig(heads=2, start=2, rounds=0, states=3, epochs=3, batch=100))
    assert e.heads==(2, 2) and history==[]

def test_few_patches_lose_no_cluster(monkeypatch):
    "Of so few rows that one cluster would be gone, each keeps one; batches are made for the rows there are."
    few, seen = replace(CONFIG, n_fit=10, rounds=0), []
    c = (torch.arange(600) < 3).long()          # three patches of 600
    def watched(parts, ys, config, gen, real=G.train_trees):
        seen.append((list(map(len, ys)), config.batch))
        return real(parts, ys, config, gen)
    monkeypatch.setattr(G, 'train_trees', watched)
    e, _ = run(few, rows_of(Y, F, c))
    assert seen==[([10, 1], 1)] and e.counts==(10, 1)
    run(replace(few, n_fit=10**9), rows_of(Y, F, c))
    assert seen[1]==([597, 3], 38)
    run(replace(few, n_fit=10**9, batch=7), rows_of(Y, F, c))
    assert seen[2][1]==7

def test_grow_refuses(refuses):
    refuses(lambda: run(rows=rows_of(Y, F[1:], C)), '599 features')
    refuses(lambda: run(rows=rows_of(Y, None, C)), '0 features')
    refuses(lambda: run(rows=rows_of(Y, F, C[1:])), 'one label a patch')
    refuses(lambda: run(rows=rows_of(Y, F, C*2)), 'empty')
    refuses(lambda: run(GrowConfig(start=5)), 'at first')

def test_training_trains_each_patch_in_its_own_head():
    parts = [Part(e, torch.arange(len(Y)) % e.n_heads) for e in some_parts(2, D=6, V=4)]
    more = train_trees(parts, [Y]*len(parts), replace(CONFIG, epochs=3), rng(0))
    for old, new in zip(parts, more):
        every = torch.arange(len(Y))
        assert new.own(Y)(every).mean() > old.own(Y)(every).mean() and torch.equal(new.h_x, old.h_x)
        assert own_bits(new, Y) < own_bits(old, Y)

def test_grown_trees_under_a_prior(tmp_path):
    "Images of 2×4 bits in two patches: mass one over all images; EM, holes and files work."
    gen = rng(0)
    x = (torch.rand(400, 1, 2, 1, generator=gen) < .5).expand(-1, -1, -1, 4).to(torch.uint8)
    x = torch.where(torch.rand(x.shape, generator=gen) < .1, 1-x, x)
    y = x.view(400, 1, 2, 2, 2).permute(0, 3, 2, 4, 1).reshape(800, 4).long()
    c = (y.sum(1) > 1).long()
    config = GrowConfig(heads=2, rounds=1, states=2, epochs=3, batch=100)
    e, _ = run(config, rows_of(y, y.float(), c, n_values=2), seed=1)
    assert e.n_heads > 2
    image = Image(e, fit_latent_prior(e.label(y, c).view(400, 2), e.n_heads), COLOURS['rgb'], 2, (1, 2, 4))
    every = everything(8).view(-1, 1, 2, 4).to(torch.uint8)
    assert image(every).exp().sum().item()==pytest.approx(1, abs=1e-4)
    history = finetune(image, x, rng(2), epochs=3, batch=400, micro=400, lr=(1., 1.), pseudocount=0., progress=False)
    assert history[0] <= history[1] + 1e-5 <= history[2] + 2e-5
    assert image(every).exp().sum().item()==pytest.approx(1, abs=1e-4)
    seen = torch.ones(3, 2, 4, dtype=torch.bool)
    seen[:, :, 1:3] = False
    filled = image.draw(x[:3], seen, rng(0))
    assert torch.equal(filled[..., [0, 3]], x[:3][..., [0, 3]]) and int(filled.max()) <= 1
    fits = [(every[..., [0, 3]]==r[..., [0, 3]]).flatten(1).all(1) for r in x[:3]]
    want = torch.stack([image(every[f]).exp().sum() for f in fits])
    assert torch.allclose(image(x[:3], seen).exp(), want, atol=1e-5)
    mean, p = image.moments(x[:3], seen).mean_bchw[0, 0, 0, 1], image(every[fits[0]]).exp().detach()
    assert mean.item()==pytest.approx(float((p*every[fits[0]][:, 0, 0, 1]).sum()/p.sum()), abs=1e-4)
    save(tmp_path/'i.safetensors', *image_state(image))
    again = load_image(tmp_path/'i.safetensors')
    assert torch.equal(again(x), image(x)) and torch.equal(again.tiles.emission.label(y, c), e.label(y, c))
