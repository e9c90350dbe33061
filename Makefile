# Everything that is done with this repository. `make` alone prints what there is.
# A fresh clone needs no step before any of them; a second run of each starts at once.

PYTHON ?= python3
VENV ?= .venv

KAFKA ?= 4.1.0##              version of the embedded broker
KAFKA_PORT ?= 19092##         its port for clients, on 127.0.0.1 (run)
CONTROLLER_PORT ?= 19093##    its second port (run)
WEB_PORT ?= 19100##           /metrics, /livez and /readyz of the worker (run)
INGRESS_PORT ?= 19101##       where webhooks are taken (run)
INGRESS_ADMIN_PORT ?= 19102## /metrics, /livez and /readyz of the ingress (run)
BROKER ?=##                   host:port of an existing cluster to use instead (run); TLS and SASL by MAILSTREAMS_KAFKA__...
DEMO ?=##                     1 simulates providers on that cluster too (run)
ARGS ?=##                     more arguments for the system, pytest, the benchmark or the locks (run, test, bench, lock)

BIN := $(VENV)/bin
# What runs, and what tests and checks; each stamp is newer than what it was made from.
RUNTIME := $(VENV)/.runtime
TOOLS := $(VENV)/.tools
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input --quiet
COMPILE := var/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command "make lock"

.DEFAULT_GOAL := help
.PHONY: help run smoke test check format bench jars lock clean distclean
.DELETE_ON_ERROR:

help: ## Print this.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "Variables, as in: make run KAFKA_PORT=20092"
	@awk -F ' *[?]= *|## *' '/^[A-Z_]+ [?]=.*## / { printf "  %-18s %s%s\n", $$1, $$3, ($$2 == "" ? "" : " [" $$2 "]") }' $(MAKEFILE_LIST)

run: $(RUNTIME) ## Run the whole system on this machine until Ctrl-C, with simulated providers.
	@$(BIN)/python -m deploy.local.run --kafka $(KAFKA) --kafka-port $(KAFKA_PORT) \
		--controller-port $(CONTROLLER_PORT) --web-port $(WEB_PORT) \
		--ingress-port $(INGRESS_PORT) --ingress-admin-port $(INGRESS_ADMIN_PORT) \
		$(if $(BROKER),--broker $(BROKER)) $(if $(filter-out 0,$(DEMO)),--demo) $(ARGS)

smoke: $(RUNTIME) ## The same on temporary data, compared with what must come out, and gone again.
	@$(BIN)/python -m deploy.local.smoke --kafka $(KAFKA)

test: $(TOOLS) jars ## Run all tests; those with a real broker start one of their own.
	$(BIN)/pytest $(ARGS)

check: $(TOOLS) ## Formatter, linters, types, import rules, container files: what a change has to pass besides the tests.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint deploy/Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml
	$(BIN)/pre-commit validate-config
	bash -n .ci/run

format: $(TOOLS) ## Format the code and mend what ruff can mend.
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(TOOLS) jars ## Measure the speed.
	$(BIN)/python -m bench $(ARGS)

jars: $(RUNTIME) var/kafka/$(KAFKA)/complete ## Fetch the embedded broker by Maven.

lock: ## Write requirements*.lock anew from pyproject.toml; ARGS=--upgrade takes the newest versions that it allows.
	rm -rf var/lock
	$(PYTHON) -m venv var/lock
	var/lock/bin/python -m pip --disable-pip-version-check --quiet install uv
	$(COMPILE) $(ARGS) pyproject.toml --output-file requirements.lock
	$(COMPILE) $(ARGS) pyproject.toml --group dev --constraints requirements.lock --output-file requirements-dev.lock
	printf 'hatchling\neditables\n' | $(COMPILE) $(ARGS) - --constraints requirements-dev.lock --output-file requirements-build.lock
	rm -rf var/lock

clean: ## Remove the data of `make run` and the caches of the tools.
	@$(PYTHON) -c 'import fcntl, pathlib; p = pathlib.Path("var/run/lock"); p.exists() and fcntl.flock(p.open("a"), fcntl.LOCK_EX | fcntl.LOCK_NB)' \
		2>/dev/null || { echo "make run is running: stop it first" >&2; exit 1; }
	rm -rf var/run .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

distclean: clean ## The same, and the virtual environment and Kafka's jars.
	rm -rf $(VENV) var *.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; name it by PYTHON=..., e.g. make run PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "Python's venv is missing: install it, e.g. apt-get install python3-venv" >&2; exit 1; }
	@echo "making the virtual environment $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

$(RUNTIME): requirements.lock requirements-build.lock pyproject.toml | $(BIN)/python
	@echo "installing the dependencies ..."
	@$(PIP) install --require-hashes -r requirements.lock -r requirements-build.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(TOOLS): requirements-dev.lock $(RUNTIME)
	@echo "installing the tools ..."
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@touch $@

var/kafka/%/complete: deploy/kafka/pom.xml | $(RUNTIME)
	@$(BIN)/python -m deploy.local.jars --kafka $*
	@touch $@
