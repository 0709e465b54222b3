# `make demo` and `make test` set up what they need; `make` alone lists the targets.
PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3 2>/dev/null))
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
GPU_VENV ?= .venv-gpu
GPU_INSTALLED := $(GPU_VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test fuzz bench bench-train gpu-setup gpu-check gpu-rehearsal chaos images check format clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

setup: $(INSTALLED)  ## Create .venv with everything for development and tests

$(INSTALLED): pyproject.toml constraints.txt scripts/ensure-libpython
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[test]'
	scripts/ensure-libpython $(BIN)/python
	touch $@

demo: $(INSTALLED)  ## The main job: train from the queue, go live, predict
	$(BIN)/mlbridge demo

# Two processes share the test files, each with servers of its own: much of the time one waits for
# them. A test that fails is run once more, and listed under RERUN: real servers on a busy machine
# miss a time limit now and then. JOBS=0 PYTEST_ARGS=--reruns=0 takes the first answer, alone.
JOBS ?= 2
test: $(INSTALLED)  ## The whole test suite, on real servers of its own
	$(BIN)/python -P -m pytest --numprocesses $(JOBS) --dist loadfile --reruns 1 $(PYTEST_ARGS)

# What it finds is left in build/fuzz; give such a file in ARGS, with TARGETS, to run it alone.
fuzz: $(INSTALLED)  ## Look for inputs that break the parsers, TIME=60 seconds for each of TARGETS
	for target in $(or $(TARGETS),message task tensor result request); do \
		$(BIN)/python -P tests/fuzz/atheris_targets.py $$target \
			-max_total_time=$(or $(TIME),60) $(ARGS) || exit 1; \
	done

# Without ARGS everything is measured, for about 20 minutes, and written to docs/benchmarks.md.
# With ARGS, such as "drain --repetitions 3", the report goes to build/benchmarks.
bench: $(INSTALLED)  ## Measure beside Celery, Dramatiq and stock taskiq; ARGS="drain" for a part
	$(BIN)/python -P benchmarks/run.py $(or $(ARGS),--publish)

# Without ARGS everything, which takes long, into docs/training-benchmarks.md.
bench-train: $(INSTALLED)  ## Measure training beside the same by hand; ARGS="recovery" for a part
	$(BIN)/python -P benchmarks/train.py $(or $(ARGS),--publish)

# Asks for the GPU before it installs gigabytes; exit code 2: no GPU.
gpu-setup:  ## What gpu-check needs, into .venv-gpu: minutes, and 6 GB
	$(PYTHON) -P benchmarks/bridgebench/gpu/presence.py
	$(MAKE) $(GPU_INSTALLED)

# Without ARGS into docs/gpu.md.
gpu-check: gpu-setup  ## On a machine with an NVIDIA GPU: see that it is used, and measure
	$(GPU_VENV)/bin/python -P benchmarks/gpu.py $(or $(ARGS),--publish)

gpu-rehearsal: $(INSTALLED)  ## The same on processors, with small models; no figures
	$(BIN)/python -P benchmarks/gpu.py --rehearse

# onnxruntime and onnxruntime-gpu are the same folder: one has to go before the other comes.
$(GPU_INSTALLED): pyproject.toml constraints.txt scripts/ensure-libpython
	$(PYTHON) -m venv $(GPU_VENV)
	scripts/ensure-libpython $(GPU_VENV)/bin/python
	$(GPU_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(GPU_VENV)/bin/python -m pip install --constraint constraints.txt --editable '.[demo,bench]'
	$(GPU_VENV)/bin/python -m pip uninstall --quiet --yes onnxruntime onnxruntime-gpu
	$(GPU_VENV)/bin/python -m pip install --constraint constraints.txt --editable '.[gpu]'
	touch $@

# Without ARGS a short run, for about a minute. The long form, an hour and a half, into docs/chaos.md:
# make chaos ARGS="--faults 1000 --tasks 200000 --minutes 75 --longest-s 4 --settle-s 90 --publish"
chaos: $(INSTALLED)  ## Break everything under load; no task may be lost; ARGS="--seed 7"
	$(BIN)/python -P chaos/run.py $(ARGS)

# Some minutes. Publishes no port; what it started is gone at the end, the images stay.
images:  ## Build the images, start the compose file with them, use and break it; needs Docker, or root
	scripts/try_images/run

check: $(INSTALLED)  ## What a change must pass: format, lint, types, walls
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)  ## Format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## Remove what the targets made
	rm -rf $(VENV) $(GPU_VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist
