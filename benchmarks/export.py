"""What E01 reads of a finished run: its results, and bits/dim of the first 1,000 test images to five digits, in one small file.

    python benchmarks/export.py runs/cifar10-best-normals nbs/experiments/results/ledger-cifar10-normals.json
"""
import math
import sys
from pathlib import Path
from pcdistill.chain import load_run, number
from pcdistill.core import bpd, require
from pcdistill.runs import save_json

# name in the file → what the run calls the nats, where the teacher has them
NAMES = dict(student='student_student_b', start='start_student_b', teacher_conditional='teacher_conditional_b',
             teacher_codes='teacher_codes_prior_b')

def export_run(folder, out) -> Path:
    "Write the file `out` of the run in `folder`."
    folder, out = Path(folder), Path(out)
    require(out.resolve().parent!=folder.resolve(), f'wanted a file outside the run {folder}, got {out}')
    run = load_run(folder, 'cpu')
    results, m = run.results, run.nats
    conditional_b, latents_b = m['student_parts_b2'].unbind(1)
    terms = dict(student_conditional=conditional_b, student_latents=latents_b)
    terms |= {name: m[k] for name, k in NAMES.items() if k in m}
    D = math.prod(results['data']['shape'])
    single = {k: [number(v) for v in bpd(t[:1000], D)] for k, t in terms.items()}
    return save_json(out, dict(results=results, images=single))

if __name__=='__main__':
    print(export_run(*sys.argv[1:]))
