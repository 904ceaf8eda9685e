"""Several processes do what one does: parameters, codes, scores, a whole run; one that dies loses nothing.

Run by torchrun this file is the worker: `torchrun --nproc-per-node=2 tests/test_ranks.py COMMAND …`.
"""
import json, os, re, signal, subprocess, sys
from dataclasses import replace
from pathlib import Path
import pytest, torch

root = Path(__file__).resolve().parents[1]
RECIPE = dict(preset='tiny', teacher='pixels', clusters=8, n_train=120, n_test=30, epochs=3, set=['states=4', 'epochs=2'])
WORDS = [w for k, v in RECIPE.items() for w in (f"--{k.replace('_', '-')}", *(v if isinstance(v, list) else [str(v)]))]

# --- what every rank does: the same work together and alone

def trees64():
    "EM of an emission in float64, also where a step has fewer rows than there are ranks."
    from pcdistill.core import rng
    from pcdistill.em import fit
    from pcdistill.emission import Labelled
    from pcdistill.trees import TreesConfig, started
    y_xd, z_x = torch.randint(0, 8, (101, 6), generator=rng(0)), torch.randint(0, 3, (101,), generator=rng(1))
    e = started(Labelled(y_xd, z_x, 8, 3, 2), TreesConfig(states=4), rng(2)).double()
    def log_prob(at): return e(y_xd[at]).gather(1, z_x[at, None])[:, 0]
    nats = fit(e, log_prob, 101, rng(3), 2, 25, 8, progress=False)
    nats += fit(e, lambda at: log_prob(at + 90), 7, rng(3), 1, 2, 8, lr=(.1, .1), progress=False)
    return e.state_dict() | dict(nats=torch.tensor(nats).double())

def normals32():
    "EM with counts of its own, its start by moments included."
    from pcdistill.core import rng
    from pcdistill.emission import Labelled
    from pcdistill.normals import NormalsConfig, fit_normals
    y_xd, z_x = torch.randint(0, 256, (300, 12), generator=rng(0)).byte(), torch.randint(0, 3, (300,), generator=rng(1))
    e, nats = fit_normals(Labelled(y_xd, z_x, 256, 3, 2), NormalsConfig(epochs=2, batch=70, scales=2), rng(2), progress=False)
    return e.state_dict() | dict(nats=torch.tensor(nats))

def prior64():
    "EM of a latent prior, in float64, after counting."
    from pcdistill.core import rng
    from pcdistill.em import fit
    from pcdistill.inputs import one_hot_evidence
    from pcdistill.latent_prior import fit_latent_prior
    z_bn = torch.randint(0, 5, (90, 4), generator=rng(0)); z_bn[:, 1] = z_bn[:, 0]
    pc = fit_latent_prior(z_bn, 5).double(); e_bnk = (one_hot_evidence(z_bn, 5).double().exp() + .1).log()
    nats = fit(pc, lambda at: pc(e_bnk[at])[:, 0], 90, rng(1), 2, 30, 7, progress=False)
    return pc.state_dict() | dict(nats=torch.tensor(nats).double())

def joint(kind):
    "EM of a whole image, validated; scores, the terms of the ledger."
    from pcdistill.core import rng
    from pcdistill.colour import COLOURS
    from pcdistill.data import images
    from pcdistill.emission import Labelled
    from pcdistill.evaluate import measure, score
    from pcdistill.image import Image, finetune
    from pcdistill.latent_prior import fit_latent_prior
    from pcdistill.patches import to_patches
    from pcdistill.trees import TreesConfig, started
    x = images('digits', 'train', 80); y_bnd = to_patches(x, 4); z_bn = y_bnd.long().sum(2) % 3
    e = started(Labelled(y_bnd.flatten(0, 1), z_bn.flatten(), 256, 3, 4), TreesConfig(states=3), rng(0))
    image = Image(e, fit_latent_prior(z_bn, 3), COLOURS['rgb'], 4, tuple(x.shape[1:])).to(kind)
    nats = finetune(image, x, rng(1), x[:7], micro=9, epochs=2, batch=40, progress=False)
    m = measure(image, x, z_bn, 9)
    return image.state_dict() | dict(nats=torch.tensor(nats).double(), score=score(image, x, 9, False), parts=m.parts_b2)

def gradients():
    "One step of every network: what all draw, normalise over and move codes to is the whole batch."
    from pcdistill.core import rng
    from pcdistill.data import images
    from pcdistill.extra.mae import MAE, MAEConfig
    from pcdistill.priors import CodePrior, PriorConfig
    from pcdistill.ranks import sum_gradients_
    from pcdistill.teacher import init_
    from pcdistill.vqvae import VQConfig, VQVAE2
    x, made = images('digits', 'train', 32), {}
    vq = VQVAE2(replace(VQConfig.tiny(4), decoded=.5), (1, 8, 8)); vq.start_(rng(0))
    mae = init_(MAE(MAEConfig.tiny(2), (1, 8, 8)), rng(0))
    prior = init_(CodePrior(PriorConfig(width=8, heads=2, layers=1), (6,)*5), rng(0))
    ids_bm = torch.randint(0, 6, (31, 5), generator=rng(1))
    for name, net, rows, done in (('early', vq, x, 0.), ('vq', vq, x, 1.), ('mae', mae, x[:31], 1.), ('prior', prior, ids_bm, 1.)):
        net.zero_grad(); net.loss(rows, rng(2), done).backward(); sum_gradients_(net)
        made |= {f'{name}.{k}': t.clone() for k, t in net.named_buffers()} | {f'{name}.{k}': p.grad.clone() for k, p in net.named_parameters()}
    return made

def teachers():
    "Trained: parameters, where no code can change sides; of two code grids the bound, bits a dimension; codes and features of one net."
    from pcdistill.core import rng
    from pcdistill.data import images
    from pcdistill.latents import extract, features
    from pcdistill.extra.mae import MAE, MAEConfig
    from pcdistill.priors import PriorConfig, fit_prior
    from pcdistill.teacher import bound
    from pcdistill.vqvae import VQConfig, VQVAE2
    x, made = images('digits', 'train', 70), {}
    mae = MAE.fit(x, replace(MAEConfig.tiny(2), epochs=1, batch=32), rng(0), progress=False)
    ids_bm = torch.randint(0, 6, (70, 5), generator=rng(1))
    prior = fit_prior(ids_bm, (6,)*5, PriorConfig(width=8, heads=2, layers=1, epochs=2, batch=16), rng(2), progress=False)
    for name, net in dict(mae=mae, prior=prior).items(): made |= {f'{name}.{k}': t for k, t in net.state_dict().items()}
    vq = VQVAE2.fit(x, replace(VQConfig.tiny(4), epochs=1, batch=32, decoded=.5), rng(0), progress=False)
    same = VQVAE2(VQConfig.tiny(4), (1, 8, 8)).eval(); same.start_(rng(0)); same.book_top.e_kf.normal_(generator=rng(3))
    same.book_bottom.e_kf.normal_(generator=rng(4))
    ids = extract(same, x)
    return made | dict(bound=torch.stack(bound(vq, None, x)).mean(1)/64, ids=ids, features=features(same, x, ids), seen=features(mae, x))

CASES = dict(trees64=(trees64, 1e-6), normals32=(normals32, 1e-4), prior64=(prior64, 1e-6),
             joint64=(lambda: joint(torch.float64), 1e-6), joint32=(lambda: joint(torch.float32), 1e-4),
             gradients=(gradients, 1e-5), teachers=(teachers, 5e-3))

def compare():
    "How far what ranks make together is from what one makes alone, of each case; what is most off."
    from pcdistill.ranks import alone, joined, rank, summed
    from pcdistill.clusters import kmeans
    from pcdistill.core import rng
    with joined():
        found = {}
        for name, (make, _) in CASES.items():
            many = make()
            with alone(): one = make()
            assert set(many)==set(one)
            off = {k: float((many[k].double() - one[k].double()).nan_to_num(0, 0, 0).abs().max()) for k in one}
            assert all(torch.equal(many[k].isfinite(), one[k].isfinite()) for k in one)
            found[name] = max(zip(off.values(), off))
        points = torch.rand(60, 2, generator=rng(0)) + rank()     # another one's points on rank 1: means are those of rank 0
        found['kmeans'] = (summed(float(kmeans(points, 3, rng(1)).max() > 1)), 'mu_kf')
        print('found', json.dumps(found), flush=True)

def work(words, dies):
    "The command line; `dies` names a rank that is killed in fine-tuning, after its first epoch is saved."
    from pcdistill import chain, cli, em
    look, finetune = em.Best.look, chain.finetune
    def tuned(*args, **settings):
        n = [0]
        def counted(self):
            n[0] += 1
            if n[0]==3 and os.environ['RANK']==dies: os.kill(os.getpid(), signal.SIGKILL)
            return look(self)
        em.Best.look = counted
        return finetune(*args, **settings)
    chain.finetune = tuned
    return cli.main(words)

if __name__=='__main__':
    torch.set_num_threads(1)
    if sys.argv[1]=='compare': compare(); raise SystemExit
    raise SystemExit(work(sys.argv[2:], sys.argv[1]))

# --- the tests

def torchrun(n, *words):
    "What n ranks print, what they say, and how they end."
    env = dict(os.environ, OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1', MPLBACKEND='agg', PYTHONPATH=str(root))
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={n}', __file__, *map(str, words)]
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=600)

@pytest.mark.parametrize('n', [2, 3])
def test_ranks_give_what_one_process_gives(n):
    done = torchrun(n, 'compare')
    assert done.returncode==0, done.stderr[-3000:]
    line, = re.findall(r'^found (.*)$', done.stdout, re.M)        # one rank prints
    found = json.loads(line); print(found)
    for name, (_, most) in CASES.items(): assert found[name][0] <= most, (name, found[name])
    assert found['kmeans'][0]==0

@pytest.mark.parametrize('where', ['all_reduce', 'all_gather_object'])
def test_a_rank_that_has_ended_is_one_sentence_whatever_carries(where, monkeypatch):
    "As nccl says it; an error of ours that happens to name a carrier stays an error."
    from pcdistill import cli, ranks
    def aborted(*a): raise RuntimeError('NCCL communicator was aborted on rank 1')
    monkeypatch.setattr(ranks, 'size', lambda: 2); monkeypatch.setattr(ranks.dist, where, aborted)
    with pytest.raises(ranks.RankEnded) as e: ranks.sum_(torch.ones(2)) if where=='all_reduce' else ranks.agreed(int)
    sentence, status = cli.explained(e.value)
    assert status==1 and 'another rank' in sentence and 'the same command' in sentence
    with pytest.raises(RuntimeError, match='gloo'): cli.explained(RuntimeError('a bug beside gloo'))

def close(a, b, where=''):
    "Two results are equal to 1e-4 where they are numbers."
    if isinstance(a, dict):
        assert set(a)==set(b), where
        for k in a: close(a[k], b[k], f'{where}.{k}')
    elif isinstance(a, float): assert abs(a-b) < 1e-4 + 1e-4*abs(a), (where, a, b)
    else: assert a==b, (where, a, b)

def test_a_rank_that_dies_loses_nothing(tmp_path):
    "Killed in fine-tuning with two ranks, ended with three: the results are those of one undisturbed process."
    from pcdistill import cli
    words = ['distill', *WORDS, '--device', 'cpu', '--out']
    killed = torchrun(2, 1, *words, tmp_path/'many')
    said = re.findall(r'^pcdistill: .*$', killed.stderr, re.M)
    assert killed.returncode!=0 and len(said)==1 and 'run the same command again' in said[0], killed.stderr[-3000:]
    files = {p.stem for p in (tmp_path/'many').glob('*.safetensors')}
    assert {'teacher', 'latents', 'start'} <= files and 'student' not in files and list((tmp_path/'many').glob('.student*.ckpt'))
    before = {p: p.stat().st_mtime_ns for p in (tmp_path/'many').glob('*.safetensors')}
    done = torchrun(3, 'nobody', *words, tmp_path/'many')
    assert done.returncode==0, done.stderr[-3000:]
    assert all(p.stat().st_mtime_ns==t for p, t in before.items())                  # it went on
    assert done.stdout.count('student (fine-tuned)')==1                             # one rank prints
    assert cli.main([*words, str(tmp_path/'one')])==0
    many, one = (json.loads((tmp_path/name/'results.json').read_text()) for name in ('many', 'one'))
    for r in (many, one): r.pop('seconds'), r.pop('threads')
    close(one, many)
