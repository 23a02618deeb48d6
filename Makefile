# Every target prepares what it needs on a fresh machine: a virtual environment in $(VENV), the packages, the project.
VENV   ?= .venv
PYTHON ?= python3
PY      = $(VENV)/bin/python
STAMP   = $(VENV)/.installed
DEMO   ?= demo_output
EXTRAS  = onedl,sam,coco,dev

.PHONY: install ops demo test test-fast lint format clean

install: $(STAMP)

# Dependencies first and the project last without them: building the compiled ops must not make pip compile mmcv as well.
$(STAMP): pyproject.toml setup.py
	$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	MMSEG_PLUGINS_BUILD_OPS=0 $(PY) -m pip install --quiet --editable '.[$(EXTRAS)]'
	touch $@

ops: $(STAMP)
	$(PY) -m mmseg_plugins.ops.build

demo: $(STAMP)
	$(PY) tools/demo.py --out $(DEMO)

# One thread: the tests are tiny, and threads that wait for each other on a busy machine cost more than they bring.
test: export OMP_NUM_THREADS ?= 1
test: $(STAMP)
	$(PY) -m pytest

test-fast: export OMP_NUM_THREADS ?= 1
test-fast: $(STAMP)
	$(PY) -m pytest -m "not training and not slow"

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: $(STAMP)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf build dist $(DEMO) work_dirs *.egg-info
