"Several bodies in one leaf, the operators of growing, and the loop: same as separate circuits, exact steps, same numbers after a kill."
import itertools, json
import pytest, torch
from pcdistill import grow as G
from pcdistill.blocks import GaussianBlock
from pcdistill.circuit import Circuit
from pcdistill.colour import COLOURS
from pcdistill.core import rng
from pcdistill.em import EM, tables
from pcdistill.grow import GrowConfig, clone_heads, columns, grow, grow_blocks, more_states, reassign, room, scores, settle, shortfall, split_component, split_labels, train_, worst, worth
from pcdistill.inputs import Categorical
from pcdistill.joint import Joint, finetune, load_joint, save_joint
from pcdistill.leaf import Bodies, HCLTLeaf, apart, leaf_from_spec, together
from pcdistill.resize import thin_
from pcdistill.structure import Tree, chow_liu
from pcdistill.top import fit_top

seeds = pytest.mark.parametrize('seed', range(6))

def some_parts(seed, D=4, V=2):
    "Bodies of random trees, heads, states and weights."
    gen = rng(seed); n = 1 + seed % 4; out = []
    for c in range(n):
        a = torch.rand(D, D, generator=gen)
        h, s = (int(torch.randint(1, 5, (), generator=gen)) for _ in range(2))
        p = HCLTLeaf(chow_liu(a + a.T), Categorical(D, V, s, gen), h, gen)
        with torch.no_grad():
            for w, dim in tables(p): w.copy_((1.5*torch.randn(w.shape, generator=gen)).log_softmax(dim))
        out.append(p)
    return out

def everything(D, V=2): return torch.tensor(list(itertools.product(range(V), repeat=D)))

# --- a leaf with several bodies

@seeds
def test_bodies_are_the_circuits_they_were(seed):
    parts = some_parts(seed, V=3); leaf = together(parts); gen = rng(seed)
    x = torch.randint(0, 3, (30, 4), generator=gen); seen = torch.rand(30, 4, generator=gen) < .6
    want = lambda *a: torch.cat([p(*a) for p in parts], 1)
    assert torch.allclose(leaf(x), want(x), atol=1e-5) and torch.allclose(leaf(x, seen), want(x, seen), atol=1e-5)
    assert leaf.n_heads==sum(p.n_heads for p in parts) and leaf.body_k.tolist()==[c for c, p in enumerate(parts) for _ in range(p.n_heads)]
    lp_nch = leaf.own(x[:, None].expand(-1, len(parts), -1))
    for c, p in enumerate(parts):
        assert torch.allclose(lp_nch[:, c, :p.n_heads], p(x), atol=1e-5) and lp_nch[:, c, p.n_heads:].isneginf().all()
    for p, q in zip(parts, apart(leaf)):
        assert p.tree==q.tree and all(torch.equal(a, b) for (a, _), (b, _) in zip(tables(p), tables(q)))

@seeds
def test_heads_sum_to_one(seed):
    leaf = together(some_parts(seed)); x = everything(4)
    assert torch.allclose(leaf(x).exp().sum(0), torch.ones(leaf.n_heads), atol=1e-5)
    for p, dim in tables(leaf): assert torch.allclose(p.exp().sum(dim), torch.ones(()), atol=1e-5)

@seeds
def test_em_of_all_bodies_is_em_of_each(seed):
    "Also: weights that are not there stay zero, with pseudocounts and without."
    parts = some_parts(seed, V=3); leaf = together(parts); gen = rng(seed); n = 40
    x_ncd = torch.randint(0, 3, (n, len(parts), 4), generator=gen); h_nc = torch.stack([torch.randint(0, p.n_heads, (n,), generator=gen) for p in parts], 1)
    zero = [p.isneginf() for p, _ in tables(leaf)]
    for lr, alpha in ((1., 0.), (.3, .5), (1., .1)):
        (-leaf.own(x_ncd).gather(2, h_nc[..., None]).sum()).backward(); EM(leaf, lr, alpha).step()
        for c, p in enumerate(parts): (-p(x_ncd[:, c]).gather(1, h_nc[:, c:c+1]).sum()).backward(); EM(p, lr, alpha).step()
        assert all(torch.equal(p.isneginf(), z) for (p, _), z in zip(tables(leaf), zero))
    for p, q in zip(parts, apart(leaf)):
        used = torch.bincount(h_nc[:, parts.index(p)], minlength=p.n_heads) > 0
        assert torch.allclose(p(x_ncd[:, 0])[:, used], q(x_ncd[:, 0])[:, used], atol=1e-4)

@seeds
def test_moments_and_fill(seed):
    "Against enumeration; draws against probabilities."
    leaf = together(some_parts(seed)); x = everything(4); gen = rng(seed)
    y, seen = torch.tensor([[1, 0, 0, 1]]), torch.tensor([[True, False, False, True]])
    p_1k = torch.rand(1, leaf.n_heads, generator=gen); p_1k /= p_1k.sum()
    fits = (x[:, 0]==1) & (x[:, 3]==1)
    p_xk = leaf(x[fits]).exp(); p_xk /= p_xk.sum(0); p_x = p_xk @ p_1k[0]
    mean, entropy = leaf.moments(y, seen, p_1k)
    assert torch.allclose(mean[0], p_x @ x[fits].float(), atol=1e-4)
    m = mean[0, 2]; assert torch.allclose(entropy[0, 2], torch.special.entr(torch.stack([m, 1-m])).sum(), atol=1e-4) and entropy[0, 0]==0
    k, n = leaf.n_heads-1, 4000
    drawn = leaf.fill(y.expand(n, -1), seen.expand(n, -1), torch.full((n,), k), rng(1))
    assert (drawn[:, [0, 3]]==1).all()
    share = torch.stack([(drawn==r).all(1).float().mean() for r in x[fits]])
    assert (share - p_xk[:, k]).abs().max() < 5*.5/n**.5

def test_spec_survives_json():
    leaf = together(some_parts(3)); made = leaf_from_spec(json.loads(json.dumps(leaf.spec()))); made.load_state_dict(leaf.state_dict())
    assert isinstance(made, Bodies) and torch.equal(made(everything(4)), leaf(everything(4)))

def test_bodies_refuse(refuses):
    t = chow_liu(torch.rand(4, 4, generator=rng(0)))
    refuses(lambda: Bodies([t, t], 2, [1], [2, 2]), 'each body')
    refuses(lambda: Bodies([t], 2, [0], [2]), 'heads [0]')
    refuses(lambda: Bodies([Tree((-1,), (0, 0))], 2, [1], [2]), 'one a variable')
    refuses(lambda: together(some_parts(1)).own(torch.zeros(3, 9, 4).long()), 'each of 2 bodies', '9')

# --- the operators

def test_columns():
    c_x = torch.tensor([0, 1, 0, 0, 2, 2, 0]); r_nc = columns(c_x, 4, 100)
    assert r_nc.shape==(4, 4) and (c_x[r_nc[:, :3]]==torch.arange(3)).all() and (r_nc[:, 3]==0).all()
    for c in range(3): assert set(r_nc[:, c].tolist())==set((c_x==c).nonzero().flatten().tolist())
    assert len(columns(c_x, 3, 2))==2 and torch.equal(columns(c_x, 3, 9, rng(1)), columns(c_x, 3, 9, rng(1)))

@seeds
def test_scores(seed):
    parts = some_parts(seed); leaf = together(parts); gen = rng(seed)
    x = torch.randint(0, 2, (50, 4), generator=gen); c_x = torch.randint(0, len(parts), (50,), generator=gen)
    for micro in (3, 1000):
        L_xh = scores(leaf, x, c_x, micro)
        for i in range(50):
            p = parts[c_x[i]]; assert torch.allclose(L_xh[i, :p.n_heads], p(x[i:i+1])[0], atol=1e-5) and L_xh[i, p.n_heads:].isneginf().all()

def test_worth(refuses):
    "The best belief by brute force; one at price 1, the best head at none; monotone in between."
    gen = rng(0); L = 3*torch.randn(20, 3, generator=gen).double(); w = torch.rand(20, 3, generator=gen).double(); w /= w.sum(1, keepdim=True)
    w[:3, 0] = 0; w /= w.sum(1, keepdim=True)
    assert torch.allclose(worth(L, w.log()), (w*L.exp()).sum(1).log())
    prices = [worth(L, w.log(), b) for b in (1., .5, .1, .001)]
    assert all((b >= a - 1e-9).all() for a, b in zip(prices, prices[1:])) and torch.allclose(prices[-1], L.masked_fill(w==0, -torch.inf).amax(1), atol=.01)
    q = (L/.5 + w.log()).softmax(1); value = (q*L).sum(1) - .5*torch.special.xlogy(q, q/w.clamp_min(1e-300)).sum(1)
    assert torch.allclose(value, prices[1])
    other = (q*torch.rand(20, 3, generator=gen).double()); other /= other.sum(1, keepdim=True)
    assert ((other*L).sum(1) - .5*torch.special.xlogy(other, other/w.clamp_min(1e-300)).sum(1) <= prices[1] + 1e-9).all()
    refuses(lambda: worth(L, w.log(), 0.), 'price', '0.0')

@seeds
def test_reassign_gains(seed):
    gen = rng(seed); L = torch.randn(100, 4, generator=gen); h = torch.randint(0, 4, (100,), generator=gen)
    total = lambda to, inertia: L.gather(1, to[:, None])[:, 0] + inertia*(to==h)
    for inertia in (0., .5, 1.): assert (total(reassign(L, h, inertia), inertia) >= total(h, inertia)).all() and (L.gather(1, reassign(L, h, inertia)[:, None]) >= L.gather(1, h[:, None])).all()
    assert torch.equal(reassign(L, h, 0.), L.argmax(1)) and torch.equal(reassign(L, h, 100.), h)

@seeds
def test_worst_holds_just_enough(seed):
    gen = rng(seed); L = torch.randn(60, 6, generator=gen); h = torch.randint(0, 5, (60,), generator=gen)  # head 5 has no patches
    mean = {k: L[h==k, k].mean().item() for k in range(5)}; order = worst(L, h, .4)
    assert order==sorted(mean, key=mean.get)[:len(order)]
    held = lambda ks: sum(int((h==k).sum()) for k in ks)/60
    assert held(order) > .4 >= held(order[:-1])

@seeds
def test_copies_without_noise_change_nothing(seed):
    pc = some_parts(seed, V=3)[0]; gen = rng(seed); x = torch.randint(0, 3, (30, 4), generator=gen); h = torch.randint(0, pc.n_heads, (30,), generator=gen)
    source = [*range(pc.n_heads), 0]
    assert torch.allclose(clone_heads(pc, source, 0., gen)(x), pc(x)[:, source], atol=1e-5)
    noisy = clone_heads(pc, source, .3, gen)
    assert torch.equal(noisy(x)[:, :-1], clone_heads(pc, source, 0., gen)(x)[:, :-1])                    # only the copy moves
    if pc.n_states > 1: assert not torch.allclose(noisy(x)[:, -1], pc(x)[:, 0], atol=1e-4)
    more = more_states(pc, x, h, .6, 0., gen)
    assert more.n_states==pc.n_states + round(.6*pc.n_states) and torch.allclose(more(x), pc(x), atol=1e-4)

weights = lambda m: sum(int((~p.isneginf()).sum()) for p in m.parameters())

own = lambda pc, x, h: lambda r: pc(x[r]).gather(1, h[r, None])[:, 0]

def wide(seed, D=5, V=30, S=20, K=3):
    gen = rng(seed); pc = HCLTLeaf(chow_liu(torch.rand(D, D, generator=gen).fill_(1.)), Categorical(D, V, S, gen), K, gen)
    return pc, torch.randint(0, V, (200, D), generator=gen), torch.randint(0, K, (200,), generator=gen), gen

@seeds
def test_thin(seed):
    "What goes is what few use; everything stays possible, and heads sum to one."
    pc, x, h, _ = wide(seed, D=3, V=5); keep = pc.inputs.logp_dvs.detach().clone()
    lp_dvs = pc.inputs.logp_dvs; flow, = torch.autograd.grad(pc(x).gather(1, h[:, None]).sum(), lp_dvs); thin_(pc, own(pc, x, h), 200, 2.)
    gone = lp_dvs.isneginf(); assert gone.any() and torch.equal(gone[..., 1:], ((flow < 2) & (flow < flow.amax(1, keepdim=True)))[..., 1:]) and not gone[..., 0].any()
    left = torch.where(gone, -torch.inf, keep).log_softmax(1); assert torch.allclose(lp_dvs[..., 1:].exp(), left[..., 1:].exp(), atol=1e-6, equal_nan=True)
    every = everything(3, 5); assert pc(every).isfinite().all() and torch.allclose(pc(every).exp().sum(0), torch.ones(3), atol=1e-4)
    with torch.no_grad(): pc.edges_est.masked_fill_(torch.rand(pc.edges_est.shape, generator=rng(seed)) < .8, -torch.inf); pc.edges_est[:, 1] = 0.; pc.edges_est.copy_(pc.edges_est.log_softmax(1))
    thin_(pc, own(pc, x, h), 200, 2.); assert pc(every).isfinite().all()
    (-pc(x).sum()).backward(); EM(pc, .7, .1).step(); assert torch.equal(lp_dvs.isneginf() | gone, lp_dvs.isneginf()) and pc(every).isfinite().all()

@seeds
def test_room_is_what_was_taken_out(seed):
    pc, x, h, gen = wide(seed); config = GrowConfig(states=20, heads=3); size = weights(pc)
    assert size==20*(5*30 + 4*20 + 3) and room(pc, config) < 1e-6 and room(pc, GrowConfig(states=15, heads=3))==0
    thin_(pc, own(pc, x, h), 200, 3.); assert weights(pc) < .9*size
    more = more_states(pc, x, h, room(pc, config), .2, gen)
    assert more.n_states > 20 and abs(weights(more)/size - 1) < .1
    assert torch.allclose(more_states(pc, x, h, room(pc, config), 0., gen)(x), pc(x), atol=1e-3)

def test_split_labels():
    gen = rng(0); f = torch.cat([torch.randn(50, 2, generator=gen), torch.randn(50, 2, generator=gen) + 20, torch.randn(50, 2, generator=gen) + 40])
    h = torch.tensor([0]*50 + [1]*100)
    to = split_labels(f, h, [1], [2], gen)
    assert torch.equal(to==0, h==0) and len(to[50:100].unique())==len(to[100:].unique())==1 and set(to[50:].tolist())=={1, 2}
    same = torch.zeros(150, 2); assert torch.equal(split_labels(same, h, [1], [2], gen), h)              # nothing to tell apart

# --- the loop

def two_clusters(seed=0, n=600):
    "Patches of six variables with structure: in each cluster three kinds of patch."
    gen = rng(seed); kind = torch.randint(0, 6, (n,), generator=gen)
    base = torch.randint(0, 4, (6, 6), generator=rng(99))
    y = torch.where(torch.rand(n, 6, generator=gen) < .25, torch.randint(0, 4, (n, 6), generator=gen), base[kind])
    return y, y.float() + .1*torch.randn(n, 6, generator=gen), kind//3

CONFIG = GrowConfig(heads=3, rounds=3, states=2, epochs=4, batch=100, copy=.5, price=.3, sure=0.)
def run(**more):
    y, f, c = two_clusters(); v, _, c_v = two_clusters(7, 300)
    return grow(y, f, c, 4, **dict(dict(config=CONFIG, gen=rng(3), valid=(v, c_v), progress=False), **more))

def test_accepted_divisions_gain_on_validation():
    grown = run(); taken = [r for r in grown.history if r['accepted']]
    assert taken and grown.leaf.n_heads > 2
    for r in grown.history: assert r['accepted']==(bool(r['new']) and r['bits']['with_it'] < min(r['bits']['before'], r['bits']['without']))
    for c in (0, 1):
        mine = [r for r in grown.history if r['body']==c]
        for a, b in zip(mine, mine[1:]): assert a['accepted'] and b['bits']['before']==pytest.approx(min(a['bits'].values()), abs=1e-5)
        v, _, c_v = two_clusters(7, 300); last = grown.leaf(v[c_v==c]).detach()[:, grown.leaf.body_k==c].double()    # and the leaf is worth what the history says
        share = torch.bincount(grown.z_x, minlength=grown.leaf.n_heads)[grown.leaf.body_k==c].double(); share /= share.sum()
        said = min(mine[-1]['bits'].values())
        assert -float(worth(last, share.log()[None], .3).mean())/(6*0.6931471805599453)==pytest.approx(said, abs=1e-4)
    json.dumps(grown.history)

def test_luck_is_not_enough():
    "Mean and standard error of the paired gain, body by body, against numpy-like formulas; more wanted, fewer kept."
    gen = rng(0); d = torch.randn(90, generator=gen).double() + .2; c_v = torch.arange(90) % 3; zero = torch.zeros(90).double()
    for sure in (0., 1., 2., 5.):
        want = [bool(d[c_v==c].mean() > sure*d[c_v==c].std(correction=0)/30**.5) for c in range(3)]
        assert G._gains(d, zero, c_v, 4, sure).tolist()==[*want, False]                  # nobody to judge by: no gain
    from dataclasses import replace
    kept = [sum(r['accepted'] for r in run(config=replace(CONFIG, sure=sure)).history) for sure in (0., 1e3)]
    assert kept[0] > kept[1]==0

def test_labels_are_latent_values():
    grown = run(); y, _, c = two_clusters()
    assert torch.equal(grown.leaf.body_k[grown.z_x], c) and set(grown.z_x.tolist())==set(range(grown.leaf.n_heads))
    z = settle(grown, y, c); lp = grown.leaf(y)
    share = torch.bincount(grown.z_x, minlength=grown.leaf.n_heads).double(); share = share/torch.zeros(2).double().index_add_(0, grown.leaf.body_k, share)[grown.leaf.body_k]
    assert torch.equal(z, (lp + share.log().float()).masked_fill(grown.leaf.body_k!=c[:, None], -torch.inf).argmax(1))

def test_same_seed_same_heads():
    a, b = run(), run()
    assert torch.equal(a.z_x, b.z_x) and a.history==b.history and all(torch.equal(p, q) for p, q in zip(a.leaf.parameters(), b.leaf.parameters()))

@pytest.mark.parametrize('thinned', [False, True])
@pytest.mark.parametrize('where,call', [('_round', 1), ('_round', 2), ('_trained', 1), ('_trained', 3), ('_tell', 2)])
def test_a_killed_run_ends_with_the_same_heads(tmp_path, monkeypatch, where, call, thinned):
    from dataclasses import replace
    config = replace(CONFIG, states=8, copy=None, thin=5., rounds=2) if thinned else CONFIG
    whole, calls, real = run(config=config), [0], getattr(G, where)
    def dies(*a):
        calls[0] += 1
        if calls[0]==call: raise KeyboardInterrupt
        return real(*a)
    monkeypatch.setattr(G, where, dies)
    with pytest.raises(KeyboardInterrupt): run(config=config, ckpt=tmp_path/'grow.ckpt')
    monkeypatch.setattr(G, where, real)
    b = run(config=config, ckpt=tmp_path/'grow.ckpt'); assert (tmp_path/'grow.ckpt').exists()
    assert torch.equal(whole.z_x, b.z_x) and whole.history==b.history and all(torch.equal(p, q) for p, q in zip(whole.leaf.parameters(), b.leaf.parameters()))

def test_without_validation_all_divisions_are_kept_and_unsplit_bodies_stay_single():
    y, f, c = two_clusters(); y[c==1] = 2; f[c==1] = 0.                  # in cluster 1 there is nothing to tell apart
    grown = grow(y, f, c, 4, CONFIG, rng(0), progress=False)
    assert all(r['accepted']==bool(r['new']) for r in grown.history)
    assert grown.leaf.heads==(3, 1) and grown.leaf.states[0] > grown.leaf.states[1]==2

def test_weights_stay_what_they_were():
    from dataclasses import replace
    config = replace(CONFIG, states=8, copy=None, thin=5., rounds=2); grown = run(config=config)
    size = 8*(6*4 + 5*8 + config.heads)
    assert max(grown.leaf.states) > 8 and any(r['accepted'] for r in grown.history)
    for part in apart(grown.leaf): assert weights(part) <= 1.1*size
    again = run(config=config)
    assert again.history==grown.history and torch.equal(again.z_x, grown.z_x) and all(torch.equal(p, q) for p, q in zip(again.leaf.parameters(), grown.leaf.parameters()))
    v, _, c_v = two_clusters(7, 300); assert grown.leaf(v).isfinite().all()

def test_start_with_two_heads():
    grown = run(config=GrowConfig(heads=2, start=2, rounds=0, states=3, epochs=3, batch=100))
    assert grown.leaf.heads==(2, 2) and grown.history==[]

def test_grow_refuses(refuses):
    y, f, c = two_clusters()
    refuses(lambda: grow(y, f[1:], c, 4, CONFIG, rng(0), progress=False), '599 features')
    refuses(lambda: grow(y, f, c*2, 4, CONFIG, rng(0), progress=False), 'empty')
    refuses(lambda: grow(y, f, c, 4, GrowConfig(start=5), rng(0), progress=False), 'at first')

def test_leaf_of_a_joint_circuit(tmp_path):
    "Images of 2×4 bits in two patches: mass one over all images; EM, holes and files work."
    gen = rng(0); x = (torch.rand(400, 1, 2, 1, generator=gen) < .5).expand(-1, -1, -1, 4).to(torch.uint8)
    x = torch.where(torch.rand(x.shape, generator=gen) < .1, 1-x, x)
    y = x.view(400, 1, 2, 2, 2).permute(0, 3, 2, 4, 1).reshape(800, 4).long(); c = (y.sum(1) > 1).long()
    grown = grow(y, y.float(), c, 2, GrowConfig(heads=2, rounds=1, states=2, epochs=3, batch=100), rng(1), progress=False); K = grown.leaf.n_heads
    assert K > 2
    joint = Joint(grown.leaf, fit_top(grown.z_x.view(400, 2), K), COLOURS['rgb'], 2, (1, 2, 4))
    every = everything(8).view(-1, 1, 2, 4).to(torch.uint8)
    assert joint(every).exp().sum().item()==pytest.approx(1, abs=1e-4)
    history = finetune(joint, x, rng(2), 3, 400, 400, (1., 1.), 0., progress=False)
    assert history[0] <= history[1] + 1e-5 <= history[2] + 2e-5 and joint(every).exp().sum().item()==pytest.approx(1, abs=1e-4)
    seen = torch.ones(3, 2, 4, dtype=torch.bool); seen[:, :, 1:3] = False
    filled = joint.fill(x[:3], seen, rng(0)); assert torch.equal(filled[..., [0, 3]], x[:3][..., [0, 3]]) and int(filled.max()) <= 1
    half = joint(x[:3], seen); fits = [(every[..., [0, 3]]==r[..., [0, 3]]).flatten(1).all(1) for r in x[:3]]
    assert torch.allclose(half.exp(), torch.stack([joint(every[f]).exp().sum() for f in fits]), atol=1e-5)
    mean = joint.moments(x[:3], seen).mean_bchw[0, 0, 0, 1]; p = joint(every[fits[0]]).exp().detach()
    assert mean.item()==pytest.approx(float((p*every[fits[0]][:, 0, 0, 1]).sum()/p.sum()), abs=1e-4)
    save_joint(joint, tmp_path/'j.safetensors'); assert torch.equal(load_joint(tmp_path/'j.safetensors')(x), joint(x))

# --- normals

def clouds(seed, n=600):
    gen = rng(seed); mid = torch.tensor([[60., 60., 60.], [190., 60., 100.], [120., 200., 60.]])
    return (mid[torch.randint(0, 3, (n,), generator=gen)] + 9*torch.randn(n, 3, generator=gen)).round().clamp(0, 255).long()

@pytest.mark.parametrize('a', [.2, .7, .95])
def test_a_divided_normal_has_the_moments_it_had(a, refuses):
    block = GaussianBlock(2, 3, shrink=1.)
    with torch.no_grad(): block.mu_gd += 20*torch.randn(2, 3, generator=rng(0)); block.U_gde.copy_(torch.randn(2, 3, 3, generator=rng(1)).tril(-1)); block.mass_k.copy_(torch.tensor([.3, .7]))
    pair = split_component(block, 1, a); S = pair.covariance()
    assert pair.n_heads==3 and torch.allclose(pair.mass_k, torch.tensor([.3, .35, .35])) and torch.equal(pair.mu_gd[0], block.mu_gd[0])
    far = (pair.mu_gd[1]-pair.mu_gd[2]).double()/2
    assert torch.allclose((pair.mu_gd[1]+pair.mu_gd[2])/2, block.mu_gd[1], atol=1e-3)
    assert torch.allclose(S[1] + torch.outer(far, far), block.covariance()[1], rtol=1e-3, atol=1.)
    refuses(lambda: split_component(block, 1, 1.), 'between 0 and 1')
    refuses(lambda: split_component(GaussianBlock(4, 3, bodies=2), 0), 'a body each')

def test_blocks_grow_where_they_fall_short(tmp_path, monkeypatch):
    x, v = clouds(0), clouds(1, 300); one = GaussianBlock(1, 3, shrink=1.)
    for _ in range(3): one.em_pass_(x)
    assert abs(float(shortfall(one, x).sum())) < 1e-3                              # all shares together fall short of themselves by nothing
    block, history = grow_blocks(one, x, v, 5, sure=0., progress=False)
    assert one.n_heads==1 and block.n_heads >= 3
    for r in history: assert r['accepted']==(r['with_it'] > max(r['before'], r['without']))
    assert all(b['before'] >= a['before'] - 1e-6 for a, b in zip(history, history[1:]))
    calls, real = [0], G.split_component
    def dies(*a):
        calls[0] += 1
        if calls[0]==3: raise KeyboardInterrupt
        return real(*a)
    monkeypatch.setattr(G, 'split_component', dies)
    with pytest.raises(KeyboardInterrupt): grow_blocks(one, x, v, 5, sure=0., ckpt=tmp_path/'b.ckpt', progress=False)
    monkeypatch.setattr(G, 'split_component', real)
    again, told = grow_blocks(one, x, v, 5, sure=0., ckpt=tmp_path/'b.ckpt', progress=False)
    assert told==history and all(torch.equal(a, b) for a, b in zip(block.state_dict().values(), again.state_dict().values()))
