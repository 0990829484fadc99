# The only entry point anyone has to know: `make help`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

UV_VERSION := 0.13.9
UV := $(abspath .uv)/bin/uv
PY := .venv/bin/python
EMULATOR := $(abspath build)/ministack/bin/ministack
export TELEMILL_EMULATOR := $(EMULATOR)
# The operating system's certificates, as pip uses them: uv's own set does not know a company's proxy.
export UV_SYSTEM_CERTS := 1
# Six processes start at once in the demo: compile once, here.
export UV_COMPILE_BYTECODE := 1
# The CDK runs on the oldest Node.js that can; it would say so at every start.
export JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION := 1
export JSII_SILENCE_WARNING_DEPRECATED_NODE_VERSION := 1

.PHONY: help setup setup-fault setup-deploy demo test fault soak kcl-jars kcl-test infra infra-check k8s-check images images-kcl up down compose-test lint fmt bench anomaly-bench forecast-bench clean

# Of the soak. SEED replays a soak or the crash matrix.
MINUTES ?= 5
SEED ?=

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  DEMO_SECONDS=60 make demo   how long the demo runs; DEMO_KEEP=1 leaves it running"
	@echo "  make soak MINUTES=5 SEED=1  how long, and which kills and faults"

setup: build/.setup ## install everything into .venv and build/ (no root, no global installs)

$(UV):
	@echo "installing uv $(UV_VERSION) into .uv/"
	@python3 -m venv .uv 2>/dev/null || python3 -m venv --without-pip .uv
	@if [ -x .uv/bin/pip ]; then .uv/bin/pip install -q "uv==$(UV_VERSION)"; \
	 else python3 -m pip install -q --prefix .uv --ignore-installed "uv==$(UV_VERSION)"; fi
	@test -x $(UV) || { echo "could not install uv: python3 needs pip or venv (Debian: apt install python3-venv)" >&2; exit 1; }

build/.setup: $(UV) uv.lock tools/ministack/uv.lock pyproject.toml $(wildcard */pyproject.toml services/*/pyproject.toml)
	@mkdir -p build
	@echo "installing the workspace into .venv/"
	@$(UV) sync --frozen --all-packages --all-groups -q
	@echo "installing the AWS emulator into build/ministack/ (an environment of its own)"
	@UV_PROJECT_ENVIRONMENT=$(abspath build/ministack) $(UV) sync --frozen -q --directory tools/ministack
	@touch $@

setup-fault: build/.setup-fault ## also install the emulator that reshards (needs Node.js and npm)

build/.setup-fault: build/.setup $(wildcard tools/kinesis-local/*)
	@command -v npm >/dev/null || { echo "the fault tests need Node.js 18 or newer with npm (Debian: apt install nodejs npm)" >&2; exit 1; }
	@echo "installing the Kinesis emulator that reshards into build/kinesis-local/"
	@mkdir -p build/kinesis-local && cp tools/kinesis-local/* build/kinesis-local/
	@npm ci --prefix build/kinesis-local --no-audit --no-fund --ignore-scripts --loglevel=error
	@touch $@

setup-deploy: build/.setup-deploy ## also install the CDK and the checkers of templates and manifests (needs Node.js)

build/.setup-deploy: build/.setup infra/uv.lock tools/checks/uv.lock
	@command -v node >/dev/null || { echo "the CDK needs Node.js 20 or newer (Debian: apt install nodejs)" >&2; exit 1; }
	@echo "installing the CDK into build/infra/ and the checkers into build/checks/"
	@UV_PROJECT_ENVIRONMENT=$(abspath build/infra) $(UV) sync --frozen -q --directory infra
	@UV_PROJECT_ENVIRONMENT=$(abspath build/checks) $(UV) sync --frozen -q --directory tools/checks
	@touch $@

demo: build/.setup ## run the whole path on this machine, audit it, write build/demo/report.html
	@$(PY) -m demo

test: build/.setup ## unit, property, model, contract and integration tests
	@$(PY) -m pytest

fault: build/.setup-fault ## the delivery promise under crashes, zombies, reshards, outages and poison
	@$(PY) -m fault matrix $(if $(SEED),--seed $(SEED))
	@$(PY) -m pytest tests/fault --ignore tests/fault/test_crash_matrix.py

soak: build/.setup-fault ## kill random services under load and faults for MINUTES, then audit
	@$(PY) -m fault soak --minutes $(MINUTES) --seed $(or $(SEED),$(shell date +%s))

kcl-jars: build/.setup ## fetch the KCL's jars into build/kcl/, checked against the lock (needs Maven Central)
	@$(PY) -m telemill.kcl.jars --directory build/kcl

kcl-test: kcl-jars build/.setup-fault build/.setup-kclpy ## the KCL coordinator on the real MultiLangDaemon (needs Java, Node.js)
	@command -v java >/dev/null || { echo "the KCL's tests need Java 8 or newer (Debian: apt install openjdk-17-jre-headless)" >&2; exit 1; }
	@$(PY) -m telemill.kcl.jars --directory build/kcl --set kcl3
	@$(PY) -m pytest tests/kcl

build/.setup-kclpy: build/.setup tools/kclpy/requirements.txt
	@echo "fetching the KCL's own sample processor into build/kclpy/"
	@mkdir -p build/kclpy
	@if [ -x .uv/bin/pip ]; then pip=.uv/bin/pip; else pip="python3 -m pip"; fi; \
	 $$pip download -q --no-deps --no-binary :all: --require-hashes -d build/kclpy -r tools/kclpy/requirements.txt
	@tar xzf build/kclpy/amazon_kclpy-*.tar.gz -C build/kclpy
	@touch $@

infra: build/.setup-deploy ## synthesise infra/templates/ from infra/, and the permissions of docs/security.md from them
	@build/infra/bin/python infra/app.py
	@$(PY) infra/permissions.py docs/security.md

infra-check: build/.setup-deploy ## templates fresh, cdk-nag, cfn-lint and checkov clean, and equal to the code
	@$(PY) -m pytest tests/infra tests/deploy
	@build/checks/bin/cfn-lint infra/templates/*.json && echo "cfn-lint: clean"
	@build/checks/bin/checkov --directory infra/templates --framework cloudformation --skip-download --quiet --compact

K8S_OVERLAYS := local eks eks-traced
K8S_VERSIONS := 1.34 1.37
KUSTOMIZE_VERSION := v5.5.0

k8s-check: build/.setup-deploy build/.setup-kustomize ## manifests built, valid for two Kubernetes versions, checkov clean, equal to the code
	@$(PY) -m pytest tests/k8s
	@mkdir -p build/k8s
	@for overlay in $(K8S_OVERLAYS); do \
	  if [ -x build/bin/kustomize ]; then build/bin/kustomize build k8s/overlays/$$overlay; \
	  else kubectl kustomize k8s/overlays/$$overlay; fi > build/k8s/$$overlay.yaml; \
	done
	@for version in $(K8S_VERSIONS); do \
	  build/checks/bin/kubernetes-validate --strict --quiet --no-warn -k $$version $(K8S_OVERLAYS:%=build/k8s/%.yaml) || exit 1; \
	  echo "kubernetes-validate $$version: valid"; \
	done
	@build/checks/bin/checkov --directory build/k8s --framework kubernetes --skip-download --quiet --compact

build/.setup-kustomize:
	@mkdir -p build
	@command -v kubectl >/dev/null || command -v go >/dev/null || { echo "the manifests need kubectl, or Go to build kustomize" >&2; exit 1; }
	@command -v kubectl >/dev/null || GOBIN=$(abspath build/bin) go install sigs.k8s.io/kustomize/kustomize/v5@$(KUSTOMIZE_VERSION)
	@touch $@

# Docker with Compose v2: `docker compose`, or COMPOSE=docker-compose.
COMPOSE ?= docker compose
IMAGES := ingest transform sink anomaly
REVISION := $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
DOCKER_BUILD := DOCKER_BUILDKIT=1 docker build $(DOCKER_BUILD_FLAGS) --build-arg REVISION=$(REVISION)

images: ## build the images telemill/…:local
	@for service in $(IMAGES); do \
	  $(DOCKER_BUILD) --build-arg SERVICE=$$service -t telemill/$$service:local . || exit 1; \
	done
	@$(DOCKER_BUILD) --build-arg SERVICE=simulator --build-arg HEALTH_PORT=9872 -t telemill/simulator:local .
	@$(DOCKER_BUILD) --target emulator -t telemill/emulator:local .

KCL_IMAGES ?= transform sink anomaly
images-kcl: ## build the images with Java and Amazon's KCL, telemill/…:kcl (needs Maven Central)
	@for service in $(KCL_IMAGES); do \
	  $(DOCKER_BUILD) --target kcl --build-arg SERVICE=$$service -t telemill/$$service:kcl . || exit 1; \
	done

# PROFILE=faults puts the fault proxy before AWS; PROFILE=kcl shares the shards among two transforms.
PROFILE ?=
UP := TELEMILL_AWS=$(if $(filter faults,$(PROFILE)),http://faults:4567) TRANSFORMS=$(if $(filter kcl,$(PROFILE)),0,1) \
  $(COMPOSE) $(addprefix --profile ,$(PROFILE))

up: images $(if $(filter kcl,$(PROFILE)),images-kcl) ## everything in containers: http://127.0.0.1:8080 takes pushes, :9090 is Prometheus
	@$(UP) up --detach --wait --wait-timeout 900

down: ## stop and remove the containers
	@$(COMPOSE) --profile faults --profile kcl down --volumes --timeout 90

compose-test: KCL_IMAGES := transform
compose-test: build/.setup images images-kcl ## containers up, audited, scaled, killed, audited again
	@COMPOSE="$(COMPOSE)" $(PY) -m pytest tests/container

lint: build/.setup ## format check, lint, types, import boundaries
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy --strict shared/src services/*/src simulator/src demo/src offline/src fault infra/app.py infra/permissions.py infra/resources
	@.venv/bin/lint-imports

fmt: build/.setup ## format and apply safe lint fixes
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

bench: build/.setup ## measure cores and the full path; writes bench/results/*.json
	@$(PY) -m bench

anomaly-bench: build/.setup ## score a synthetic fleet with faults, and folders in public layouts: NAB=dir SKAB=dir, MONTH=1
	@$(PY) -m bench.anomaly --fleet $(if $(NAB),--nab "$(NAB)") $(if $(SKAB),--skab "$(SKAB)") $(if $(MONTH),--month)

forecast-bench: build/.setup ## forecast the synthetic fleet, and folders in public layouts: NAB=dir SKAB=dir
	@$(PY) -m bench.anomaly.forecast_bench $(if $(NAB),--nab "$(NAB)") $(if $(SKAB),--skab "$(SKAB)")

clean: ## remove everything that was built or installed
	@rm -rf .venv .uv build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
