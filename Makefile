# Two commands: `make demo` and `make test`. Both make .venv with the locked dependencies first. `make test-slow` runs the
# tests that take longest; `make endurance` disturbs a run in every way and runs the study's controls, for more than an hour.
# `make test-cluster` runs the sample on Flink and Dask clusters of its own; it wants Java 17 and Maven, which fetches Flink's jars.
# `make test-slurm` runs job arrays under a SLURM of its own, for minutes, or says that SLURM is missing. `make endurance` does too.
# `make mutants` puts small faults into a copy of the code, one at a time, and says which the tests don't notice.
# `make wheel-check` installs the wheel without the lock file on each supported Python of this machine, and uses it.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
WEIGHTS ?= random:0
VENV := .venv
MCN := $(VENV)/bin/mcn
# Two processes with a thread each: more threads than cores cost more than they bring.
PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist worksteal --durations=10
COVERAGE ?=
# Why $(PYTHON) can't be used; empty where it can.
REFUSAL = $(if $(PYTHON),$(shell $(PYTHON) .ci/supported_python.py 2>&1 || true),no Python on PATH; give one with PYTHON=PATH)

.PHONY: demo test test-slow test-cluster test-slurm endurance mutants lint wheel-check lock clean

demo: $(VENV)/installed
	$(MCN) run configs/sample.yaml --set extract.weights=$(WEIGHTS)

test: $(VENV)/installed
	$(PYTEST) $(COVERAGE) tests

test-slow: $(VENV)/installed
	$(PYTEST) $(COVERAGE) -m slow tests

endurance: $(VENV)/installed
	$(VENV)/bin/python -m pytest -m endurance tests

test-cluster: $(VENV)/installed
	@$(VENV)/bin/python -m beam_jobs.flink_jar build/flink
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -m cluster --durations=10 tests/cluster

test-slurm: $(VENV)/installed
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -m endurance --durations=10 tests/cluster/test_slurm.py

mutants: $(VENV)/installed
	$(VENV)/bin/python tests/mutants.py

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

wheel-check:
	$(PYTHON) .ci/wheel_check.py

# requirements.lock is complete: resolved anew, an extra would make pip look for a newer release, whose hash isn't there.
# It leaves yt-dlp out: setup.py gives it a floor, and the newest is wanted.
$(VENV)/installed: requirements.lock setup.py
	$(eval REFUSED := $(REFUSAL))$(if $(REFUSED),$(error $(REFUSED)))
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --require-hashes --no-deps -r requirements.lock
	$(VENV)/bin/python -m pip install --quiet -e '.[dev]'
	touch $@

lock:
	$(VENV)/bin/python -m pip install --quiet uv
	$(VENV)/bin/uv pip compile --universal --python-version 3.11 setup.py --extra dev --generate-hashes \
	  --no-emit-package yt-dlp --no-emit-package yt-dlp-ejs --no-emit-package deno -o requirements.lock

clean:
	rm -rf $(VENV) runs build dist *.egg-info
