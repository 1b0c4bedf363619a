# Every target sets up what it needs: a virtual environment in .venv with the package installed into it.
# Needed beforehand: Python 3.11 or newer, pip, make.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2        # processes of the test run
EXAMPLES ?= 5000 # random programs of `make fuzz`
OUT ?= out       # where `make compare` and `make notebook` write
KERNELS ?=       # a folder for CUDA kernels, between `make test` and `make sweep`
ARGS ?=          # more arguments for `make compare` and `make bench-peers`, for example ARGS="--workload two_layer_sgd"

JOBS := $(strip $(JOBS))
EXAMPLES := $(strip $(EXAMPLES))
OUT := $(strip $(OUT))
KERNELS := $(strip $(KERNELS))
PY := $(VENV)/bin/python

.PHONY: help test sweep test-gpu check format compare bench bench-gpu bench-peers bench-scaling bench-compile figures fuzz notebook clean
.DELETE_ON_ERROR:

help:
	@echo "make compare    eager against traced: tables, plots and JSON in $(OUT)/"
	@echo "make test       all checks and all tests"
	@echo "make sweep      machine code of every CUDA kernel that \`make test KERNELS=folder\` has left in KERNELS; needs no GPU"
	@echo "make test-gpu   the suite with a GPU as its device, and what only a GPU shows (PYTHON=... with cupy, numba-cuda, pytest)"
	@echo "make bench-gpu  kernels, steps and launch costs on a GPU; writes benchmarks/results/gpu-NAME"
	@echo "make check      lint, format, types, and which layer may import which"
	@echo "make bench      measure against the targets; writes benchmarks/results/"
	@echo "make bench-peers  beside PyTorch, JAX and TensorFlow, each in an environment of its own in .peers/"
	@echo "make bench-scaling  time of a call against elements, layers, arguments and threads, as a table and a plot"
	@echo "make bench-compile  first calls, cold and warm, against the size of the graph, as a table and a plot"
	@echo "make figures    bench and compare, and put the figures into the README"
	@echo "make fuzz       random programs, eager against interpreter against compiled (EXAMPLES=$(EXAMPLES))"
	@echo "make notebook   run notebooks/eager_vs_function.ipynb; the result is in $(OUT)/"
	@echo "make format     rewrite the sources in the house format"
	@echo "make clean      remove the environment and everything built"

# With KERNELS=folder, the CUDA kernels of the graphs that the tests compile are left there, for `make sweep`.
test: check
	$(if $(KERNELS),HYBRIDML_GATHER="$(abspath $(KERNELS))" PYTHONPATH=tests/gpu) \
	  $(PY) -m pytest $(if $(KERNELS),-p gather) -n $(JOBS) --dist worksteal

sweep: $(VENV)/.dev
	$(PY) tests/gpu/sweep.py "$(KERNELS)" --jobs $(JOBS) $(ARGS)

# Both run in the Python that is there, with no environment of their own and no network. Exit code 3 where there is no GPU.
test-gpu:
	@$(PYTHON) tests/gpu/run.py $(ARGS)

bench-gpu:
	@$(PYTHON) benchmarks/gpu/run.py $(ARGS)

check: $(VENV)/.dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -c "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_logo=True))"

format: $(VENV)/.dev
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

compare: $(VENV)/.demo
	$(PY) -m hybridml.cli compare --out "$(OUT)" $(ARGS)

bench: $(VENV)/.dev
	$(PY) -m pytest benchmarks --benchmark-only --benchmark-disable-gc

# A library that cannot be installed is left out, and the result says so.
PEERS := hybridml torch jax tensorflow

bench-peers: $(VENV)/.demo $(PEERS:%=.peers/%/.tried)
	PYTHONPATH=. $(PY) benchmarks/peers/run.py $(ARGS)

.peers/%/.tried: benchmarks/peers/requirements/%.txt | $(PY)
	@rm -rf $(@D)
	$(PY) -m venv --without-pip $(@D)
	@if $(PY) -m pip --python $(@D)/bin/python install --quiet --no-compile --disable-pip-version-check -r $<; \
	  then touch $(@D)/.ready; else echo "$* cannot be installed and is left out"; fi
	@touch $@

.peers/hybridml/.tried: pyproject.toml # what we need ourselves may change

bench-scaling: $(VENV)/.dev
	$(PY) benchmarks/scaling.py $(ARGS)

bench-compile: $(VENV)/.demo
	$(PY) benchmarks/compile_time.py $(ARGS)

# On an idle machine: the README shows what this measures.
figures: bench compare
	$(PY) benchmarks/readme.py "$(OUT)/compare.json"

fuzz: $(VENV)/.dev
	HYBRIDML_FUZZ_EXAMPLES=$(EXAMPLES) $(PY) -m pytest tests/fuzz -n $(JOBS)

notebook: $(VENV)/.dev $(VENV)/.demo
	$(PY) notebooks/run.py notebooks/eager_vs_function.ipynb "$(OUT)/eager_vs_function.ipynb"

# A stamp for each set of extras, renewed when pyproject.toml changes.
$(VENV)/.dev: pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --no-compile --disable-pip-version-check -e ".[dev,demo]"
	@touch $@ $(VENV)/.demo

$(VENV)/.demo: pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --no-compile --disable-pip-version-check -e ".[demo]"
	@touch $@

# Debian and Ubuntu ship a venv module that cannot bring pip along; the system's pip can install it instead.
$(PY):
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
	  { echo "hybridml needs Python 3.11 or newer; choose one with: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c "import venv" || \
	  { echo "this Python has no venv module; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@if $(PYTHON) -c "import ensurepip" 2>/dev/null; then \
	  $(PYTHON) -m venv "$(VENV)"; \
	else \
	  $(PYTHON) -m venv --without-pip "$(VENV)" && \
	  $(PYTHON) -m pip --python "$(PY)" install --quiet --disable-pip-version-check pip; \
	fi || { rm -rf "$(VENV)"; \
	  echo "cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv"; exit 1; }

clean:
	rm -rf "$(VENV)" .peers "$(OUT)" build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
