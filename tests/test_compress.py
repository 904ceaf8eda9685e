"The coder: tables are conditionals, files are as long as the bits, images come back, everything else is refused."
import copy, math, os, subprocess, sys
import numpy as np, pytest, torch
from einops import rearrange
from PIL import Image
from pcdistill.blocks import GaussianBlock
from pcdistill.factors import FactorBlock
from pcdistill.residual import Prediction, Residual
from pcdistill.circuit import Circuit
from pcdistill.colour import COLOURS
from pcdistill.compress import Coded, compress_files, conditionals, decode, decompress_file, encode, pack, run_hash, unpack, walk
from pcdistill.core import rng
from pcdistill.data import images
from pcdistill.inputs import Categorical, Evidence
from pcdistill.joint import Joint, save_joint
from pcdistill.leaf import HCLTLeaf, together
from pcdistill.structure import chow_liu, quad_tree, random_tree
from test_evaluate import ALL_X, toy

RUN = bytes(range(16))

def weights_(pc, gen, spread=1.5):
    with torch.no_grad():
        for m in (pc, pc.inputs):
            for name, axis in m.normalised.items(): p = getattr(m, name); p.copy_((spread*torch.randn(p.shape, generator=gen)).log_softmax(axis))
    return pc

def predicting(D, V, gen):
    linear = Prediction(D, V); linear.fit_((torch.randn(300, D, generator=gen).cumsum(1)*20 + 128).clamp(0, 255).long())
    return linear

def joint_of(family:str, seed:int) -> Joint:
    "A random small joint: some family, shape, colour map and number of latent values."
    gen = rng(seed); integer = lambda lo, hi: int(torch.randint(lo, hi+1, (), generator=gen))
    c = (1, 3)[integer(0, 1)]; p, nh, nw, K = 2 if family in ('bodies', 'residuals') else integer(1, 2), integer(1, 2), integer(1, 3), integer(1, 5); D = p*p*c
    colour = COLOURS['ycocg_r' if c==3 and family not in ('gaussian', 'factors', 'residual', 'residuals') else 'rgb']; V = max(colour.levels(c))
    if family in ('hclt', 'residual'):
        leaf = weights_(HCLTLeaf(random_tree(D, gen), Categorical(D, V, integer(1, 4), gen), K, gen), gen)
        if family=='residual': leaf = Residual(leaf, [predicting(D, V, gen)])
    elif family in ('bodies', 'residuals'):
        parts = [weights_(HCLTLeaf(chow_liu(torch.rand(D, D, generator=gen)), Categorical(D, V, integer(1, 3), gen), h, gen), gen) for h in [integer(1, 3) for _ in range(integer(1, 3))]]
        leaf, K = together(parts), sum(q.n_heads for q in parts)
        if family=='residuals': leaf = Residual(leaf, [predicting(D, V, gen) for _ in parts])
    elif family=='factors':
        leaf = FactorBlock(K, D, integer(0, D))
        with torch.no_grad():
            leaf.mu_kd.copy_(260*torch.rand(leaf.mu_kd.shape, generator=gen)); leaf.W_kdr.copy_(8*torch.randn(leaf.W_kdr.shape, generator=gen))
            leaf.logs_kd.copy_(3*torch.rand(leaf.logs_kd.shape, generator=gen) - .5)
    else:
        J = integer(1, 2); leaf = GaussianBlock(K*J, D, bodies=K); K = K*J
        with torch.no_grad():
            leaf.mu_gd.copy_(260*torch.rand(leaf.mu_gd.shape, generator=gen)); leaf.U_gde.copy_(.4*torch.randn(leaf.U_gde.shape, generator=gen).tril(-1))
            leaf.logs_kd.copy_(4*torch.rand(leaf.logs_kd.shape, generator=gen) - .5)
    top = weights_(Circuit(random_tree(nh*nw, gen), Evidence(nh*nw, K), 1, gen), gen)
    return Joint(leaf, top, colour, p, (c, nh*p, nw*p))

def bits(joint, x) -> float:
    with torch.no_grad(): return -joint(x).double().sum().item()/math.log(2)

@pytest.mark.parametrize('family', ['hclt', 'bodies', 'gaussian', 'factors', 'residual', 'residuals'])
@pytest.mark.parametrize('seed', range(6))
def test_tables_multiply_to_the_joint_probability(family, seed):
    joint = joint_of(family, seed); x = joint.sample(40, rng(seed))
    y_bnd = rearrange(joint.rows(x)[0], '(b n) d -> b n d', b=40).long(); left = iter(rearrange(y_bnd, 'b n d -> (n d) b')); lp = []
    def value(p_bv):
        assert (p_bv >= 0).all() and (p_bv.sum(1)-1).abs().max() < 1e-4
        y_b = next(left); lp.append(p_bv.gather(1, y_b[:, None])[:, 0].log()); return y_b
    walk(conditionals(copy.deepcopy(joint).double(), 40), value)
    with torch.no_grad(): assert len(lp)==y_bnd[0].numel() and (sum(lp)-joint(x).double()).abs().max() < 2e-3

@pytest.mark.parametrize('family', ['hclt', 'bodies', 'gaussian', 'factors', 'residual', 'residuals'])
@pytest.mark.parametrize('seed', range(6))
def test_round_trip(family, seed):
    joint = joint_of(family, 100+seed); x = joint.sample(60, rng(seed)); size = bits(joint, x)
    data = encode(x, joint, RUN, batch=(60, 23, 31)[seed % 3] if seed < 5 else 1000)
    back, names = decode(data, joint, RUN)
    assert torch.equal(back, x) and names is None and back.dtype==torch.uint8
    assert .99*size - 8 <= 8*len(unpack(data).payload) <= 1.01*size + 64
    far = torch.randint(0, 256, x.shape, generator=rng(seed), dtype=torch.uint8); far[0], far[1] = 0, 255          # images it did not expect
    data = encode(far, joint, RUN)
    assert torch.equal(decode(data, joint, RUN)[0], far) and 8*len(unpack(data).payload) <= 1.01*bits(joint, far) + 64

def test_tables_by_enumeration():
    joint = toy(0); x = ALL_X[[5, 77, 200]]
    with torch.no_grad(): p_x = joint(ALL_X).double().exp()
    order = rearrange(torch.arange(8).view(1, 1, 2, 4), 'b c h (n w) -> b n (h w c)', n=2).flatten()
    seen, left = [], iter(order.tolist())
    def value(p_bv):
        d = next(left); now = x.flatten(1)[:, d].long()
        for p_v, row in zip(p_bv, x.flatten(1)):
            same = (ALL_X.flatten(1)[:, seen]==row[seen]).all(1)
            brute = torch.stack([p_x[same & (ALL_X.flatten(1)[:, d]==v)].sum() for v in range(2)])/p_x[same].sum()
            assert (p_v-brute).abs().max() < 1e-6
        seen.append(d); return now
    walk(conditionals(copy.deepcopy(joint).double(), 3), value)
    assert len(seen)==8

def test_threads_are_restored():
    joint = joint_of('hclt', 1); x = joint.sample(3, rng(0)); torch.set_num_threads(2)
    data = encode(x, joint, RUN); torch.set_num_threads(1)
    assert unpack(data).about['threads']==2 and torch.equal(decode(data, joint, RUN)[0], x) and torch.get_num_threads()==1
    assert joint.top.root_1sk.dtype==torch.float32                                                 # the circuit itself is left alone

def test_any_damage_is_noticed(refuses):
    joint = joint_of('hclt', 2); x = joint.sample(5, rng(0)); data = encode(x, joint, RUN, list('abcde'))
    assert decode(data, joint, RUN)[1]==list('abcde')
    for i in range(4, len(data)): refuses(lambda: decode(data[:i] + bytes([data[i]^64]) + data[i+1:], joint, RUN), 'changed or cut short')
    for i in range(4, len(data)): refuses(lambda: decode(data[:i], joint, RUN), 'cut short')
    for bad in (b'', b'PCD', b'\x89PNG' + data): refuses(lambda: decode(bad, joint, RUN), 'another kind')
    refuses(lambda: decode(data + b'x', joint, RUN), 'changed')

def test_another_circuit_is_refused(refuses):
    joint, other = joint_of('hclt', 3), joint_of('hclt', 3); weights_(other.leaf, rng(9)); x = joint.sample(5, rng(0)); data = encode(x, joint, RUN)
    refuses(lambda: decode(data, other, bytes(16)), 'got another', RUN.hex()[:12])
    refuses(lambda: decode(data, other, RUN), 'arithmetic')                                         # a lying hash: the pixels' check sum tells
    c = unpack(data); refuses(lambda: decode(pack(Coded(c.run, c.crc^1, c.about, c.payload)), joint, RUN), 'torch', 'processor')

def test_what_cannot_be_coded(refuses):
    joint = joint_of('hclt', 4); x = joint.sample(5, rng(0))
    refuses(lambda: encode(x[:0], joint, RUN), 'at least one')
    refuses(lambda: encode(x, joint, RUN, ['a']), 'name', '5')
    refuses(lambda: encode(x[:, :, :, :-1], joint, RUN), str(joint.shape))
    never = toy(1); never.leaf.inputs.logp_dvs.data[0] = torch.tensor([[0., 0.], [-torch.inf]*2]); y = torch.zeros(4, 1, 2, 4, dtype=torch.uint8); y[0, 0, 0, 0] = 1
    refuses(lambda: encode(y, never, RUN), 'positive probability')

def test_files(tmp_path, refuses):
    joint = toy(2); save_joint(joint, tmp_path/'student.safetensors'); run = run_hash(tmp_path/'student.safetensors'); x = joint.sample(7, rng(0))
    paths = [tmp_path/f'im {i}.png' for i in range(7)]
    for p, a in zip(paths, x[:, 0].numpy()): Image.fromarray(a).save(p)
    c = compress_files(paths, joint, run, tmp_path/'all.pcd', progress=False)
    assert c.payload+c.header==(tmp_path/'all.pcd').stat().st_size and c.images==7 and abs(c.model_bits-bits(joint, x)) < 1e-2 and '7 images' in str(c)
    out = decompress_file(tmp_path/'all.pcd', joint, run, tmp_path/'out'/'deep', progress=False)
    assert [p.name for p in out]==[p.name for p in paths] and all((np.array(Image.open(p))==a).all() for p, a in zip(out, x[:, 0].numpy()))
    refuses(lambda: decompress_file(tmp_path/'all.pcd', joint, run, tmp_path/'out'/'deep', progress=False), 'im 0.png')
    refuses(lambda: decompress_file(tmp_path/'all.pcd', joint, run, paths[0], progress=False), 'write')
    refuses(lambda: decompress_file(tmp_path/'none.pcd', joint, run, tmp_path/'x'), 'none.pcd')
    refuses(lambda: run_hash(tmp_path/'none'), 'none')
    refuses(lambda: compress_files([], joint, run, tmp_path/'x.pcd'), 'at least one')
    refuses(lambda: compress_files([paths[0], tmp_path/'sub'/'im 0.jpg'], joint, run, tmp_path/'x.pcd'), 'im 0', 'more than once')
    refuses(lambda: compress_files([tmp_path/'gone.png'], joint, run, tmp_path/'x.pcd'), 'gone.png')
    refuses(lambda: compress_files([tmp_path/'student.safetensors'], joint, run, tmp_path/'x.pcd'), 'decoded')
    Image.new('RGB', (4, 2)).save(tmp_path/'colour.png'); Image.new('L', (5, 2)).save(tmp_path/'wide.png')
    for name, size in (('colour.png', '(3, 2, 4)'), ('wide.png', '(1, 2, 5)')): refuses(lambda: compress_files([tmp_path/name], joint, run, tmp_path/'x.pcd'), '(1, 2, 4)', size)
    assert not (tmp_path/'x.pcd').exists()

def test_names_do_not_lead_out_of_the_folder(tmp_path):
    joint = toy(3); x = joint.sample(1, rng(0)); (tmp_path/'f.pcd').write_bytes(encode(x, joint, RUN, ['../../evil']))
    assert decompress_file(tmp_path/'f.pcd', joint, RUN, tmp_path/'in', progress=False)==[tmp_path/'in'/'evil.png']

def test_every_digit():
    "All 1,797, by a circuit whose leaf has seen none of them: sizes are those of its bits whatever it knows."
    gen = rng(0); leaf = weights_(HCLTLeaf(quad_tree(4, 4), Categorical(16, 256, 4, gen), 5, gen), gen, .5)
    joint = Joint(leaf, weights_(Circuit(random_tree(4, gen), Evidence(4, 5), 1, gen), gen), COLOURS['rgb'], 4, (1, 8, 8))
    for split in ('train', 'valid', 'test'):
        x = images('digits', split); data = encode(x, joint, RUN, batch=2000)
        assert torch.equal(decode(data, joint, RUN)[0], x) and abs(8*len(unpack(data).payload)/bits(joint, x) - 1) < .01 and len(data)-len(unpack(data).payload) < 150

def test_another_process_reads_it(tmp_path):
    "Another process, with another number of threads set from outside."
    joint = joint_of('hclt', 7); x = joint.sample(6, rng(0)); save_joint(joint, tmp_path/'student.safetensors'); torch.save(x, tmp_path/'x.pt')
    (tmp_path/'f.pcd').write_bytes(encode(x, joint, run_hash(tmp_path/'student.safetensors')))
    code = ("import sys, torch; from pathlib import Path; from pcdistill.compress import decode, run_hash; from pcdistill.joint import load_joint; d = Path(sys.argv[1]); s = d/'student.safetensors'\n"
            "assert torch.equal(decode((d/'f.pcd').read_bytes(), load_joint(s), run_hash(s))[0], torch.load(d/'x.pt')); print('the same')")
    p = subprocess.run([sys.executable, '-c', code, str(tmp_path)], capture_output=True, text=True, env=os.environ | dict(OMP_NUM_THREADS='2'))
    assert p.stdout.strip()=='the same', p.stderr

@pytest.mark.parametrize('seed', range(4))
def test_the_path_of_a_tree_gives_the_tables_of_whole_passes(seed):
    gen = rng(seed); D, K = 9, 3; leaf = weights_(HCLTLeaf(chow_liu(torch.rand(D, D, generator=gen)), Categorical(D, 7, 4, gen), K, gen), gen).double(); logw_bk = torch.randn(5, K, generator=gen).double()
    one, all_of_it = leaf.steps(logw_bk), together([leaf]).double().steps(logw_bk); p, q = next(one), next(all_of_it)
    for _ in range(D):
        assert (p-q).abs().max() < 1e-7                                       # tables in float32 add up to one only so far
        x_b = torch.multinomial(p, 1, generator=gen)[:, 0]; ends = []
        for steps in (one, all_of_it):
            try: ends.append(steps.send(x_b))
            except StopIteration as e: ends.append(e.value)
        p, q = ends
    assert p.shape==(5, K) and (p-q).abs().max() < 1e-7
