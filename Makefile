# One virtual environment, two commands: `make demo` and `make test`.
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The tests need no network and no GPU, and each worker one core.
TEST_ENV := CUDA_VISIBLE_DEVICES= HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 OMP_NUM_THREADS=1

# A virtual environment holds absolute paths: set it up again where the folder has moved.
ifneq ($(CURDIR),$(shell cat $(READY) 2>/dev/null))
$(shell rm -f $(READY))
endif

.PHONY: help setup demo test lint types clean

help:  ## say what can be made
	@echo "usage: make TARGET [PYTHON=python3.12]"
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## make .venv with everything pinned, and install an emoji font

demo: setup  ## find things by name in pictures, with the small model that ships
	$(BIN)/python projects/DetCLIPv2/demo.py

test: lint types  ## lint, types and all tests
	$(TEST_ENV) $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8

lint: setup  ## ruff: rules and layout
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check

types: setup  ## mypy
	$(BIN)/python -m mypy

clean:  ## remove .venv and what tools left behind; output/ stays
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -maxdepth 2 -name '*.egg-info' -type d -prune -exec rm -rf {} +

$(READY): scripts/setup.sh requirements.lock setup.cfg pyproject.toml $(wildcard compat/setup.cfg compat/pyproject.toml)
	bash scripts/setup.sh $(VENV)
