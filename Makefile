# Two commands do everything: `make demo` and `make test`.
SHELL := bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SWEEP := $(BIN)/python -m hymba_lab.sweep

# Users of containers that were started with a number have no home: pip gives up without one, and
# the tokens of a text have no cache.
ifeq ($(HOME),)
export HOME := $(shell mkdir -p $(VENV) && cd $(VENV) && pwd)
endif

.PHONY: demo test test-all campaigns lint setup clean

demo: setup  ## train the first sweep at demo size and show its table
	$(SWEEP) sweeps/demo.yaml
	@echo "Next: source $(VENV)/bin/activate (or make shell), then hymba-lab lists every command."
	@echo "Then: docs/first_question.md, a question of your own."

test: setup  ## the fast suite, a process per core
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow and not gpu and not cluster"

SLOW = slow and not campaign and not gpu and not cluster
KILLS = tests/test_sweep_kill.py tests/test_parallel.py tests/test_stages.py
test-all: test  ## also what takes seconds, and the kills, one after another: they watch processes
	$(BIN)/python -m pytest -n auto --dist loadfile -m "$(SLOW)" $(addprefix --ignore=,$(KILLS))
	$(BIN)/python -m pytest -m "$(SLOW)" $(KILLS)

campaigns: setup  ## simulations, mutated files, whole runs: before a release
	$(BIN)/python -m pytest -n auto -m campaign

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(VENV)/installed

# torch is pinned: a bare `torch` takes the newest build, on Linux with gigabytes of CUDA.
$(VENV)/installed: pyproject.toml setup.py hymba_lab/ops/csrc/*
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info

.PHONY: docs docs-reference shell story

story: setup  ## pretrain, tune, evaluate and talk to a toy: docs/story.md; three minutes on two quiet cores
	$(BIN)/python story/tell.py

docs: setup  ## the pages as a site that opens from disk: build/site/index.html
	$(BIN)/python -m mkdocs build --strict --quiet

docs-reference: setup  ## the generated pages anew
	COLUMNS=80 $(BIN)/python docs/reference.py

shell: setup  ## a shell in which hymba-lab is a command
	@bash --rcfile <(echo 'source $(BIN)/activate') -i
