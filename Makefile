# Each target sets up what it needs: Python 3.11 or later and pip are enough.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test lint clean

demo: .venv/ready        ## pretrain and transfer on synthetic data, with a table and a picture
	$(BIN)/python train_scripts/demo.py

test: .venv/ready        ## the whole test suite, a process of one thread for each core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

lint: .venv/ready        ## style
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

clean:                   ## remove the environment and what the demo has made
	rm -rf runs/demo .venv

.venv/ready: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@
