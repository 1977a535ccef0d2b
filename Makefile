# Each target sets up what it needs: Python 3.11 or later and pip are enough.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test bench tables lint clean

demo: .venv/ready        ## pretrain and transfer on synthetic data, with a table and a picture
	$(BIN)/python train_scripts/demo.py

test: .venv/ready        ## the whole test suite, a process of one thread for each core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

bench: .venv/bench       ## the speed benchmarks, small; tables go to runs/bench
	$(BIN)/python benchmarks/bench_prior.py --rounds 3 --results runs/bench/prior.csv
	$(BIN)/python benchmarks/bench_selection.py --rounds 3 --batch_size 2 --results runs/bench/selection.csv
	$(BIN)/python benchmarks/bench_loader.py --rounds 2 --num_locations 16 --results runs/bench/loader.csv
	$(BIN)/python benchmarks/bench_step.py --rounds 2 --encoder resnet18 --crop_size 128 --results runs/bench/step.csv
	$(BIN)/python benchmarks/bench_predict.py --rounds 2 --model_type resnet18 --tiles 8 --results runs/bench/predict.csv

tables: .venv/ready      ## all tables of README.md, RESULTS.md and benchmarks/ from the CSV files there
	$(BIN)/python benchmarks/readme.py
	$(BIN)/python benchmarks/science.py --tables
	$(BIN)/python benchmarks/limits.py
	$(BIN)/python benchmarks/scaling.py

lint: .venv/ready        ## style
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

clean:                   ## remove the environment and what the demo has made
	rm -rf runs/demo .venv

.venv/bench: .venv/ready
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[dev,bench]"
	@touch $@

.venv/ready: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@
