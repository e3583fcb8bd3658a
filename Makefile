# make demo: the main job on embedded data.  make test: the tests.  Each installs what it needs.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo test install lint format bench clean

demo: $(INSTALLED)
	$(BIN)/nas measure experiment=demo
	$(BIN)/nas train experiment=demo
	$(BIN)/nas search experiment=demo
	$(BIN)/nas finetune experiment=demo
	$(BIN)/nas export experiment=demo
	$(BIN)/nas export run=runs/demo/finetuned
	$(BIN)/nas report experiment=demo

test: $(INSTALLED)
	$(BIN)/pytest

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED)
	$(BIN)/python benchmarks/step_cost.py
	$(BIN)/python benchmarks/export_latency.py
	$(BIN)/python benchmarks/exactness.py
	$(BIN)/python benchmarks/sampling_overhead.py
	$(BIN)/python benchmarks/gradient_variance.py --families vit
	$(BIN)/python benchmarks/search_overhead.py
	$(BIN)/python benchmarks/search_quality.py --jobs 2
	$(BIN)/python benchmarks/latency_error.py --threads 1
	$(BIN)/python benchmarks/search_budgets.py --run runs/demo
	$(BIN)/python benchmarks/search_kills.py --run runs/demo

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache
