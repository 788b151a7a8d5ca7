# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# On Linux, PyTorch brings gigabytes for NVIDIA GPUs. Without a GPU, its CPU build is installed first.
# `make install TORCH_INDEX=URL` takes PyTorch from another index, and `TORCH_INDEX=` from the usual one.
GPU := $(wildcard /dev/nvidia0 /dev/kfd /dev/dxg /proc/driver/nvidia/gpus/*)
ifeq ($(shell uname -s)$(GPU)$(PIP_EXTRA_INDEX_URL)$(PIP_INDEX_URL),Linux)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
endif

.PHONY: install torch demo studio test test-slow test-judges test-browser test-studio test-trackers test-machines soak faults check format clean

install: .venv/.installed
	@echo "Ready. Next: . .venv/bin/activate"

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "homespun needs Python 3.11 or newer, for example: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "Installing into .venv (1.3 GB on disk, a few minutes) ..."
	$(PYTHON) -m venv .venv
	@$(MAKE) --no-print-directory torch
	$(PIP) -e .
	@touch $@

# PyTorch from TORCH_INDEX, of the pinned version. If that fails, the next step installs the usual build.
torch:
ifneq ($(TORCH_INDEX),)
	@$(PIP) --no-deps --retries 1 --timeout 20 --index-url $(TORCH_INDEX) $$(grep '^torch==' constraints.txt) || \
		echo "$(TORCH_INDEX) does not give PyTorch; installing the usual build."
endif

.venv/.installed-for-tests: .venv/.installed
	$(PIP) -e '.[test]'
	@touch $@

.venv/.installed-for-checks: .venv/.installed
	$(PIP) -e '.[test,check]'
	@touch $@

# A model that tells stories, from nothing, without a network: each line is a command that you can type yourself.
demo: .venv/.installed
	@mkdir -p demo
	cd demo && ../$(BIN)/homespun download --dataset stories --num-samples 50000 --plain
	cd demo && ../$(BIN)/homespun tokenizer --vocab-size 1024
	cd demo && ../$(BIN)/homespun train --time-budget 255s
	cd demo && ../$(BIN)/homespun generate --prompt "Once upon a time" --num-samples 3 --seed 3
	cd demo && ../$(BIN)/homespun eval --choices
	cd demo && ../$(BIN)/homespun judge --num-samples 50
	@echo "The curves of the run are in demo/checkpoints/training.png."
	@echo "Play on: cd demo && ../$(BIN)/homespun generate --interactive"
	@echo "See what the model attends to: make studio"

# The page of `homespun studio` for the model of the demo.
studio: .venv/.installed
	$(PIP) -e '.[studio]'
	@mkdir -p demo
	cd demo && ../$(BIN)/homespun studio

test: .venv/.installed-for-tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Tests that take minutes: the resume test at full size, compiled and not, a run of 24,000 steps, and servers under load.
test-slow: .venv/.installed-for-tests
	$(BIN)/python -m pytest -m slow

# llama.cpp, which is compiled for some minutes, mlx-lm and lm-evaluation-harness run what is exported.
test-judges: .venv/.installed-for-tests
	$(PIP) -e '.[judges]'
	$(BIN)/python -m pytest -m judges tests/judges

# The page of `homespun report` in Chromium without a screen; on Debian: apt-get install chromium chromium-driver.
test-browser: .venv/.installed-for-tests
	$(PIP) -e '.[browser]'
	$(BIN)/python -m pytest -m browser tests/reporting

# The page of `homespun studio` in the same Chromium. With ARGUMENTS=--write-pictures, those of the guide are made anew.
test-studio: .venv/.installed-for-tests
	$(PIP) -e '.[browser]'
	$(BIN)/python -m pytest -m "studio or not studio" tests/server/studio $(ARGUMENTS)

# The server and then the studio under load, an hour each: memory stays bounded, nothing is left open.
SECONDS ?= 3600
soak: .venv/.installed-for-tests
	$(BIN)/python -m pytest -s -m slow tests/server/test_soak.py --soak-seconds $(SECONDS)

# Runs that are tracked by every tracker; `make test` has TensorBoard alone.
test-trackers: .venv/.installed-for-tests
	$(PIP) -e '.[trackers]'
	$(BIN)/python -m pytest -m "slow or not slow" tests/records/test_tracking.py

# Tokens made by a cluster of two local workers, and tokens on a local server that speaks S3.
test-machines: .venv/.installed-for-tests
	$(PIP) -e '.[machines]'
	$(BIN)/python -m pytest -m "slow or not slow" tests/preparing tests/data/test_remote_storage.py

# Runs that are killed, starved and damaged in every way that docs/faults.md lists; writes its tables.
faults: .venv/.installed-for-tests
	$(BIN)/python -m pytest -m faults tests/faults --write-table
	$(BIN)/python -m tests.faults.table

# What a change has to pass beside the tests.
check: .venv/.installed-for-checks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/.installed-for-checks
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv demo
