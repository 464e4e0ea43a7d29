# Every target works inside .venv, which is made from requirements.txt when it is first needed.
# Once .venv is there, no target uses the network, except lock.

# Tried in this order: the first that is Python 3.11 or newer makes .venv.
PYTHON ?= python3.11 python3
# Added to the pytest command: make test ARGS="-x -k dice"; ARGS="-n 0 --pdb" for a debugger
ARGS ?=
# One process per core, each with one thread; a file stays in one process, which makes its fixtures once.
# In the order of the folders: files of few tests are the slow ones here, and xdist would keep them for last.
PARALLEL := -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder
# Added to the uv command: make lock UV_ARGS=--upgrade
UV_ARGS ?=

# Many containers set it; then each of the processes that tests start would compile the project anew.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
READY := .venv/.ready
UV_DIR := .cache/uv-0.13.8
BENCHMARKS := $(filter-out benchmarks/_%, $(sort $(wildcard benchmarks/*.py)))
# Looking for marks in all files would load libraries that these tests can do without.
GPU_TESTS = $(shell grep -rl 'mark\.gpu' tests --include '*.py')
MLFLOW_STORE := sqlite:///mlruns/mlflow.db

# All that `make clean` removes, besides __pycache__ folders: tool caches, builds, and what `make demo` made.
CACHES := .mypy_cache .pytest_cache .ruff_cache .cache/uv-* .cache/samples .cache/instances .cache/pairs build dist src/polymask.egg-info
DEMO_RUN := $(addprefix models/checkpoints/demo, .pt .last.pt .yaml) \
	results/test/demo results/inference/demo results/demo_images
DEMO_DATA := data/demo

define find_python
for python in $(PYTHON) ""; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
done; \
test -n "$$python" || { \
	echo "polymask needs Python 3.11 or newer, and none of these is: $(PYTHON)." \
		"Install python3.11, or name one: make PYTHON=/path/to/python3.11" >&2; \
	exit 2; \
}
endef

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-ui test-gpu gpu-check lint format ui bench lock clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY)  ## Make .venv from requirements.txt (the other targets do this by themselves)

# setuptools is one of the requirements, so the editable install needs no isolated build and no network.
# editable_mode=compat puts src/ on the path; the default import hook adds 10 ms to every start of Python.
$(READY): requirements.txt pyproject.toml setup.py
	@$(find_python); \
	echo "Setting up .venv with $$python (the first time: several GB, some minutes)"; \
	"$$python" -m venv .venv
	@$(PIP) --requirement requirements.txt
	@$(PIP) --no-deps --no-build-isolation --config-settings editable_mode=compat --editable .
	@touch $@

demo: $(READY)  ## Train, test and infer on made-up images; a GPU is not needed
	@rm -rf $(DEMO_RUN)
	$(BIN)/python src/train.py experiment=demo run_name=demo
	$(BIN)/python src/test.py run_name=demo
	@mkdir -p results/demo_images
	cp $$(ls -d $(DEMO_DATA)/images/* | head -n 8) results/demo_images/
	$(BIN)/python src/infer.py run_name=demo data.data_dir=results/demo_images
	@echo
	@echo "Checkpoint   models/checkpoints/demo.pt"
	@echo "Test report  results/test/demo"
	@echo "Predictions  results/inference/demo (of the 8 images in results/demo_images)"
	@echo "MLflow       make ui, then open http://127.0.0.1:5000"

test: $(READY)  ## Run the fast tests
	$(BIN)/pytest $(PARALLEL) $(ARGS)

test-slow: $(READY)  ## Run the tests that take minutes
	$(BIN)/pytest -m slow $(ARGS)

test-ui: $(READY)  ## Look at the MLflow UI with Chromium, and take its pictures for docs/images anew
	@{ command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null \
		&& command -v chromedriver >/dev/null || { \
		echo "make test-ui needs Chromium: sudo apt-get install --yes chromium chromium-driver" >&2; exit 2; }
	POLYMASK_UPDATE_DOCS=1 $(BIN)/pytest -m ui $(ARGS)

test-gpu: $(READY)  ## Run the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu $(GPU_TESTS) $(ARGS)

gpu-check: $(READY)  ## Test and measure all families on a CUDA device, in at most 8 minutes
	@$(BIN)/python -c 'import torch; exit(0 if torch.cuda.is_available() else 2)' || { \
		echo "make gpu-check needs a CUDA device, and PyTorch finds none here" >&2; exit 2; }
	@status=0; run() { echo "== $$*"; $(BIN)/python "$$@" || status=1; }; \
	run benchmarks/families.py; \
	run benchmarks/training_epoch.py --encoder resnet34 --size 256 --batch 64 --precision bf16; \
	run benchmarks/inference.py --images 512 --batch 64 --workers 8; \
	run -m pytest -m gpu $(GPU_TESTS) $(ARGS); \
	exit $$status

lint: $(READY)  ## Check rules, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## Sort imports and format the code
	$(BIN)/ruff check --select I --fix .
	$(BIN)/ruff format .

ui: $(READY)  ## Open the MLflow UI on http://127.0.0.1:5000
	@echo "Choose Model training at the top left, then the experiment polymask."
	MLFLOW_DISABLE_TELEMETRY=true $(BIN)/mlflow ui --backend-store-uri $(MLFLOW_STORE) --host 127.0.0.1

bench: $(READY)  ## Run the benchmarks behind the performance table of the README
	@set -e; for script in $(BENCHMARKS); do echo "== $$script"; $(BIN)/python "$$script"; done

lock: $(UV_DIR)/bin/uv  ## Make requirements.txt anew from pyproject.toml (newest versions: UV_ARGS=--upgrade)
	$< pip compile pyproject.toml --extra dev --universal --python-version 3.11 --python $(UV_DIR)/bin/python \
		--custom-compile-command "make lock" --quiet --output-file requirements.txt $(UV_ARGS)

$(UV_DIR)/bin/uv:
	@$(find_python); "$$python" -m venv $(UV_DIR)
	@$(UV_DIR)/bin/python -m pip install --quiet --disable-pip-version-check $(subst .cache/uv-,uv==,$(UV_DIR))

clean:  ## Remove tool caches, builds and what make demo made; your data, runs and .venv stay
	rm -rf $(CACHES) $(DEMO_RUN) $(DEMO_DATA)
	find $(wildcard src tests benchmarks) -type d -name __pycache__ -exec rm -rf {} +
