# make demo    set up .venv, distil the two embedded data sets, print one table, write figures
# make test    set up .venv if needed; every notebook in a process of its own, then pytest
# make lab     JupyterLab on the notebooks
# make render  re-run the notebooks, store their outputs, clean them, write README.md from nbs/index.ipynb
# make dist    wheel and source archive in dist/
# make clean   remove what these made, .venv and your own runs excepted

PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 2
PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready
# threads that spin for long while they wait stop each other on shared cores; see pcdistill/__init__.py
export OMP_WAIT_POLICY ?= passive
export GOMP_SPINCOUNT  ?= 20000

.PHONY: demo test lab render dist clean setup
setup: $(READY)

$(READY): settings.ini constraints.txt pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"wanted Python 3.11 or newer, got {v.major}.{v.minor}: make PYTHON=python3.12")'
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q $$(grep '^torch==' constraints.txt)
	$(PY) -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

demo: $(READY)
	$(PY) -m pcdistill demo --out runs/demo

test: $(READY)
	$(PY) tests/notebooks.py test --jobs $(JOBS)
	$(PY) -m pytest -q

lab: $(READY)
	$(VENV)/bin/jupyter lab nbs

render: $(READY)
	$(VENV)/bin/nbdev-export
	$(PY) tests/notebooks.py render --jobs $(JOBS)

dist: $(READY)
	rm -rf build dist
	$(PY) -m build --no-isolation

clean:
	rm -rf build dist runs/demo *.egg-info .pytest_cache
	find . -path ./$(VENV) -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -print | xargs rm -rf
