# Two commands do everything by themselves, on a machine with Python 3.11 and make:
#   make book    the environment, the exercises, the executed labs, the site; then serves it and prints the address
#   make test    the environment, lint, types, contracts, tests, the labs cell by cell, the site in a real browser
# Running either again does only what has changed.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.stamp
PORT   ?= 8000
# One torch thread a process: a second one makes a run a quarter faster at best (chapter 4 has the numbers), and the
# second core does more by running another process.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
REPORTS := _build/reports
STAGE   := $(BIN)/python tools/run_stage.py

.PHONY: setup book html serve test check lint types contracts unit labs learning site exercises notebooks bench servers lock clean

setup: $(STAMP)

# torch first and alone, by pip: a resolver that may choose takes the build with several GB of CUDA libraries.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed: make PYTHON=/path/to/python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.lock)" "$$(grep '^uv==' requirements.lock)"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip check --disable-pip-version-check
	touch $(STAMP)

# The exact versions, resolved anew from pyproject.toml. The libraries of torch's CUDA build are left out: a machine
# that has that build brings its own.
lock: $(STAMP)
	$(BIN)/uv pip compile --quiet --extra dev --python-version 3.11 --no-annotate --no-header pyproject.toml \
	  --constraint requirements.constraints | grep -viE '^(nvidia|cuda|triton)' > requirements.lock.part
	mv requirements.lock.part requirements.lock

exercises: $(STAMP)
	$(BIN)/python tools/make_exercises.py

notebooks: $(STAMP)
	$(BIN)/python tools/execute_notebooks.py

html: $(STAMP)
	$(BIN)/python tools/build_book.py

book: html serve

serve: $(STAMP)
	$(BIN)/python tools/serve.py $(PORT)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/make_exercises.py --check

types: $(STAMP)
	$(BIN)/mypy

contracts: $(STAMP)
	$(BIN)/lint-imports

unit: $(STAMP)
	mkdir -p $(REPORTS) && rm -f $(REPORTS)/unit.xml
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow and not site" --junitxml $(REPORTS)/unit.xml

# The three long stages run only when something they depend on has changed since they passed.
labs: $(STAMP)
	$(STAGE) $(REPORTS)/labs.xml $(BIN)/pytest -W default --nbval notebooks \
	  --nbval-sanitize-with tests/nbval_sanitize.cfg --nbval-cell-timeout 180 -n 2 --dist loadscope

# Tests that wait for a clock or need both cores are one xdist_group and so run one after the other, beside the rest.
learning: $(STAMP)
	$(STAGE) $(REPORTS)/learning.xml $(BIN)/pytest -m slow -n 2 --dist loadgroup

# Half of the pages each, in a browser each.
site: html
	$(STAGE) $(REPORTS)/site.xml $(BIN)/pytest -m site -n 2 --dist worksteal

check: lint types contracts unit

test:
	$(MAKE) lint types contracts unit labs site learning
	$(BIN)/python tools/count_tests.py $(REPORTS)

bench: $(STAMP)
	$(BIN)/python benchmarks/run_all.py

# LitServe and BentoML for benchmarks/serving_peers.py, apart from everything else; torch first and alone, as above.
servers: $(STAMP)
	test -x .venv-servers/bin/python || $(BIN)/python -m venv .venv-servers
	.venv-servers/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.lock)"
	.venv-servers/bin/python -m pip install --quiet --disable-pip-version-check litserve==0.2.19 bentoml==1.4.40

clean:
	rm -rf _build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
