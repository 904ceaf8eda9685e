"""What a run was estimated to take against what it took, stage by stage: python benchmarks/plan.py RUN… (finished run folders of this machine).

Micro-batches are timed now, so the machine should be as busy as it was then. Exits with 1 if a stage of more than ten seconds is off by more than a factor of four."""
import argparse
from pathlib import Path
from pcdistill.chain import estimate, load_run
from pcdistill.show import table

p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
p.add_argument('run', type=Path, nargs='+')
bad = False
for folder in p.parse_args().run:
    run = load_run(folder, 'cpu')
    dev, took = run.results['device'], run.seconds
    costs = estimate(run.recipe, dev)
    rows = [(k, round(s, 1), took[k], round(s/max(took[k], .1), 2)) for k, s in costs.items()]
    bad |= any(took > 10 and not .25 < ratio < 4 for _, _, took, ratio in rows)
    print(f'{folder.name} on {dev}\n' + table(rows, ('stage', 'estimated s', 'measured s', 'ratio')) + '\n')
raise SystemExit(bad)
