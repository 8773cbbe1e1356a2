# Everything a newcomer runs. Each target does its own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROMPT ?= Name three colours.

.PHONY: demo test soak lint format types protos check-protos clean
demo: export QUESTION := $(value PROMPT)
demo: $(VENV)/demo.installed
	@$(BIN)/glmfleet demo --prompt "$$QUESTION"

# A third one would save a tenth of the time on two cores, and make tests late that wait for processes.
WORKERS ?= 2
test: $(VENV)/dev.installed
	$(BIN)/python -m pytest tests -n $(WORKERS) --dist loadfile --no-loadscope-reorder

MINUTES ?= 30
soak: $(VENV)/dev.installed
	$(BIN)/python -m benchmarks.soak --minutes $(MINUTES)

lint: $(VENV)/dev.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/dev.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/dev.installed
	$(BIN)/mypy protos quantize device sim_devices fleet

protos: $(VENV)/dev.installed
	$(BIN)/python -m protos.generate

check-protos: $(VENV)/dev.installed
	$(BIN)/python -m protos.generate --check

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "glmfleet needs Python 3.11 or newer: set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[coordinator,device,text,sim]'
	@touch $@

$(VENV)/dev.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[coordinator,device,text,sim,dev]'
	@touch $@ $(VENV)/demo.installed
