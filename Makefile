# make dream: set up and dream from a bundled prompt. make test: set up and run the fast tests; make test-slow: the rest.
# make test-all: both in one run. make coverage: the same, with the share of lines that ran. make check: linters, types.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

# Fifty steps of held inputs: wait, turn, walk, turn back.
HELD := "rest for 3; turn_right for 12; forward for 20; turn_left=0.625 for 15"

.PHONY: dream test test-slow test-all coverage check docs browser page page-check clean

dream: $(STAMP)
	$(BIN)/playloom dream --prompt plaza-explorer --actions $(HELD) --out out/dream

# The fast tests start no process: no browser, no game engine, no Ray. tests/conftest.py marks all others slow.
test: .venv/.installed-dev
	$(BIN)/pytest -n 2 -m "not slow" tests/unit tests/server tests/docs

# One process more than two cores: some tests wait for a browser, a server or the clock.
test-slow: .venv/.installed-dev
	$(BIN)/pytest -n 3 --dist worksteal -m slow

test-all: .venv/.installed-dev
	$(BIN)/pytest -n 3 --dist worksteal

coverage: .venv/.installed-dev
	$(BIN)/pytest -n 3 --cov=playloom --cov-report=term:skip-covered

check: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/.installed-dev
	$(BIN)/mkdocs build --strict

# The page's tests drive a real Chromium, those of capture a real X11 server; Debian and Ubuntu have them as packages.
browser:
	@command -v chromium chromium-browser google-chrome >/dev/null 2>&1 \
	  || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; }
	@command -v Xvfb >/dev/null 2>&1 \
	  || { apt-get update -qq && apt-get install -y -qq --no-install-recommends \
	    xvfb libxcb-randr0 libxcb-render0 libxcb-shm0 libxcb-xfixes0; }

# The built page is committed; only changes of its sources need Node (20.19 or newer).
page: web/node_modules/.installed
	cd web && npm run build

page-check: web/node_modules/.installed
	cd web && npm run check && npm test && npm run verify

web/node_modules/.installed: web/package-lock.json
	cd web && npm ci --no-audit --no-fund --silent
	touch $@

.venv/.created:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

# torch first and alone: pip then keeps the build that the configured index offers (a CPU one where there is one).
.venv/.torch: .venv/.created constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	touch $@

$(STAMP): .venv/.created pyproject.toml
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

.venv/.installed-dev: .venv/.torch pyproject.toml
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,docs]"
	touch $(STAMP) $@

clean:
	rm -rf .venv out
