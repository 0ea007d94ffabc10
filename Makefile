# Two commands: `make demo` runs the whole chain on the embedded world, `make test` passes the tests.
# Each sets itself up; nothing needs to be installed by hand but Python 3.11 to 3.13, pip and git.
PY ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_EXTRA ?=

.PHONY: setup demo up test test-faults test-browser test-kill check peers steering-peers oracle lock clean clean-data

$(VENV)/.ok: pyproject.toml constraints.txt
	$(PY) -c 'import sys; assert (3,11) <= sys.version_info[:2] <= (3,13), "Latentflow needs Python 3.11 to 3.13"'
	$(PY) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt $(PIP_EXTRA) torch
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt $(PIP_EXTRA) -e '.[test]'
	@touch $@

setup: $(VENV)/.ok

demo: setup
	$(BIN)/latentflow experiment
	@echo "Next: make up   (Prefect, MLflow and Streamlit on this very run)"

up: setup
	$(BIN)/latentflow up

# A process for each core, up to four, with a thread each: most tests wait for Python, not for a product of matrices.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4

# One thread, as the runs that are disturbed have: their numbers are compared to the last digit with an undisturbed run's.
test-faults: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m faults

test-browser: setup
	@command -v "$${CHROMIUM:-chromium}" >/dev/null || \
		echo "No Chromium here, so this test will skip: apt-get install chromium (Debian), or set CHROMIUM to its path."
	$(BIN)/python -m pytest -m browser -rs

test-kill: setup
	$(BIN)/python benchmarks/kill.py

# The peers' own classes, each in an environment of its own (about 7 GB in all), for what is compared with them.
PEERS := .venv-peers
peers: $(PEERS)/sae-lens/.ok $(PEERS)/eai-sparsify/.ok $(PEERS)/dictionary-learning/.ok steering-peers
steering-peers: $(PEERS)/repeng/.ok $(PEERS)/steering-vectors/.ok

$(PEERS)/%/.ok:
	$(PY) -m venv $(PEERS)/$*
	$(PEERS)/$*/bin/python -m pip install -q --disable-pip-version-check --upgrade 'pip>=25.1'
	$(PEERS)/$*/bin/python -m pip install -q --disable-pip-version-check $(PIP_EXTRA) torch==2.13.0
	$(PEERS)/$*/bin/python -m pip install -q --disable-pip-version-check $(PIP_EXTRA) --group $*
	if [ $* = dictionary-learning ]; then $(PEERS)/$*/bin/python -m pip uninstall -q -y torchvision; fi  # it does not need it, and it may not match
	@touch $@

oracle: setup peers
	$(BIN)/python benchmarks/oracle.py

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

lock:
	rm -rf .venv-lock
	$(PY) -m venv .venv-lock
	.venv-lock/bin/python -m pip install -q torch==2.13.0
	.venv-lock/bin/python -m pip install -q -e '.[test]'
	.venv-lock/bin/python -m pip freeze --exclude-editable --exclude pip --exclude setuptools | sed 's/+cpu//' > constraints.txt
	rm -rf .venv-lock

clean:
	rm -rf .pytest_cache .ruff_cache build *.egg-info

clean-data:
	@echo "Deleting the store (data/artifacts, without the pointers that git keeps) and every server's state (data/state)."
	git clean -fdxq data/artifacts
	rm -rf data/state
