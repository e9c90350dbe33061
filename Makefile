# Everything that is done with this repository. `make` alone prints what there is.
# A fresh clone needs no step before any of them; a second run of each starts at once.

# Of the shell only PYTHON is heeded: another program's BROKER or VENV must not decide where topics are made, or what is
# removed.
PYTHON ?= python3
VENV = .venv

KAFKA = 4.1.0##               version of the embedded broker
KAFKA_PORT = 19092##          its port for clients, on 127.0.0.1 (run)
CONTROLLER_PORT = 19093##     its second port (run)
WEB_PORT = 19100##            /metrics, /livez and /readyz of the worker (run)
INGRESS_PORT = 19101##        where webhooks are taken (run)
INGRESS_ADMIN_PORT = 19102##  /metrics, /livez and /readyz of the ingress (run)
HISTORY_PORT = 19103##        the pages of the Sending History (run)
HISTORY_ADMIN_PORT = 19104##  /metrics, /livez and /readyz of the history (run)
PROMETHEUS_PORT = 19105##     Prometheus, where it is installed (run)
ALERTMANAGER_PORT = 19106##   Alertmanager, the same (run)
HOURS = 1##                   how long, fractions too (soak)
BROKER =##                    host:port of an existing cluster to use instead (run); TLS and SASL by MAILSTREAMS_KAFKA__...
FAST =##                      1 measures less and coarsely, in 3 minutes (bench, bench-kafka-streams)
DEMO =##                      1 simulates providers on that cluster too (run)
ARGS =##                      more arguments for the system, pytest, the faults, the benchmark or the locks (run, test, chaos, soak, bench, lock)

BIN := $(VENV)/bin
# What runs, and what tests and checks; each stamp is newer than what it was made from.
RUNTIME := $(VENV)/.runtime
TOOLS := $(VENV)/.tools
QUIX := var/bench/venv/.quix
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input --quiet
COMPILE := var/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command "make lock"

.DEFAULT_GOAL := help
.PHONY: help run smoke test test-broker chaos soak e2e check format bench bench-kafka-streams dashboards jars lock sbom clean distclean
.DELETE_ON_ERROR:

help: ## Print this.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "Variables, as in: make run KAFKA_PORT=20092"
	@awk -F ' *= *|## *' '/^[A-Z_]+ =.*## / { printf "  %-18s %s%s\n", $$1, $$3, ($$2 == "" ? "" : " [" $$2 "]") }' $(MAKEFILE_LIST)

run: $(RUNTIME) ## Run the whole system on this machine until Ctrl-C, with simulated providers.
	@$(BIN)/python -m deploy.local.run --kafka $(KAFKA) --kafka-port $(KAFKA_PORT) \
		--controller-port $(CONTROLLER_PORT) --web-port $(WEB_PORT) \
		--ingress-port $(INGRESS_PORT) --ingress-admin-port $(INGRESS_ADMIN_PORT) \
		--history-port $(HISTORY_PORT) --history-admin-port $(HISTORY_ADMIN_PORT) \
		--prometheus-port $(PROMETHEUS_PORT) --alertmanager-port $(ALERTMANAGER_PORT) \
		$(if $(BROKER),--broker $(BROKER)) $(if $(filter-out 0,$(DEMO)),--demo) $(ARGS)

smoke: $(RUNTIME) ## The same on temporary data, compared with what must come out, and gone again.
	@$(BIN)/python -m deploy.local.smoke --kafka $(KAFKA)

# Tests start Python hundreds of times: where the environment forbids to keep what is compiled, each start would compile
# all of it again.
test test-broker: export PYTHONDONTWRITEBYTECODE =

# File by file, because the tests of a file share what is dear to start; which comes when and where is in tests/order.py.
# Three processes, on two cores too: two of them wait for brokers and clocks half of the time.
test: $(TOOLS) jars ## Run all tests but those of e2e, side by side; those with a real broker start one of their own.
	@$(BIN)/python -m tests.java --kafka $(KAFKA)
	$(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder $(ARGS)

test-broker: $(TOOLS) jars ## Those with a real broker alone, on the version of Kafka that is named, as in KAFKA=3.9.1.
	@$(BIN)/python -m tests.java --kafka $(KAFKA)
	KAFKA=$(KAFKA) $(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder \
		-m broker $(ARGS)

chaos: $(TOOLS) jars ## Break a real system in every way that we know, compare all it wrote with a model; ARGS="--quick --only NAME".
	$(BIN)/python -m tests.faults --kafka $(KAFKA) $(ARGS)

soak: $(TOOLS) jars ## HOURS of half load with a kill -9 each five minutes: does anything grow, is anything lost? A CSV file and a plot.
	$(BIN)/python -m tests.faults.soak --kafka $(KAFKA) --hours $(HOURS) $(ARGS)

e2e: $(TOOLS) jars ## The whole way with real Prometheus and Alertmanager: alerts, dashboards. Takes minutes.
	$(BIN)/pytest $(ARGS) tests/e2e

check: $(TOOLS) ## Formatter, linters, types, import rules, container files, alert rules: what a change has to pass besides the tests.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint deploy/Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml
	$(BIN)/pre-commit validate-config
	bash -n .ci/run
	@command -v promtool >/dev/null || echo "alert rules are not checked: apt-get install prometheus"
	@! command -v promtool >/dev/null || promtool check rules deploy/prometheus/rules/*.yml
	@command -v amtool >/dev/null || echo "alert routes are not checked: apt-get install prometheus-alertmanager"
	@! command -v amtool >/dev/null || amtool check-config deploy/alertmanager/alertmanager.yml

format: $(TOOLS) ## Format the code and mend what ruff can mend.
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(TOOLS) $(QUIX) jars ## Measure the speed, beside Faust, Quix Streams and a plain loop; FAST=1 takes 3 minutes.
	$(BIN)/python -m bench $(if $(filter-out 0,$(FAST)),--fast) $(ARGS)

bench-kafka-streams: $(TOOLS) jars ## Measure the thin job beside Kafka Streams (Java); needs a JDK.
	$(BIN)/python -m bench --only kafka-streams $(if $(filter-out 0,$(FAST)),--fast) $(ARGS)

dashboards: $(TOOLS) ## Write deploy/grafana/dashboards anew, after a change of what makes them.
	$(BIN)/python -m deploy.grafana

jars: $(RUNTIME) var/kafka/$(KAFKA)/complete ## Fetch the embedded broker by Maven.

lock: ## Write requirements*.lock anew from pyproject.toml; ARGS=--upgrade takes the newest versions that it allows.
	rm -rf var/lock
	$(PYTHON) -m venv var/lock
	var/lock/bin/python -m pip --disable-pip-version-check --quiet install uv
	$(COMPILE) $(ARGS) pyproject.toml --output-file requirements.lock
	$(COMPILE) $(ARGS) pyproject.toml --group dev --constraints requirements.lock --output-file requirements-dev.lock
	$(COMPILE) $(ARGS) --group bench --output-file requirements-bench.lock
	printf 'hatchling\neditables\n' | $(COMPILE) $(ARGS) - --constraints requirements-dev.lock --output-file requirements-build.lock
	rm -rf var/lock

sbom: $(TOOLS) ## Write var/sbom.json: what runs in production, by name, version and licence (CycloneDX).
	@rm -rf var/sbom && $(PYTHON) -m venv --without-pip var/sbom
	@$(PIP) --python var/sbom/bin/python install --require-hashes --no-compile -r requirements.lock
	@$(BIN)/python -m deploy.sbom var/sbom/bin/python var/sbom.json
	@rm -rf var/sbom

clean: ## Remove the data of `make run` and the caches of the tools.
	@error=$$($(PYTHON) -c 'import fcntl, itertools, pathlib; run = pathlib.Path("var/run"); \
		[fcntl.flock(p.open("a"), fcntl.LOCK_EX | fcntl.LOCK_NB) for p in itertools.chain(run.glob("lock"), run.glob("at-*/lock"))]' 2>&1) \
		|| { case "$$error" in *BlockingIOError*) error="make run is running: stop it first";; esac; echo "$$error" >&2; exit 1; }
	rm -rf var/run .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

distclean: clean ## The same, and the virtual environment and Kafka's jars.
	rm -rf $(VENV) var *.egg-info

# After an upgrade of the system the same link leads to a newer Python, which finds no packages here; its file may be older
# than the stamps. Of python3.11-dbg, too, the packages are in the folder of python3.11.
INSIDE := $(firstword $(subst -, ,$(filter python3.%,$(notdir $(realpath $(BIN)/python)))))
ifneq ($(INSIDE),)
ifeq ($(wildcard $(VENV)/lib/$(INSIDE)),)
.PHONY: $(BIN)/python
endif
endif

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; name it by PYTHON=..., e.g. make run PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "Python's venv is missing: install it, e.g. apt-get install python3-venv" >&2; exit 1; }
	@[ -e $(VENV)/pyvenv.cfg ] || [ -z "$$(ls -A $(VENV) 2>/dev/null)" ] \
		|| { echo "$(VENV) is no virtual environment, and not empty: name another folder by VENV=..." >&2; exit 1; }
	@echo "making the virtual environment $(VENV) ..."
	@$(PYTHON) -m venv --clear $(VENV)

# The environment is no order-only prerequisite: one that was made anew, as after the system's Python was replaced, is empty.
$(RUNTIME): requirements.lock requirements-build.lock pyproject.toml $(BIN)/python
	@echo "installing the dependencies ..."
	@$(PIP) install --require-hashes -r requirements.lock -r requirements-build.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(TOOLS): requirements-dev.lock $(RUNTIME)
	@echo "installing the tools ..."
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@touch $@

$(QUIX): requirements-bench.lock | $(BIN)/python
	@echo "installing Quix Streams, which make bench compares with ..."
	@$(PYTHON) -m venv var/bench/venv
	@var/bench/venv/bin/python -m pip --disable-pip-version-check --no-input --quiet install --require-hashes \
		-r requirements-bench.lock
	@touch $@

var/kafka/%/complete: deploy/kafka/pom.xml | $(RUNTIME)
	@$(BIN)/python -m deploy.local.jars --kafka $*
	@touch $@
