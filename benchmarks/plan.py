"""What a run was estimated to take against what it took, stage by stage: python benchmarks/plan.py RUN… (finished run folders of this machine).

Micro-batches are timed now, so the machine should be as busy as it was then. Exits with 1 if a stage of more than ten seconds is off by more than a factor of four."""
import argparse
from pathlib import Path
from pcdistill.chain import load_run
from pcdistill.core import device
from pcdistill.data import n_images
from pcdistill.recipes import estimate
from pcdistill.runs import load_json
from pcdistill.show import table

p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
p.add_argument('run', type=Path, nargs='+')
bad = False
for folder in p.parse_args().run:
    _, r = load_run(folder, 'cpu')
    results = load_json(folder/'results.json')
    dev, took = device(results['device']), results['seconds']
    costs = estimate(r, n_images(r.data), results['data']['n_images'], dev)
    rows = [(k, round(s, 1), took[k], round(s/max(took[k], .1), 2)) for k, s in costs.items()]
    bad |= any(took > 10 and not .25 < ratio < 4 for _, _, took, ratio in rows)
    print(f'{folder.name} on {dev}\n' + table(rows, ('stage', 'estimated s', 'measured s', 'ratio')) + '\n')
raise SystemExit(bad)
