# Every command of the project. `make` alone prints this list.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.PHONY: help setup check test-fast test test-gpu demo demo-down generate format locks native soak bench clean

help: ## What there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk 'BEGIN {FS = ":.*## "} {printf "  make %-12s %s\n", $$1, $$2}'

setup: $(STAMP) ## The Python environment in .venv, from the locks with hashes
$(STAMP): requirements/dev.txt pyproject.toml sdk/pyproject.toml
	@echo "Installing the locked packages into $(VENV) …"
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "KubeAIOS needs Python 3.11 or newer; python3 here is $$(python3 -V)."; exit 1; }
	@python3 -m venv $(VENV) || { echo "python3 -m venv failed: on Debian and Ubuntu, apt-get install python3-venv"; exit 1; }
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/dev.txt
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . -e sdk
	@touch $@

demo: setup ## A real Kubernetes on this machine, KubeAIOS in it, Agents that run
	@$(PY) -m aios_localcluster.demo

demo-down: setup ## Remove what the demo started
	@$(PY) -m aios_localcluster.demo --down

check: setup ## Lint, format, strict types, layers, generated files
	@$(PY) tests/run.py check

test-fast: setup ## Unit and property tests (seconds)
	@$(PY) tests/run.py --quick unit property

test: setup ## Check and every tier that this machine can run, with one summary
	@$(PY) tests/run.py check build unit property api node faults e2e gpu

test-gpu: setup ## What needs a real NVIDIA GPU and driver; skips with one line elsewhere
	@$(PY) tests/run.py gpu

soak: setup ## The long forms: new examples, windows of 10,000 logs, fuzzing (FUZZ_SECONDS=600 for each of four), faults, churn (MINUTES=30)
	@AIOS_SEARCH=1 $(PY) -m pytest tests/property --timeout=0
	@AIOS_WINDOWS=10000 $(PY) -m pytest tests/property/test_windows.py --timeout=0
	@AIOS_FUZZ_SECONDS=$(or $(FUZZ_SECONDS),600) $(PY) -m pytest tests/property/test_egress_fuzz.py tests/property/test_response_fuzz.py -s --timeout=0
	@$(VENV)/bin/aiosctl bench faults --size long --seed $$(date +%s)
	@$(VENV)/bin/aiosctl bench soak --agents 1000 --minutes $(or $(MINUTES),30) --seed $$(date +%s) --json bench/results/soak.json

bench: setup ## A bench on the running demo, kept in bench/results (NAME=start)
	@$(VENV)/bin/aiosctl bench $(or $(NAME),start) --json bench/results/$(or $(NAME),start).json

generate: setup ## Write the generated files anew: CRDs, reference, protocol modules
	@$(PY) tests/run.py generate

format: setup ## Format the code
	@$(VENV)/bin/ruff format . && $(VENV)/bin/ruff check --fix .

native: ## Build the OCI hook and the fake driver library
	@$(MAKE) --no-print-directory -C sidecar/native

LOCK = $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --upgrade
locks: setup ## Resolve the locks anew, with hashes
	@for extra in operator node cli; do $(LOCK) pyproject.toml --extra $$extra -o requirements/$$extra.txt; done
	@$(LOCK) pyproject.toml --extra gateway --extra embeddings -o requirements/gateway.txt
	@$(LOCK) pyproject.toml --all-extras --group dev -o requirements/dev.txt

clean: ## Remove what was built in the tree (the cache outside it stays)
	@rm -rf $(VENV) dist build sidecar/native/out
