# make demo    set up .venv, distil the two embedded data sets, print a table of each, write figures
# make test    set up .venv if needed; every notebook in a process of its own, then pytest (in the browser too, if Chromium is there)
# make browser play.ipynb in JupyterLab and the page of `pcdistill app`, in headless Chromium; installs what it needs (Chromium by apt-get, as root)
# make lab     JupyterLab on the notebooks
# make docs    the documentation as web pages in _docs/site; once installed, it needs no network
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

CHROMIUM := { command -v chromium || command -v chromium-browser || command -v google-chrome || command -v google-chrome-stable; }

.PHONY: demo test browser lab render docs dist clean setup
setup: $(READY)

$(READY): settings.ini constraints.txt pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"wanted Python 3.11 or newer, got {v.major}.{v.minor}: make PYTHON=python3.12")'
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q $$(grep '^torch==' constraints.txt)
	$(PY) -m pip install -q -c constraints.txt -e ".[dev,app$$($(CHROMIUM) >/dev/null && echo ,browser)]"
	touch $@

demo: $(READY)
	$(PY) -m pcdistill distill --data digits --out runs/demo/digits
	$(PY) -m pcdistill distill --data photos --emission normals --out runs/demo/photos

test: $(READY)
	OMP_NUM_THREADS=1 $(PY) tests/notebooks.py test --jobs $(JOBS)
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -rs -n $(JOBS) --dist loadfile

browser: $(READY)
	@$(CHROMIUM) >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium >/dev/null; } \
	  || { echo 'wanted Chromium, got none, and it cannot be installed from here: as root, apt-get install chromium'; exit 1; }
	$(PY) -m pip install -q -c constraints.txt -e ".[dev,app,browser]"
	PCDISTILL_BROWSER=required $(PY) -m pytest -q -rs tests/browser

lab: $(READY)
	$(VENV)/bin/jupyter lab nbs

render: $(READY)
	$(VENV)/bin/nbdev-export
	$(PY) tests/notebooks.py render --jobs $(JOBS)

docs: $(READY)
	$(PY) -m pip install -q -c constraints.txt $$(sed -n 's/^docs_requirements = //p' settings.ini)
	$(PY) docs/pages.py _docs
	cd _docs && $(abspath $(VENV))/bin/zensical build --strict --clean --config-file mkdocs.yml

dist: $(READY)
	rm -rf build dist
	$(PY) -m build --no-isolation

clean:
	rm -rf build dist _docs runs/demo *.egg-info .pytest_cache
	find . -path ./$(VENV) -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -print | xargs rm -rf
