"""What a run was estimated to take against what it took, stage by stage: python benchmarks/plan.py RUN… (finished run folders of this machine).

The device is measured now, so it should be as busy as it was then. Exits with 1 if a stage of more than ten seconds is off by more than a factor of four."""
import argparse
from pathlib import Path
from pcdistill.chain import load_run
from pcdistill.core import device
from pcdistill.data import n_images
from pcdistill.recipe import estimate, rates
from pcdistill.runs import load_json
from pcdistill.show import table

p = argparse.ArgumentParser(description=__doc__.splitlines()[0]); p.add_argument('run', type=Path, nargs='+')
bad = False
for folder in p.parse_args().run:
    _, r = load_run(folder, 'cpu'); results = load_json(folder/'results.json'); dev = device(results['device'])
    made = rates(dev); shape = tuple(results['data']['shape'])
    costs = estimate(r, n_images(r.data), results['data']['n_images'], shape, dev, made)
    rows = [(k, round(c.seconds, 1), results['seconds'][k], round(c.seconds/max(results['seconds'][k], .1), 2)) for k, c in costs.items()]
    bad |= any(took > 10 and not .25 < ratio < 4 for _, _, took, ratio in rows)
    print(f'{folder.name} on {dev}: {made.product/1e9:.0f} GFLOP/s, {made.copy/1e9:.1f} GB/s, {1e6*made.call:.1f} µs a call\n' + table(rows, ('stage', 'estimated s', 'measured s', 'ratio')) + '\n')
raise SystemExit(bad)
