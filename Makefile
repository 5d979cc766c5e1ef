# Two commands matter: `make demo` and `make test`. Both set up everything they need in .venv; `make help` lists the rest.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help demo test check lint types gpu-check format services clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

demo: .venv/.base  ## four synthetic cameras through the whole stream, scored against the truth; writes report/
	$(BIN)/sightline demo --report report

# Side by side on two cores: what trains and exports needs no server and keeps one busy; Kafka and cameras mostly wait, so the
# methods in the stream go with them; the rest takes the other.
LEARNING := tests/trainer $(wildcard tests/deploy/test_export*.py) tests/deploy/test_train_command.py
STREAM := tests/stream tests/ingest tests/deploy/test_methods_in_stream.py
test: .venv/.dev services  ## all tests, over a real Kafka, Redis and RTSP server
	@mkdir -p .cache
	@$(BIN)/pytest $(LEARNING) >.cache/learning.log 2>&1 & learning=$$!; \
	$(BIN)/pytest $(STREAM) >.cache/stream.log 2>&1 & stream=$$!; \
	$(BIN)/pytest $(addprefix --ignore=,$(LEARNING) $(STREAM)); status=$$?; \
	wait $$stream || status=$$?; echo "Kafka, cameras, and what was trained in the stream:"; cat .cache/stream.log; \
	echo "training and export:"; wait $$learning || status=$$?; cat .cache/learning.log; exit $$status

check: lint types  ## formatting, lint, types and import contracts

lint: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/.dev
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.dev  ## format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

gpu-check:  ## on a machine with an NVIDIA GPU: build TensorRT engines of the shipped models and of every method, prove them, print their speed
	@nvidia-smi -L >/dev/null 2>&1 || { echo "gpu-check: no NVIDIA GPU can be seen (nvidia-smi -L): run it on a machine with one"; exit 1; }
	@command -v nvcc >/dev/null || { echo "gpu-check: the CUDA toolkit's nvcc is not on the PATH, and pycuda is built with it (docs/tensorrt.md)"; exit 1; }
	@$(MAKE) --no-print-directory .venv/.gpu
	@status=0; $(BIN)/pytest tests/deploy/test_gpu.py || status=$$?; \
	$(BIN)/python benchmarks/gpu_check.py --json report/gpu-check.json || status=$$?; exit $$status

services:  ## install the tests' RTSP and Redis servers where root may (Kafka comes through Maven when the tests start)
	@tests/install_services.sh

clean:  ## remove what the other targets made
	rm -rf .venv .cache report .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, $$($(PYTHON) --version) found: make PYTHON=python3.11 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || [ "$$(id -u)" != 0 ] || \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv; } >/dev/null 2>&1 || true
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "no virtual environment could be made: on Debian, apt-get install python3-venv"; exit 1; }

.venv/.base: .venv/bin/pip pyproject.toml constraints.txt
	@echo "installing the stream into .venv"
	@$(PIP) install -c constraints.txt -e .
	@touch $@

.venv/.dev: .venv/.base
	@echo "installing the trainer and the tools into .venv (torch is large: a minute or two)"
	@$(PIP) install -c constraints.txt -e '.[train,dev]'
	@touch $@

.venv/.gpu: .venv/.dev
	@echo "installing TensorRT and pycuda into .venv (TensorRT is large, pycuda is compiled: some minutes)"
	@$(PIP) install -c constraints.txt -e '.[train,dev,tensorrt]'
	@touch $@
