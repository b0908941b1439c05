# The project's commands: `make help` lists them. Paths are relative, so that a checkout may stand anywhere,
# in a folder with spaces too.

PYTHON ?=
VENV := .venv
STAMP := $(VENV)/.installed
RUN := $(VENV)/bin/python
# One process a core where tests run side by side, so one thread in each.
WORKERS ?= auto

# Nothing here reports home, and pip says only what matters.
export FLWR_TELEMETRY_ENABLED ?= 0
export FLWR_DISABLE_UPDATE_CHECK ?= 1
export RAY_USAGE_STATS_ENABLED ?= 0
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1

.DEFAULT_GOAL := help
.PHONY: help venv run test explore bench check format wheel lock clean

help:  ## what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile
	@echo "  PYTHON=/path/to/python3 chooses the interpreter (3.11 or newer) that .venv is made from."

venv: $(STAMP)  ## .venv with the package and everything pinned in requirements.txt

run: $(STAMP)  ## the default comparison of schemes: a table, results.json and an HTML report
	$(RUN) -m simulations compare --fresh

test: $(STAMP)  ## all tests and doctests
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -m "not ray and not deployment" -n $(WORKERS) --dist worksteal
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -m "ray or deployment" -n 2 --dist loadgroup

explore: $(STAMP)  ## the property tests, with other examples at each call
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -m "hypothesis and not ray and not deployment" -n $(WORKERS) \
	  --dist worksteal --hypothesis-profile=default

bench: $(STAMP)  ## a short selection of the benchmarks: a few minutes
	$(RUN) -m benchmarks.codec --entries 1000000 --settings "fp4,fp8,0.1 bit"
	$(RUN) -m benchmarks.size --entries 100000 --settings "fp4,fp8,0.1 bit"
	$(RUN) -m benchmarks.startup
	$(RUN) -m benchmarks.flower --parameters 100000
	FLWR_CO3_THREADS=1 $(RUN) -m benchmarks.regressions compare

check: $(STAMP)  ## lint, format and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(STAMP)  ## format the code in place
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

wheel: $(STAMP)  ## the wheel, in dist/
	rm -rf build dist
	$(RUN) -m build --wheel --no-isolation --outdir dist

# torch names its CUDA packages itself, exactly; pinned here they would be installed beside a CPU build too.
CUDA := ^(cuda|nvidia)-|^triton==
COMPILE = $(RUN) -m uv pip compile --quiet --upgrade --python-version 3.11 \
	--extra simulation --extra benchmarks --extra dev \
	--no-header --no-annotate --no-emit-index-url pyproject.toml requirements.in

lock: $(STAMP)  ## resolve requirements.txt anew, for Linux and macOS, Python 3.11 and newer
	mkdir -p build
	$(COMPILE) --output-file build/oldest.txt
	$(COMPILE) --universal --constraint build/oldest.txt --output-file build/universal.txt
	{ echo '# Made by `make lock` from pyproject.toml and requirements.in; not to be edited.'; \
	  grep -vE '$(CUDA)' build/universal.txt; } > requirements.txt

clean:  ## remove .venv and all that was built or cached
	rm -rf $(VENV) .benchmarks build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

USED := flwr.serverapp, flwr.simulation, flwr_datasets, matplotlib.pyplot, pytest, ray, sklearn.datasets, torch

# The stamp is written last and taken away first: an interrupted installation leaves none and starts over.
$(STAMP): requirements.txt pyproject.toml flwr_co3/_kernels.c .ci/find-python
	@if [ -e $(STAMP) ]; then rm $(STAMP); else \
	  python="$$(PYTHON='$(PYTHON)' .ci/find-python)" && echo "Making $(VENV) with $$python" && \
	  "$$python" -m venv --clear $(VENV); fi
	$(RUN) -m pip install --quiet "$$(grep '^pip==' requirements.txt)"
	$(RUN) -m pip install --quiet --no-compile -r requirements.txt
	$(RUN) -m pip install -qq --no-deps --no-build-isolation -e .
	@# Byte-compiling everything would take as long as the download: only what is used is, by using it.
	@env -u PYTHONDONTWRITEBYTECODE $(RUN) -c 'import $(USED)'
	@touch $(STAMP)
