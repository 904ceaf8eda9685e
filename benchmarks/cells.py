"For scripts and tests: the reader of notebooks, which stands with them in nbs/cells.py."
from pathlib import Path
from runpy import run_path

its = run_path(str(Path(__file__).parents[1]/'nbs'/'cells.py'))
NBS, NEIGHBOURS, EXTRA, definitions = (its[name] for name in ('NBS', 'NEIGHBOURS', 'EXTRA', 'definitions'))
