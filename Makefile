# make setup   a virtual environment in .venv with everything in it
# make demo    climb the ladder of examples/helpdesk, and write its report
# make test    run the tests
# make lint    style, types and import layers
# make clean   remove .venv, runs/ and caches

# The Python that makes the environment: 3.11 or newer.
PYTHON ?= python3
# Installed first where there is no NVIDIA GPU, so that a CPU-only build is taken where your pip is set up for
# one; otherwise pip takes the default build, which works too but is larger. May hold pip's options as well.
TORCH ?= torch==2.13.0
# Options for every `pip install`.
PIP_FLAGS ?=
# Arguments for pytest, such as ARGS="tests/report -x".
ARGS ?=
# Processes that run tests, each whole files: many tests wait for a child to start. WORKERS=0 for a debugger.
WORKERS ?= 2

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := .venv/.made-from-pyproject

.PHONY: setup demo test lint clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install --quiet $(PIP_FLAGS) 'pip>=25.1'
	command -v nvidia-smi >/dev/null || $(PIP) install --quiet $(PIP_FLAGS) $(TORCH)
	$(PIP) install --quiet $(PIP_FLAGS) --editable . --group dev
	touch $@

demo: setup
	$(BIN)/rung climb examples/helpdesk --budget 5m --out runs/demo
	@echo "The report is a page: $(CURDIR)/runs/demo/report.html"

test: setup
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

clean:
	rm -rf .venv runs dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
