# The commands of this repository; `make` alone explains them.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
PEERS := .venv-peers
BIN := $(VENV)/bin
UV := $(BIN)/uv
export UV_PROJECT_ENVIRONMENT := $(VENV)
export UV_LINK_MODE := copy
export UV_PYTHON_DOWNLOADS := never
export UV_SYSTEM_CERTS := 1
# Where it is set, each of the hundreds of processes that a run starts compiles all that it imports, and the tests take a minute longer.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: audit help dashboard demo demo-auction demo-bots demo-import demo-triggers test test-rabbitmq4 check gate-busy proof coverage fuzz bench bench-import bench-quick peers docs setup power power-stack sick storm tools clean
.DEFAULT_GOAL := help

# Install those of Debian's packages $(1) that are missing, when root; no server is started as a service, none gets data of the system's.
define debian
{ missing=""; \
for package in $(1); do \
  case $$package in \
    prometheus) command -v promtool ;; \
    php-cli) command -v php ;; \
    php-amqplib) ls /usr/share/php/PhpAmqpLib/autoload.php ;; \
    amqp-tools) command -v amqp-publish ;; \
    rabbitmq-server) ls /usr/lib/rabbitmq/bin/rabbitmq-server ;; \
    postgresql) ls /usr/lib/postgresql/*/bin/postgres ;; \
    *) command -v $$package ;; \
  esac >/dev/null 2>&1 || missing="$$missing $$package"; \
done; \
if [ -z "$$missing" ]; then :; \
elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
  echo "installing$$missing" >&2; \
  made=""; trap 'rm -f $$made' EXIT; \
  [ -e /usr/sbin/policy-rc.d ] || { made=/usr/sbin/policy-rc.d; printf '#!/bin/sh\nexit 101\n' >$$made; chmod +x $$made; }; \
  case $$missing in *postgresql*) \
    clusters=/etc/postgresql-common/createcluster.d; mkdir -p $$clusters; made="$$made $$clusters/chappe.conf"; \
    echo "create_main_cluster = false" >$$clusters/chappe.conf ;; \
  esac; \
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
else \
  echo "Debian's$$missing is missing and this is not root: install it; what needs it fails or is skipped without" >&2; \
fi; }
endef

help: ## Explain these commands
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 16

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Chappe needs Python 3.11 or newer; set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check 'uv>=0.13'

PAGES := src/chappe/web/dashboard/index.html
NODE := $(shell command -v npm)
CLIENT := $(shell find dashboard -path '*/node_modules' -prune -o -type f -print)

dashboard/node_modules/.installed: dashboard/package-lock.json
	@cd dashboard && npm ci --silent --no-audit --no-fund && touch node_modules/.installed

$(PAGES): $(CLIENT) dashboard/node_modules/.installed
	@cd dashboard && npm run --silent build -- --logLevel warn

dashboard: ## Build the pages of the dashboard, which needs Node 20 or newer
	@$(if $(NODE),$(AGAIN) --silent $(PAGES) || echo "the pages of the dashboard could not be built: Chappe runs without them" >&2,echo "Node is not here: Chappe runs without the pages of its dashboard" >&2)

$(VENV)/.demo: $(UV) pyproject.toml uv.lock
	$(UV) sync --quiet --frozen --no-default-groups --all-extras --inexact
	@touch $@

$(VENV)/.tests: $(UV) pyproject.toml uv.lock
	$(UV) sync --quiet --frozen --all-extras --inexact
	@touch $@

setup: $(VENV)/.tests dashboard ## Make the environment for working on Chappe in .venv

BROKER := file
demo: $(VENV)/.demo dashboard $(if $(filter postgres rabbitmq,$(BROKER)),tools) ## Replay real bookings through the channel manager for 30 s (BROKER=postgres, BROKER=rabbitmq, ARGS=--keep leaves it running)
	@PYTHONPATH=examples $(BIN)/python -m channel_manager.demo --broker $(BROKER) $(ARGS)

demo-triggers: $(VENV)/.demo dashboard $(if $(filter postgres,$(BROKER)),tools) ## Sweep 61 triggers of a Django project between real feeds and four services (BROKER=postgres, ARGS=--keep leaves it running with its admin)
	@PYTHONPATH=examples $(BIN)/python -m triggers.demo --broker $(BROKER) $(ARGS)

demo-import: $(VENV)/.demo dashboard $(if $(filter postgres rabbitmq,$(BROKER)),tools) ## Import several hundred real links into read later, from a web that misbehaves, in about a minute (BROKER=postgres, BROKER=rabbitmq, ARGS=--keep leaves it running)
	@PYTHONPATH=examples $(BIN)/python -m read_later.demo --broker $(BROKER) $(ARGS)

demo-auction: $(VENV)/.demo dashboard ## Show real bids arriving in browsers by push, for a minute (ARGS="--keep --seconds 300 --auctions 309")
	@PYTHONPATH=examples $(BIN)/python -m auctions.demo $(ARGS)

demo-bots: $(VENV)/.demo dashboard ## Have five bots and a person talk, one of which is away for a while and catches up
	@PYTHONPATH=examples $(BIN)/python -m bots.demo $(ARGS)

# The gate: one run of pytest, five workers on two cores, for many tests wait for processes and servers; see design §15 for what belongs to it and what to the proof.
test: $(VENV)/.tests tools dashboard ## Run the tests of the gate, on every engine, with a few real processes (ARGS="-k name")
	@$(BIN)/python -m compileall -q src examples
	$(if $(TYPES_BESIDE),$(BIN)/basedpyright >$(VENV)/types.log 2>&1 & types=$$!; )$(BIN)/python -m pytest -n 5 --dist worksteal $(ARGS); result=$$?; \
	$(if $(TYPES_BESIDE),wait $$types || result=1; cat $(VENV)/types.log; )exit $$result

# Where both are asked for, types are checked while the tests run.
TYPES_BESIDE := $(and $(filter check,$(MAKECMDGOALS)),$(filter test,$(MAKECMDGOALS)))

gate-busy: $(VENV)/.tests tools ## Run `make check test` beside two processes that burn CPU and one that writes to the disk (TIMES=3)
	@$(BIN)/python -m tests.busy --times $(or $(TIMES),1) -- $(AGAIN) check test

# Not in a recipe itself: `make -n` would run that one.
AGAIN = $(MAKE) --no-print-directory

# Each part runs though one before it failed: what fails is known after one run.
proof: $(VENV)/.tests tools ## Ask how far it goes: storms, power cuts, sick disks, broken servers, teeth, fuzz, volumes, about an hour
	trap 'exit 130' INT; failed=""; \
	$(AGAIN) coverage || failed="$$failed coverage"; \
	$(BIN)/python -m pytest -m proof --timeout 900 --durations=20 --durations-min=10 $(ARGS) || failed="$$failed tests"; \
	$(AGAIN) power ARGS="--points 2000" || failed="$$failed power"; \
	$(AGAIN) sick CASES=2000 CALLS=100 || failed="$$failed sick"; \
	$(AGAIN) fuzz ARGS="--executions 200000" || failed="$$failed fuzz"; \
	$(BIN)/python -m tests.faults.deploys || failed="$$failed deploys"; \
	$(BIN)/python -m tests.faults.poison || failed="$$failed poison"; \
	$(AGAIN) audit || failed="$$failed audit"; \
	[ -z "$$failed" ] || { echo "failed:$$failed" >&2; exit 1; }

audit: $(UV) ## Look the locked dependencies up among the known vulnerabilities; where that cannot be reached, it says so and fails
	$(UV) audit --frozen

RABBITMQ4 := $(HOME)/.cache/chappe/rabbitmq4
AS_ROOT = [ "$$(id -u)" = 0 ] || { echo "only root can make and use the root folder of another Debian: run this as root" >&2; exit 1; }

# It is made beside its place and moved when complete: nothing half made is ever used. What debootstrap mounts in it ends with debootstrap.
$(RABBITMQ4):
	@$(AS_ROOT)
	@$(call debian,debootstrap)
	@mkdir -p $(@D); exec 9>$@.lock; flock 9; [ ! -e $@ ] || exit 0; rm -rf --one-file-system $@.half; \
	echo "making $@ (300 MB, a minute or two; $@.log tells how far it is)" >&2; \
	unshare --mount --propagation private debootstrap --variant=minbase --include=rabbitmq-server trixie $@.half \
	  $$(apt-get indextargets --format '$$(REPO_URI)' 'Created-By: Packages' | grep -m 1 '/debian/*$$') >$@.log 2>&1 9>&- \
	  || { tail -n 5 $@.log >&2; exit 1; }; \
	rm -f $@.half/var/cache/apt/archives/*.deb; mv -T $@.half $@

test-rabbitmq4: $(VENV)/.tests tools $(RABBITMQ4) ## Run the tests of RabbitMQ with the 4.0 of Debian 13, which is kept in RABBITMQ4=~/.cache/chappe/rabbitmq4
	@$(AS_ROOT)
	CHAPPE_TEST_RABBITMQ_ROOT=$(RABBITMQ4) $(BIN)/python -m pytest -m "" -n 2 --dist worksteal tests/contract -k distributed $(ARGS)
	CHAPPE_TEST_RABBITMQ_ROOT=$(RABBITMQ4) CHAPPE_TEST_PARTITIONS=1 $(BIN)/python -m pytest -m "" tests/servers/test_rabbitmq.py tests/servers/test_cluster.py \
	  tests/engines/rabbitmq tests/processes/test_rabbitmq.py $(ARGS)

check: $(VENV)/.tests ## Format, lint, types, import layers: what must be clean at every commit
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(if $(TYPES_BESIDE),,$(BIN)/basedpyright)
	$(BIN)/lint-imports
	$(if $(NODE),@if $(AGAIN) --silent dashboard/node_modules/.installed; then cd dashboard && npm run --silent check; \
	  else echo "what the client of the dashboard needs cannot be installed: it is not checked" >&2; fi,@echo "Node is not here: the client of the dashboard is not checked" >&2)

# What starts processes or servers covers nothing in its own process.
OUTSIDE := $(addprefix tests/,processes benchmarks faults servers examples cli foreign test_docs.py)

coverage: $(VENV)/.tests # Measure what the tests inside one process cover; below 80 % is an error
	@rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest -q -n 2 --dist worksteal tests $(addprefix --ignore=,$(OUTSIDE)) -k "not (socket or schemathesis or model or distributed)"
	@$(BIN)/coverage combine -q
	@$(BIN)/coverage report --fail-under=80 >.covered.txt || { cat .covered.txt; exit 1; }
	@tail -3 .covered.txt

fuzz: $(VENV)/.tests ## Give a million random inputs to everything that decodes (ARGS="--executions 10000000 --seed 1 --target HTTP")
	$(BIN)/python -m tests.faults.fuzzing $(ARGS)

$(PEERS)/.installed: benchmarks/peers/requirements.txt | $(UV)
	@$(UV) venv --quiet --allow-existing --python $(BIN)/python $(PEERS) && $(UV) pip install --quiet --python $(PEERS) -r $< && touch $@ || \
	  echo "the peers cannot be installed here: the bench says so and goes on" >&2

peers: $(PEERS)/.installed # What the bench compares Chappe with
	@$(call debian,rabbitmq-server) || echo "their server cannot be installed here: the bench says so and goes on" >&2

bench: $(VENV)/.tests peers $(if $(filter postgres rabbitmq,$(BROKER)),tools) ## Measure Chappe and its peers in turns, print a table, write benchmarks/*.json (BROKER=postgres, BROKER=rabbitmq ARGS="--runs 1 drain")
	@$(BIN)/python -m benchmarks --broker $(BROKER) $(ARGS)

bench-import: $(VENV)/.tests ## Import 160,000 links of 20 users into read later and kill workers meanwhile (ARGS="--links 20000 --extract")
	@PYTHONPATH=examples $(BIN)/python -m benchmarks.imports $(ARGS)

bench-quick: $(VENV)/.tests ## Measure Chappe alone, in small sizes, within a minute or so
	@$(BIN)/python -m benchmarks --scale quick --runs 1 --systems chappe --output benchmarks/out/quick.json $(ARGS)

power: $(VENV)/.tests ## Cut the power at 10,000 places of the engine's work, keep the result in evidence/ (ARGS="--points 20000 --seed 7")
	@$(BIN)/python -m tests.faults.power $(ARGS)

power-stack: $(VENV)/.tests ## Rebuild the disk of a real host at each of its system calls, which needs strace (ARGS="--publishes 2000")
	@$(BIN)/python -m tests.faults.power.stack $(ARGS)

storm: $(VENV)/.tests $(if $(filter rabbitmq,$(BROKER)),tools) ## Kill and freeze everything at random for half an hour, keep the result in evidence/ (BROKER=postgres|rabbitmq ARGS="--seed 7")
	$(BIN)/python -m tests.faults.$(if $(filter postgres rabbitmq,$(BROKER)),rounds,storm) $(if $(filter postgres,$(BROKER)),--alone) $(ARGS)

sick: $(VENV)/.tests tools ## Damage 10,000 files at random and fail 600 calls to the disk, keep the result in evidence/ (CASES=500 CALLS=50 SEED=7)
	@$(BIN)/python -m tests.faults.sick --cases $(or $(CASES),10000) --seed $(or $(SEED),1)
	@$(BIN)/python -m tests.faults.disks --cases $(or $(CALLS),600) --seed $(or $(SEED),1)

docs: $(UV) pyproject.toml uv.lock ## Build the documentation into docs/_build
	$(UV) sync --quiet --frozen --all-extras --group docs --inexact
	$(BIN)/sphinx-build -W -q -b html docs docs/_build

tools: ## Install what the tests need from Debian, when missing and root
	@$(call debian,chromium prometheus faketime strace rabbitmq-server postgresql php-cli php-amqplib amqp-tools ngircd)

clean: ## Remove what was built
	rm -rf $(VENV) $(PEERS) build dist docs/_build .pytest_cache .ruff_cache .hypothesis
