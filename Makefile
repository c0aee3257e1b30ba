# make dream: set up and dream on from a bundled moment. make test: set up and run the whole suite. make check: linters, types.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

# Fifty steps of held inputs: wait, turn, walk, turn back.
HELD := "rest for 3; turn_right for 12; forward for 20; turn_left=0.625 for 15"

.PHONY: dream test check docs clean

dream: $(STAMP)
	$(BIN)/playloom dream --prompt moment:plaza-explorer --actions $(HELD) --out out/dream

test: .venv/.installed-dev
	$(BIN)/pytest -n 2

check: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/.installed-docs
	$(BIN)/mkdocs build --strict

# torch first and alone: pip then keeps the build that the configured index offers (a CPU one where there is one).
.venv/.torch: constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	touch $@

$(STAMP): .venv/.torch pyproject.toml
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

.venv/.installed-dev: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

.venv/.installed-docs: .venv/.installed-dev
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	touch $@

clean:
	rm -rf .venv out
