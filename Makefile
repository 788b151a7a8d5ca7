# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: install demo test test-slow faults check format clean

install: .venv/.installed
	@echo "Ready. Next: . .venv/bin/activate"

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "homespun needs Python 3.11 or newer, for example: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "Installing into .venv (1.3 GB on disk, a few minutes) ..."
	$(PYTHON) -m venv .venv
	$(PIP) -e .
	@touch $@

.venv/.installed-for-tests: .venv/.installed
	$(PIP) -e '.[test]'
	@touch $@

.venv/.installed-for-checks: .venv/.installed
	$(PIP) -e '.[test,check]'
	@touch $@

# A model that tells stories, from nothing, without a network: each line is a command that you can type yourself.
demo: .venv/.installed
	@mkdir -p demo
	cd demo && ../$(BIN)/homespun download --dataset stories --num-samples 50000
	cd demo && ../$(BIN)/homespun tokenizer --vocab-size 1024
	cd demo && ../$(BIN)/homespun train --time-budget 255s
	cd demo && ../$(BIN)/homespun generate --prompt "Once upon a time" --num-samples 3 --seed 3
	cd demo && ../$(BIN)/homespun judge --num-samples 50
	@echo "The curves of the run are in demo/checkpoints/training.png."
	@echo "Play on: cd demo && ../$(BIN)/homespun generate --interactive"

test: .venv/.installed-for-tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

# What takes minutes: the resume test at full size, compiled and not, and a run of 24,000 steps.
test-slow: .venv/.installed-for-tests
	$(BIN)/python -m pytest -m slow

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
