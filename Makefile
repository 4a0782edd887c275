# The README's commands. Each sets up .venv by itself; nothing else is touched on your machine.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
DATASET ?= movielens-1m

# The part of the suite that needs neither servers nor training: seconds, for use while editing.
FAST    = tests/contract tests/core tests/metrics tests/episodes tests/inference/ranking tests/models/functional \
          tests/training/curricula tests/store/cache/test_memory_cache.py tests/store/tracking tests/data/readers \
          tests/data/validation tests/data/geo
# Two more than there are cores: many tests wait for servers.
WORKERS ?= $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) + 2 )))

# Of `make methods`: baselines beside the learners (popularity is none for choices: BESIDE=nearest), seeds (of a data set with
# folds, such as foursquare-us, each is a training for every fold: SEEDS=1), the most newcomers evaluated, and short trainings.
BESIDE    ?= popularity
SEEDS     ?= 3
NEWCOMERS ?= 1000
BRIEF      = --threads 1 --seeds $(SEEDS) --newcomers $(NEWCOMERS) --set train.most_steps=100 --set train.validate_steps=50 \
             --set new_items.choose=false --set race.settings=[] --set ensemble.members=[]

.PHONY: quickstart test test-fast check format serve bench compare methods methods-full install clean help

help:            ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/'

quickstart: $(VENV)/.installed   ## prepare, meta-train, evaluate, publish; prints the cold-start table
	$(BIN)/recsys-meta quickstart

test: $(VENV)/.installed   ## the test suite, in parallel; SLOW=1 adds what is marked slow; what needs data or servers skips with a reason
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(if $(SLOW),,-m "not slow") $(PYTEST_ARGS)

test-fast: $(VENV)/.installed   ## the quick part of the suite: under a minute
	$(BIN)/pytest -n $(WORKERS) -m "not slow" -q $(FAST) $(PYTEST_ARGS)

check: $(VENV)/.installed   ## format, lint, strict types, import contract, dependency audit
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.audit

format: $(VENV)/.installed   ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

serve: $(VENV)/.installed   ## the API at http://127.0.0.1:8000/docs
	$(BIN)/recsys-meta serve

methods: $(VENV)/.installed   ## every method that serves DATASET in one table, in minutes: three seeds, 100 steps, learners alone
	$(BIN)/recsys-meta compare --dataset $(DATASET) --learners all --baselines $(BESIDE) $(BRIEF) --reuse --json benchmarks/results/$(DATASET)-methods-small.json

methods-full: $(VENV)/.installed   ## the same by the recipes as they are, three seeds, every baseline: a night
	$(BIN)/recsys-meta compare --dataset $(DATASET) --learners all --seeds 3 --reuse --json benchmarks/results/$(DATASET)-methods.json

bench: $(VENV)/.installed   ## one table of speed and memory: training, preparing, adapting, batches, HTTP, roofline
	$(BIN)/python -m benchmarks.bench_suite --json benchmarks/results/bench-suite.json

compare: $(VENV)/.installed   ## learners against baselines, three seeds
	$(BIN)/recsys-meta compare --dataset $(DATASET) --seeds 3 --json benchmarks/results/$(DATASET).json

install: $(VENV)/.installed   ## .venv with all that tests and benchmarks need

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "recsys-meta needs Python 3.11 or newer; say make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:           ## remove .venv and caches; data, runs and models under var/ stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
