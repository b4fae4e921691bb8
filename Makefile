# Everything a fresh machine with Python 3.11 or newer, git and make needs: each target installs
# what it uses into .venv and does its work.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
ARGUMENTS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test lint docs bench accuracy mutation cuda-kernels gpu-check clean

help:  ## show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

# One stamp for each extra: installed again when pyproject.toml changes.
$(STAMPS)/%: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

demo: $(STAMPS)/demo  ## train on real digits with explicit backward passes; writes digits.png
	$(BIN)/python examples/digits.py $(ARGUMENTS)

test: $(STAMPS)/test $(STAMPS)/demo  ## run the tests
	$(BIN)/python -m pytest --numprocesses auto $(ARGUMENTS)

lint: $(STAMPS)/lint $(STAMPS)/test  ## check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests/typing
	$(BIN)/lint-imports --no-logo

docs: $(STAMPS)/docs  ## build the documentation into build/docs; a stale table fails
	$(BIN)/python -m sphinx -W --keep-going docs build/docs $(ARGUMENTS)

bench: $(STAMPS)/bench  ## time the ops beside the peers that are installed; writes docs/benchmarks.md
	$(BIN)/python -m benchmarks $(ARGUMENTS)

accuracy: $(STAMPS)/test $(STAMPS)/bench  ## measure errors in ULP beside the peers that are installed
	$(BIN)/python -m opsgrad.conformance.accuracy --output docs/accuracy.md \
		--json benchmarks/results/accuracy.json --picture docs/images/accuracy.png $(ARGUMENTS)

mutation: $(STAMPS)/test  ## plant mistakes in the ops, and count those that the suite catches
	$(BIN)/python tools/mutation.py $(ARGUMENTS)

cuda-kernels: $(STAMPS)/test $(STAMPS)/cuda-check  ## compile all CUDA kernels, without a GPU, and count registers
	PYTHONPATH=. $(BIN)/python tools/cuda_kernels.py \
		--output benchmarks/results/cuda_kernels.json $(ARGUMENTS)

# In the Python that is there, with whatever CuPy and PyTorch it has: nothing is installed.
gpu-check:  ## on a machine with a GPU: conformance, sanitizer, speed; writes docs/gpu-results.md
	PYTHONPATH="src:.:$$PYTHONPATH" $(PYTHON) -m benchmarks.gpu $(ARGUMENTS)

clean:  ## remove what the other targets made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache digits.png \
		build/docs docs/ops docs/api
