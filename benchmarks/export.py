"""What an experiment notebook needs of a finished run, in one small file: its results, and bits/dim of its first 1,000 test images to 5 digits.

    python benchmarks/export.py runs/cifar10-best-normals nbs/experiments/results/ledger-cifar10-normals.json
"""
import math, sys
from pathlib import Path
from pcdistill.chain import load_run, number
from pcdistill.core import bpd, require
from pcdistill.runs import save_json

NAMES = dict(student='student_student_b', start='start_student_b', teacher_conditional='teacher_conditional_b',
             teacher_codes='teacher_codes_prior_b', teacher_exact='teacher_exact_b')

def export_run(folder, out) -> Path:
    "The file, written outside the run."
    folder, out = Path(folder), Path(out)
    require(out.resolve().parent!=folder.resolve(), f'wanted a file outside the run {folder}, got {out}')
    run = load_run(folder, 'cpu'); results, m = run.results, run.nats
    conditional_b, latents_b = m['student_parts_b2'].unbind(1)
    terms = dict(student_conditional=conditional_b, student_latents=latents_b) | {name: m[k] for name, k in NAMES.items() if k in m}
    single = {k: [number(v) for v in bpd(t[:1000], math.prod(results['data']['shape']))] for k, t in terms.items()}
    return save_json(out, dict(results=results, images=single))

if __name__=='__main__': print('wrote', export_run(*sys.argv[1:]))
