# `make run` and `make test` set up what they need in .venv, and only when it has changed.

PYTHON ?= python3
# Most tests wait most of the time: two lanes, see tests/conftest.py.
PYTEST_ARGS ?= -n 2 --durations=25
SECONDS ?= 600
# Of `make images`; a release names its base by digest.
BASE ?= debian:13-slim
TAG ?= $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
BIN := .venv/bin
# The environment is made anew when what it is made from changes, not when a checkout touches files.
KEY := $(shell cat pyproject.toml constraints.txt | sha256sum | cut -c1-16)
READY := .venv/.ready-$(KEY)

.PHONY: help run test lint format manifests bench soak failover-times compat e2e images lab lab-down deps clean

help:
	@echo 'make run             run examples/quickstart.yaml on this machine, until Ctrl-C'
	@echo 'make test            all tests; PYTEST_ARGS=... chooses some: make test PYTEST_ARGS="tests/unit -x"'
	@echo 'make lint            ruff, mypy --strict, import-linter'
	@echo 'make format          put the code into the form that lint wants'
	@echo 'make manifests       renew what is made from the models: crds, the chart, deploy, docs/manifest.md'
	@echo 'make bench           measure against stock Valkey (benchmarks/README.md)'
	@echo 'make soak            faults at random under load, for SECONDS=600'
	@echo 'make failover-times  how long writes pause, for each fault'
	@echo "make compat          all of Valkey's own tests on our engine"
	@echo 'make e2e             all tests on Kubernetes, the long ones too'
	@echo 'make images          the images memorycluster-engine and -operator, on BASE=$(BASE)'
	@echo 'make lab             a Kubernetes cluster (kind) with our images in it, to try things in'
	@echo 'make lab-down        remove it'
	@echo 'make deps            install the Debian packages that are needed (as root)'
	@echo 'make clean           remove what was made here; neither data nor the built engine'

run: $(READY)
	@$(BIN)/memorycluster run examples/quickstart.yaml

test: $(READY)
	@PYTHON=$(PYTHON) bash .ci/prerequisites test
	@$(BIN)/memorycluster build >/dev/null
	$(BIN)/pytest $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

manifests: $(READY)
	$(BIN)/python -m memorycluster.api.crd crds charts/memorycluster-operator/files/crds
	$(BIN)/python -m memorycluster.api.reference docs/manifest.md
	$(BIN)/python -m tests.operator.chart deploy/memorycluster-operator.yaml

bench: $(READY)
	$(BIN)/python -m benchmarks

soak: $(READY)
	$(BIN)/python -m tests.faults.soak $(SECONDS)

failover-times: $(READY)
	$(BIN)/python -m tests.faults.times

compat: $(READY)
	$(BIN)/python -m tests.compat.run

e2e: $(READY)
	@PYTHON=$(PYTHON) bash .ci/prerequisites test
	@$(BIN)/memorycluster build >/dev/null
	MEMORYCLUSTER_E2E=all $(BIN)/pytest tests/lab tests/e2e $(PYTEST_ARGS)

images: $(READY)
	@PYTHON=$(BIN)/python .ci/image-context
	docker build --build-arg BASE=$(BASE) -t memorycluster-engine:$(TAG) -f engine/Dockerfile .
	docker build --build-arg BASE=$(BASE) -t memorycluster-operator:$(TAG) -f operator/Dockerfile .

lab: $(READY)
	@PYTHON=$(PYTHON) bash .ci/prerequisites test
	@$(BIN)/python -m tests.lab up
	@$(BIN)/python -m tests.lab images

lab-down: $(READY)
	@$(BIN)/python -m tests.lab down

deps:
	@PYTHON=$(PYTHON) bash .ci/prerequisites test install

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@PYTHON=$(PYTHON) bash .ci/prerequisites run
	@echo 'setting up .venv ...'
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@rm -f .venv/.ready-*
	@touch $@
