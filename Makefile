# Everything a newcomer runs. Each target does its own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROMPT ?= Name three colours.

# LOCKED=1 installs exactly what requirements.lock (with the tools: requirements-dev.lock) names, each file by its hash.
LOCKED ?=
HOW := $(if $(LOCKED),locked,installed)
RUN_EXTRAS := coordinator device text sim
PIP = $(BIN)/python -m pip install -q --disable-pip-version-check

.PHONY: demo test long browser clients installed soak chaos schedules lint format types protos check-protos house audit board-wheels lock clean
demo: export QUESTION := $(value PROMPT)
demo: $(VENV)/demo.$(HOW)
	@$(BIN)/glmfleet demo --prompt "$$QUESTION"

# Two more than a small machine has cores: much of the time tests wait for processes and links.
WORKERS ?= 4
test: $(VENV)/dev.$(HOW)
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest tests -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# What `make test` leaves out: most examples of properties, hosts with firewalls, clocks and bad links, faults that take a minute to be noticed, installing. Ten minutes.
long: $(VENV)/dev.$(HOW)
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest tests -m 'long or hypothesis' --hypothesis-profile thorough -n 2 --dist loadfile --timeout 300

# The page in a headless browser; nothing else looks at its scripts.
browser: $(VENV)/dev.$(HOW)
	$(BIN)/python -m pytest tests/fleet/page -m long

# Real clients of OpenAI's and Ollama's APIs, in an environment of their own, asked of a small fleet: docs/clients.md. Half a gigabyte, the package
# indices of Python and of npm, and node.
CLIENTS := .clients
clients: $(VENV)/dev.$(HOW)
	$(PYTHON) -m venv $(CLIENTS)/venv
	$(CLIENTS)/venv/bin/python -m pip install -q --disable-pip-version-check 'openai>=3,<4' openai-agents langchain-openai litellm llm ollama
	$(CLIENTS)/venv/bin/python -m pip install -q --disable-pip-version-check --target $(CLIENTS)/before --upgrade 'openai>=2,<3'
	npm install --silent --prefix $(CLIENTS)/npm openai
	$(BIN)/python -m tests.clients.table

# As people install it: wheel and sdist, by pip, pipx and uv, each in an environment of its own. Minutes, and the package index.
installed: $(VENV)/dev.$(HOW)
	$(PIP) pipx uv
	GLMFLEET_INSTALLED=all $(BIN)/python -m pytest tests/installed -m ""

MINUTES ?= 30
soak: $(VENV)/dev.$(HOW)
	$(BIN)/python -m benchmarks.soak --minutes $(MINUTES)

COUNT ?= 1000
schedules: $(VENV)/dev.$(HOW)
	$(BIN)/python -m benchmarks.schedules --count $(COUNT)

chaos: $(VENV)/dev.$(HOW)
	$(BIN)/glmfleet sim chaos --minutes $(MINUTES)

lint: $(VENV)/dev.$(HOW)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/dev.$(HOW)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/dev.$(HOW)
	$(BIN)/mypy protos quantize device sim_devices fleet tests benchmarks

protos: $(VENV)/dev.$(HOW)
	$(BIN)/python -m protos.generate

check-protos: $(VENV)/dev.$(HOW)
	$(BIN)/python -m protos.generate --check

# What is known to be wrong: in our code (bandit), in what we depend on (advisories that lie here, so no network), secrets that were committed.
# Digests are no secrets; elsewhere `pragma: allowlist secret` says of one line that it holds none.
NO_SECRETS := (\.lock$$|^benchmarks/results/|^tests/goldens/|^tests/house/advisories)
audit: $(VENV)/dev.$(HOW)
	$(BIN)/bandit -q -c pyproject.toml -r protos quantize device sim_devices fleet
	$(BIN)/python -m tests.support.advisories
	git ls-files -z --cached --others --exclude-standard | xargs -0 $(BIN)/detect-secrets-hook --exclude-files '$(NO_SECRETS)'

# Whether every dependency can be installed on an aarch64 board without a compiler; asks the package index.
board-wheels: $(VENV)/dev.$(HOW)
	$(BIN)/python -m tests.support.board_wheels

# Rules of the source tree, the documents and the lock files: seconds.
house: $(VENV)/dev.$(HOW)
	$(BIN)/python -m pytest tests/house

# Newest versions that pyproject.toml allows, for Python 3.11 and later. The second file is the first and the tools.
COMPILE = $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --upgrade --no-emit-index-url \
	--custom-compile-command 'make lock' pyproject.toml - $(addprefix --extra ,$(RUN_EXTRAS))
lock: | $(VENV)/bin/python
	$(PIP) uv
	echo 'setuptools>=77' | $(COMPILE) -o requirements.lock
	echo 'setuptools>=77' | $(COMPILE) --extra dev -c requirements.lock -o requirements-dev.lock

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "glmfleet needs Python 3.11 or newer: set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.installed: pyproject.toml | $(VENV)/bin/python
	$(PIP) -e '.[coordinator,device,text,sim]'
	@touch $@

$(VENV)/dev.installed: pyproject.toml | $(VENV)/bin/python
	$(PIP) -e '.[coordinator,device,text,sim,dev]'
	@touch $@ $(VENV)/demo.installed

# The project itself is built by the setuptools that is locked too.
$(VENV)/demo.locked: requirements.lock pyproject.toml | $(VENV)/bin/python
	$(PIP) --require-hashes -r requirements.lock
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/dev.locked: requirements-dev.lock pyproject.toml | $(VENV)/bin/python
	$(PIP) --require-hashes -r requirements-dev.lock
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/demo.locked
