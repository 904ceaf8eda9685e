"""Pruning and growing: exact losses by enumeration, bounds row by row, clones that change nothing."""
import copy, math
import pytest, torch
import brute
from brute import KINDS, circuit_of, write_out
from pcdistill.core import rng
from pcdistill.em import EM, tables
from pcdistill.resize import clone, flows, prune_, sums

TWENTY = [(KINDS[i % len(KINDS)], i) for i in range(20)]
twenty = pytest.mark.parametrize('kind,seed', TWENTY)

def rows_of(pc, n, seed):
    "log_prob of random rows with random masks, each under its own head."
    gen = rng(seed); x_bd, seen_bd = brute.some_rows(pc, n, gen)
    head_b = torch.randint(0, pc.n_heads, (n,), generator=gen)
    return lambda rows: pc_now[0](x_bd[rows], seen_bd[rows]).gather(1, head_b[rows][:, None])[:, 0]

pc_now = [None]                                        # the circuit that `rows_of` looks at

def double(pc):
    "pc, normalised in double precision."
    pc = pc.double()
    with torch.no_grad():
        for p, dim in tables(pc): p.copy_(p.log_softmax(dim))
    return pc

def unnormalised(pc, pruned):
    "pc with the weights that are zero in `pruned` set to zero, nothing normalised."
    raw = copy.deepcopy(pc)
    with torch.no_grad():
        for (p, _), (q, _) in zip(sums(raw), sums(pruned)): p.masked_fill_(q.isneginf(), -torch.inf)
    return raw

def used_by(pc, log_prob, n, share):
    "The flow that this share of the edges, least used first, does not exceed."
    flow = flows(pc, log_prob, n)
    all_e = torch.cat([f[~p.isneginf()] for f, (p, _) in zip(flow, sums(pc))])
    return float(all_e.kthvalue(max(1, int(share*len(all_e)))).values)

@twenty
@pytest.mark.parametrize('fraction', [.2, .6])
def test_prune_bound(kind, seed, fraction):
    "Row by row: loss after ≤ loss before normalising = −log P(no pruned edge | x) ≤ −log(1 − r); and the flow that prune_ says is the mean."
    pc = double(circuit_of(kind, seed, most=20_000)); thin = copy.deepcopy(pc); n = 15
    lp = rows_of(pc, n, seed+200); all_n = torch.arange(n)
    pc_now[0] = pc; old_b = lp(all_n).detach()
    per_row = [flows(pc, lambda _: lp(torch.tensor([i])), 1) for i in range(n)]
    pc_now[0] = thin; told = prune_(thin, lp, n, used_by(thin, lp, n, fraction), micro=4)
    left_b = lp(all_n).detach()
    raw = unnormalised(pc, thin); pc_now[0] = raw; raw_b = lp(all_n).detach()
    gone = [p.isneginf() for p, _ in sums(thin)]
    r_b = torch.stack([sum(f[m].sum() for f, m in zip(fs, gone)) for fs in per_row])
    bound_b = torch.where(r_b < 1, -torch.log1p(-r_b.clamp_max(1)), torch.inf)
    assert (old_b - raw_b <= bound_b + 1e-9).all() and (left_b >= raw_b - 1e-9).all()
    assert told.edges==sum(int(m.sum()) for m in gone) and math.isclose(told.flow, float(r_b.mean()), abs_tol=1e-9)
    for (p, dim) in sums(thin): assert torch.allclose(p.exp().sum(dim), torch.ones(()).double(), atol=1e-9)

@pytest.mark.parametrize('kind,seed', TWENTY[:11])
def test_loss_is_probability_of_using_no_pruned_edge(kind, seed):
    "Written out: mass of the assignments that use none of the edges taken out."
    pc = double(circuit_of(kind, seed, most=5_000)); t = write_out(pc); thin = copy.deepcopy(pc)
    lp = lambda rows: thin(t.x_xd[rows])[:, 0]
    prune_(thin, lp, len(t.x_xd), used_by(thin, lp, len(t.x_xd), .4)); raw = unnormalised(pc, thin)
    _, q_zk = brute.latents(raw)
    loss_x = ((t.p_xz @ t.p_zk[:, 0])/(t.p_xz @ q_zk[:, 0])).log()
    assert torch.allclose((pc(t.x_xd) - raw(t.x_xd))[:, 0], loss_x, atol=1e-6)

@twenty
def test_every_node_keeps_its_most_used_edge(kind, seed):
    pc = circuit_of(kind, seed).double(); pc_now[0] = pc; lp = rows_of(pc, 20, seed)
    flow = flows(pc, lp, 20); before = [p.detach().clone() for p, _ in sums(pc)]
    told = prune_(pc, lp, 20, below=math.inf)
    for (p, dim), f, w in zip(sums(pc), flow, before):
        best = torch.where(f.sum(dim, keepdim=True) > 0, f, w).argmax(dim)
        assert torch.equal(p.argmax(dim), best) and ((p > -torch.inf).sum(dim)==1).all()
    assert told.edges + sum(math.prod(p.shape)//p.shape[dim] for p, dim in sums(pc)) == told.of

def test_pruned_edges_stay_at_zero_and_em_still_climbs():
    pc = double(circuit_of('random', 4)); pc_now[0] = pc; lp = rows_of(pc, 60, 0); rows = torch.arange(60)
    prune_(pc, lp, 60, used_by(pc, lp, 60, .4)); zero = [p.isneginf() for p, _ in sums(pc)]; assert sum(int(z.sum()) for z in zero)
    for lr, alpha in ((1., .5), (.3, .5)):
        for _ in range(3): (-lp(rows).sum()).backward(); EM(pc, lr, alpha).step()
        assert all(torch.equal(p.isneginf(), z) for (p, _), z in zip(sums(pc), zero))
    lls = []
    for _ in range(10): ll = lp(rows).sum(); (-ll).backward(); EM(pc).step(); lls.append(ll.item())
    assert all(b >= a - 1e-9 for a, b in zip(lls, lls[1:]))

@twenty
def test_clone_without_noise_changes_nothing(kind, seed):
    "All heads, random masks; twice all, thrice all, and other states copied for every latent."
    pc, gen = double(circuit_of(kind, seed)), rng(seed)
    x_bd, seen_bd = brute.some_rows(pc, 12, gen); n, S = len(pc.tree.parent), pc.n_states
    own = torch.stack([torch.cat([torch.randperm(S, generator=gen), torch.randint(0, S, (3,), generator=gen)]) for _ in range(n)])
    for source in (torch.arange(S).repeat(2), torch.arange(S).repeat(3), own):
        new = clone(pc, source, 0., gen)
        assert new.n_states==source.shape[-1] and new.tree==pc.tree
        assert torch.allclose(new(x_bd, seen_bd), pc(x_bd, seen_bd), atol=1e-9) and torch.allclose(new(x_bd), pc(x_bd), atol=1e-9)
        for p, dim in tables(new): assert torch.allclose(p.exp().sum(dim), torch.ones(()).double(), atol=1e-9)

def test_noise_sets_copies_apart_and_em_can_use_them():
    "Exactly alike, copies stay alike for ever; with noise they part, and more states fit better."
    pc = circuit_of('chain', 5).double(); x_bd, _ = brute.some_rows(pc, 80, rng(0))
    def climbed(pc):
        for _ in range(40): ll = pc(x_bd)[:, 0].sum(); (-ll).backward(); EM(pc).step()
        return ll.item()
    alike, apart = clone(pc, torch.arange(pc.n_states).repeat(2), 0., rng(1)), clone(pc, torch.arange(pc.n_states).repeat(2), .3, rng(1))
    assert climbed(apart) > max(climbed(alike), climbed(copy.deepcopy(pc))) + 1e-3
    copies = lambda pc: pc.inputs.logp_dvs.unflatten(2, (2, -1))
    assert torch.allclose(copies(alike)[:, :, 0], copies(alike)[:, :, 1]) and not torch.allclose(copies(apart)[:, :, 0], copies(apart)[:, :, 1], atol=.01)

def test_states_without_weight_can_be_left_out():
    pc = circuit_of('quad_2x2', 2).double(); S = pc.n_states; assert S > 1
    with torch.no_grad():                              # the last state of every latent is never reached
        for p, dim in sums(pc): p[:, -1] = -torch.inf; p.copy_(p.log_softmax(dim))
        for p, dim in tables(pc): p.copy_(p.log_softmax(dim))
    x_bd, _ = brute.some_rows(pc, 12, rng(0))
    assert torch.allclose(clone(pc, torch.arange(S-1), 0., rng(0))(x_bd), pc(x_bd), atol=1e-6)

def test_resize_refuses(refuses):
    pc = circuit_of('chain', 1); pc_now[0] = pc; lp = rows_of(pc, 5, 0)
    refuses(lambda: prune_(pc, lp, 5, -1.), 'flow')
    refuses(lambda: clone(pc, torch.tensor([0, 9]), 0., rng(0)), 'states from 0', '9')
    refuses(lambda: clone(pc, torch.zeros(1, 2, dtype=torch.long), 0., rng(0)), 'latents', 'got 1')
