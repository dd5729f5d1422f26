# Two commands: `make demo` and `make test`. Both make .venv with the locked dependencies first. `make endurance` disturbs a
# run in every way and runs the study's controls, for more than an hour.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
WEIGHTS ?= random:0
VENV := .venv
MCN := $(VENV)/bin/mcn

.PHONY: demo test endurance lint lock clean

demo: $(VENV)/installed
	$(MCN) run configs/sample.yaml --set extract.weights=$(WEIGHTS)

test: $(VENV)/installed
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --cov --cov-report=term tests

endurance: $(VENV)/installed
	$(VENV)/bin/python -m pytest -m endurance tests

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

# requirements.lock is complete: resolved anew, an extra would make pip look for a newer release, whose hash isn't there.
# It leaves yt-dlp out: setup.py gives it a floor, and the newest is wanted.
$(VENV)/installed: requirements.lock setup.py
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
