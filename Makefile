# One virtual environment, three commands: `make demo`, `make quick` and `make test`.
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The tests need no network and no GPU, and each worker one core.
TEST_ENV := CUDA_VISIBLE_DEVICES= HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 OMP_NUM_THREADS=1
PYTEST = $(TEST_ENV) $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=worksteal
# The marks of cost are explained in pyproject.toml.
CHEAP := not slow and not processes and not docs and not compat

# A virtual environment holds absolute paths: set it up again where the folder has moved.
ifneq ($(CURDIR),$(shell cat $(READY) 2>/dev/null))
$(shell rm -f $(READY))
endif

.PHONY: help setup demo quick test lint types docs clean

help:  ## list the targets
	@echo "usage: make TARGET [PYTHON=python3.12]"
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## make .venv with pinned packages; install an emoji font and WordNet

demo: setup  ## detect objects by name in photographs, with the model that ships
	$(BIN)/python projects/DetCLIPv2/demo.py

quick: lint types  ## lint, types and the fast tests: for each change
	$(PYTEST) --check-costs -m "$(CHEAP)"

test: lint types docs  ## lint, types, the documentation site and all tests: before a change is merged
	$(PYTEST)

lint: setup  ## ruff, formatting, and the project rules of scripts/lint.py
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m scripts.lint

types: setup  ## mypy
	$(BIN)/python -m mypy

docs: setup  ## the documentation site, in build/site; a dead link is an error
	$(BIN)/python scripts/build_docs.py

clean:  ## remove .venv, builds and caches; output/ stays
	rm -rf $(VENV) build dist .cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -maxdepth 2 -name '*.egg-info' -type d -prune -exec rm -rf {} +

$(READY): scripts/setup.sh requirements.lock setup.cfg setup.py pyproject.toml
	bash scripts/setup.sh $(VENV)
