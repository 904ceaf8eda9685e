"""Golden values: what tiny circuits of every family say, made by the code before the rebuild (commit 9a8562f).

`python tests/golden/make.py` fits them and writes NAME.safetensors (the student's parameters) and NAME.json:
`from_parameters` is what `answers` gives of the parameters in the file, and must stay;
`end_to_end` also depends on how parameters are started and fitted, and may change where that is said.
No teacher is fitted: labels and features are formulas of the pixels, so nothing here depends on k-means but what a leaf does within.
"""
import json, sys, zlib
from pathlib import Path
import torch
from einops import rearrange
from pcdistill.core import rng, bpd
from pcdistill.data import images

HERE = Path(__file__).parent
DIGITS, PHOTOS = dict(data='digits'), dict(data='photos')                      # photos: the upper-left 8×8 pixels of each crop
TREES = dict(epochs=2, batch=500, micro=500, lr_end=.3)
NORMALS = dict(epochs=2, batch=500, shrink=50.)
CASES = dict(                                                                  # name → data, side of a patch, colours, labels, leaf, growing
    trees=dict(DIGITS, patch=2, labels=6, leaf=dict(TREES, family='hclt', states=3)),
    trees_rgb=dict(PHOTOS, patch=2, labels=5, colour='ycocg_r', leaf=dict(TREES, family='hclt', states=2)),
    trees_lossy=dict(PHOTOS, patch=2, labels=4, colour='bt709_lossy', leaf=dict(TREES, family='hclt', states=2)),
    trees_own=dict(DIGITS, patch=2, labels=4, leaf=dict(TREES, family='hclt', states=2, own=True)),
    trees_logistic=dict(DIGITS, patch=4, labels=5, leaf=dict(TREES, family='hclt', states=4, inputs='logistic')),
    trees_grown=dict(DIGITS, patch=2, labels=3, leaf=dict(family='hclt'), grow=dict(heads=3, rounds=2, states=2, epochs=2, batch=256, sure=0.)),
    normals=dict(DIGITS, patch=4, labels=5, leaf=dict(NORMALS, family='gaussian')),
    normals_rgb=dict(PHOTOS, patch=4, labels=3, leaf=dict(NORMALS, family='gaussian')),
    normals_scales=dict(PHOTOS, patch=4, labels=2, leaf=dict(NORMALS, family='gaussian', scales=4)),
    normals_cut=dict(PHOTOS, patch=4, labels=2, leaf=dict(NORMALS, family='gaussian', scales=2, halves=16, quarters=16, splits=3)),
    normals_joined=dict(PHOTOS, patch=2, labels=2, leaf=dict(NORMALS, family='gaussian', scales=2, halves=8, joined=16, splits=3)),
    residual=dict(DIGITS, patch=2, labels=4, leaf=dict(TREES, family='residual', states=2)),
    residual_own=dict(DIGITS, patch=4, labels=3, leaf=dict(TREES, family='residual', states=3, own=True, inputs='logistic')))

def pictures(name, split, n):
    "Some images of a case."
    return images(CASES[name]['data'], split, n)[:, :, :8, :8].contiguous()

def labels(x_bchw, patch, K):
    "A label for each patch, row by row: its mean in 256/K steps, moved by one where the sum of its pixels is a multiple of 3."
    y_bnd = rearrange(x_bchw.long(), 'b c (i u) (j v) -> b (i j) (c u v)', u=patch, v=patch)
    sum_bn = y_bnd.sum(2)
    return (sum_bn*K//(256*y_bnd.shape[2]) + (sum_bn%3==0).long())%K

def masks(x_bchw):
    "Three masks: lower half hidden; all but about a tenth of the pixels hidden; all seen before some pixel, by rows."
    b, (h, w) = len(x_bchw), x_bchw.shape[2:]
    at_hw = torch.arange(h*w).view(h, w)
    few_bhw = (at_hw*7919 + 104729*torch.arange(b)[:, None, None])%97 < 10
    return dict(lower=(at_hw < h*w//2).expand(b, h, w), most=few_bhw, one_patch=((at_hw//w >= 4) | (at_hw%w >= 4)).expand(b, h, w))

def short(t): return [float(f'{v:.9g}') for v in t.double().flatten().tolist()]

@torch.no_grad()
def answers(joint, name, z_bn):
    "What a circuit says: bits of 20 test images, ledger terms, masks, the coder's bytes, samples. The one function that is to be written anew for new modules."
    from pcdistill.compress import encode, unpack
    from pcdistill.evaluate import measure
    from pcdistill.joint import viewed
    x = pictures(name, 'test', 20); D = x[0].numel()
    m = measure(joint, x, z_bn, 20, False)
    with viewed(joint.leaf, 'density'): density_b = joint(x)
    out = dict(bits=short(bpd(joint(x), D)), bits_density=short(bpd(density_b, D)), log_p_x_given_z=short(m.parts_b2[:, 0]), log_p_z=short(m.parts_b2[:, 1]),
               samples_crc=zlib.crc32((s := joint.sample(16, rng(7))).numpy().tobytes()), samples_mean=float(s.float().mean()))
    if joint.lossy: return out                                                 # no question about pixels, no coder
    few = x[:3]
    for kind, seen in masks(few).items():
        seen = joint.askable(seen); made = joint.moments(few, seen)
        out[kind] = dict(bits_seen=short(bpd(joint(few, seen), D)), mean=short(made.mean_bchw[:2][~seen[:2, None].expand_as(few[:2])].round(decimals=5)), entropy_b=short(made.entropy_bhw.sum((1, 2))))
    return out | dict(payload_bytes=len(unpack(encode(x[:4], joint, bytes(16))).payload))

def fitted(name):
    "Start and student of a case, the labels of its test images, and what growing did."
    from pcdistill.colour import COLOURS
    from pcdistill.cuts import fit_any, of_squares
    from pcdistill.grow import Grown, GrowConfig, grow, settle
    from pcdistill.joint import Joint, finetune, joint_from_state, joint_state
    from pcdistill.leaf import LeafConfig, relabel
    from pcdistill.patches import to_patches
    from pcdistill.top import fit_top
    case = CASES[name]; p, K, leaf_of = case['patch'], case['labels'], LeafConfig(**case['leaf'])
    colour = COLOURS[case.get('colour', 'rgb')]; side = p*leaf_of.across; n_values = max(colour.levels(pictures(name, 'train', 1).shape[1]))
    rows = lambda x: rearrange(to_patches(colour.forward(x), side), 'b n d -> (b n) d')
    x, valid, test, gen = pictures(name, 'train', 300), pictures(name, 'valid', 40), pictures(name, 'test', 20), rng(1)
    z_bn, history, start = labels(x, p, K), [], None
    if 'grow' in case:
        config = GrowConfig(**case['grow']); f_xf = to_patches(x, p).flatten(0, 1).float()
        made = grow(rows(x), f_xf, z_bn.flatten(), n_values, config, gen, (rows(valid), labels(valid, p, K).flatten()), None, False)
        leaf, history = made.leaf, made.history
        of = lambda x: settle(made, rows(x), labels(x, p, K).flatten(), config.price).view(len(x), -1)
    else:
        leaf, _ = fit_any(rows(x), of_squares(z_bn, x.shape[3]//side, leaf_of.across), n_values, K, leaf_of, side, gen, None, False)
        of = lambda x: relabel(leaf, rows(x), labels(x, p, K).flatten()).view(len(x), -1)
    start = Joint(leaf, fit_top(of(x), leaf.n_heads), colour, side, tuple(x.shape[1:]))
    z_test = of(test); student = joint_from_state(*joint_state(start))
    finetune(student, x, rng(2), 2, 100, 50, (.3, .1), 1., None, False, valid)
    return start, student, z_test, history

def main(names):
    from pcdistill.joint import load_joint, save_joint
    torch.set_num_threads(1)
    for name in names or CASES:
        start, student, z_bn, history = fitted(name); x = pictures(name, 'test', 20)
        save_joint(student, file := HERE/f'{name}.safetensors')
        with torch.no_grad(): bits = [float(bpd(j(x), x[0].numel()).mean()) for j in (start, student)]
        given = answers(load_joint(file), name, z_bn)
        whole = dict(labels_of_test=z_bn.tolist(), from_parameters=given, end_to_end=dict(bits_start=bits[0], bits_student=bits[1], n_heads=student.leaf.n_heads, grown=[h['accepted'] for h in history]))
        (HERE/f'{name}.json').write_text(json.dumps(whole) + '\n')
        print(f'{name}: start {bits[0]:.4f}, student {bits[1]:.4f}, {student.leaf.n_heads} heads, {file.stat().st_size//1024} KB, coder {given.get("payload_bytes")}, {whole["end_to_end"]["grown"]}', flush=True)

if __name__=='__main__': main(sys.argv[1:])
