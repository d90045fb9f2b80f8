# `make demo` and `make test` do all set-up themselves, in a virtual environment of their own.
PYTHON ?= python3
VENV ?= .venv
BIN := $(abspath $(VENV))/bin
CORES ?= all
# pip compiles modules one after the other, and those of tests as well: `COMPILE` takes a fifth of its
# time. What it cannot compile is nothing that hklflow imports.
PIP := $(BIN)/python -m pip install --no-compile --quiet --disable-pip-version-check
COMPILE = $(BIN)/python -m compileall -qq -j 0 -x '/(tests?|testing|regression|examples)/' src $(VENV)/lib || true
.PHONY: help setup setup-slurm setup-xfel setup-view setup-dials setup-dev setup-readers kernels demo test test-all test-programs lint docs bench lock clean

help:
	@echo "make demo    set up, reduce the simulated demo from raw frames to demo/report.html"
	@echo "make test    set up, run the fast tests: every stage, a whole small workflow (5 to 8 minutes of two cores)"
	@echo "make test-all   set up, run all tests of hklflow itself (20 to 30 minutes of two cores)"
	@echo "make test-programs   set up, run the tests that need Slurm and DIALS on this machine"
	@echo "make lint    set up, check style, types, layers and the workflow"
	@echo "make docs    set up, make the documentation as a site: docs/_build/html/index.html"
	@echo "make bench   set up, measure hklflow and its peers side by side, and the whole chain (up to an hour)"
	@echo "make setup   set up only (virtual environment in $(VENV))"
	@echo "make setup-slurm   the same with what profiles/slurm needs, see docs/slurm.md"
	@echo "make setup-xfel    that, and what reads raw files of the European XFEL, see docs/constants.md"
	@echo "make setup-view    the same with what \`hklflow view\` needs, see docs/view.md"
	@echo "make setup-readers programs that read back in the tests what hklflow writes (VTK, nxs_analysis_tools)"
	@echo "make setup-dials   DIALS, by apt or conda: an engine that is used if asked for, see docs/dials.md"

setup: $(VENV)/.installed
setup-slurm: $(VENV)/.installed-slurm
setup-xfel: $(VENV)/.installed-xfel
setup-view: $(VENV)/.installed-view
setup-dev: $(VENV)/.installed-dev
setup-readers: $(VENV)/.installed-readers
setup-dials:
	sh envs/install-dials.sh

$(VENV)/.installed: envs/requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) --require-hashes -r envs/requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	$(COMPILE)
	$(BIN)/python -m hklflow.experiment.warm
	touch $@

$(VENV)/.installed-slurm: $(VENV)/.installed envs/requirements-slurm.lock
	$(PIP) --require-hashes -r envs/requirements-slurm.lock
	$(COMPILE)
	touch $@

$(VENV)/.installed-xfel: $(VENV)/.installed envs/requirements-xfel.lock
	$(PIP) --require-hashes -r envs/requirements-xfel.lock
	$(COMPILE)
	touch $@

$(VENV)/.installed-view: $(VENV)/.installed envs/requirements-view.lock
	$(PIP) --require-hashes -r envs/requirements-view.lock
	$(COMPILE)
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed envs/requirements-dev.lock
	$(PIP) --require-hashes -r envs/requirements-dev.lock
	$(COMPILE)
	$(BIN)/python -m hklflow.experiment.warm constants
	touch $@

$(VENV)/.installed-readers: $(VENV)/.installed-dev envs/requirements-readers.txt
	$(PIP) --no-deps -r envs/requirements-readers.txt
	touch $@

demo: setup
	PATH="$(BIN):$$PATH" snakemake --snakefile Snakefile --directory demo --cores $(CORES) --quiet rules
	PATH="$(BIN):$$PATH" snakemake --snakefile Snakefile --directory demo --cores 1 --report report.html --quiet all
	@echo "Open demo/report.html in a browser; volumes are below demo/results/<sample>/<scan>/."

PYTEST := python -m pytest --dist loadfile --no-loadscope-reorder
PROCESSES := $(shell nproc 2>/dev/null || echo 2)

# What has changed since the set-up is compiled by all cores, not by each process of the tests.
kernels: setup-dev
	$(BIN)/python -c "from hklflow.stage import kernels as k; k.ensure('frames'); k.ensure('constants')"

# Tests are compiled once, not at every run.
test test-all test-programs: export PYTHONDONTWRITEBYTECODE =

test: kernels
	PATH="$(BIN):$$PATH" $(PYTEST) -n $(PROCESSES) -m "not slow"

# One process more than there are cores: tests of killed jobs and of the cluster mostly wait.
MORE := $(shell expr $(PROCESSES) + 1)
SLOWEST := --durations 60 --durations-min 8

test-all: kernels
	PATH="$(BIN):$$PATH" $(PYTEST) -n $(MORE) $(SLOWEST) -m "not (slurm or dials)"

# Other files are not collected: each process would take 20 s for it.
test-programs: kernels
	PATH="$(BIN):$$PATH" $(PYTEST) -n $(PROCESSES) $(SLOWEST) -m "slurm or dials" \
		$$(grep -lrE "dials|slurm" tests --include="test_*.py")

lint: setup-dev
	PATH="$(BIN):$$PATH" ruff check src tests benchmarks docs
	PATH="$(BIN):$$PATH" ruff format --check src tests benchmarks docs/_ext docs/conf.py docs/draw_graphs.py
	PATH="$(BIN):$$PATH" mypy
	PATH="$(BIN):$$PATH" lint-imports
	PATH="$(BIN):$$PATH" snakefmt --check Snakefile workflow
	PATH="$(BIN):$$PATH" snakemake --snakefile Snakefile --directory demo --lint

# Nothing is fetched; a warning is an error, as is a link that leads nowhere.
docs: setup-dev
	PATH="$(BIN):$$PATH" python -m sphinx -b html -W --keep-going -n -E -q docs docs/_build/html
	@echo "Open docs/_build/html/index.html in a browser."

# Where it works and the peers' environment; a peer that cannot be installed is named in the table.
BENCH := .bench
PEERS := $(BENCH)/peers
PEERS_PIP := $(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps

$(PEERS)/.installed: benchmarks/requirements-peers.txt
	$(PYTHON) -m venv $(PEERS)
	echo "*" > $(BENCH)/.gitignore
	$(PEERS_PIP) -r $< || while read -r line; do \
		case "$$line" in "#"*) ;; *) $(PEERS_PIP) "$$line" || echo "not installed: $$line" ;; esac; \
	done < $<
	touch $@

bench: setup $(PEERS)/.installed
	@command -v dials.version > /dev/null || echo "DIALS is not on PATH and will be missing from the table; Debian: apt-get install dials"
	$(BIN)/python -m benchmarks.speed --data $(BENCH)/data --peers $(PEERS)/bin/python --table docs/benchmark.md $(BENCH_OPTIONS)

lock: setup-dev
	PATH="$(BIN):$$PATH" sh envs/lock.sh

clean:
	rm -rf $(VENV) $(BENCH) src/hklflow/__pycache__/kernels-* demo/results demo/raw demo/report.html demo/.snakemake docs/_build
