# Every command of the project. `make` alone lists them. All work happens in .venv, which is made on first use.

VENV := .venv
BIN := $(VENV)/bin
CODE := schemas busd clients tests
TYPED := schemas busd clients/busclient clients/buscli tests
PORTABLE := schemas/busproto clients/busclient clients/buscli busd/components

# The first Python that is new enough and can make a virtual environment. Override with: make PYTHON=/path/to/python run
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; \
	done)

SECONDS ?= 100
MINUTES ?= 30

.DEFAULT_GOAL := help
.PHONY: help run test check format bench bench-cache bench-deletion bench-hostile fuzz soak wheel man clean

help:  ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

run: $(VENV)/.installed-run  ## start a node with this machine's telemetry, show its traffic until Ctrl-C
	@$(BIN)/python -m busd.demo

test: $(VENV)/.installed-dev  ## run every test (several minutes): those that measure time alone, the others three at a time
	@$(BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder -m "not alone"
	@$(BIN)/python -m pytest -q -m alone

check: $(VENV)/.installed-dev  ## format, lint, types, layers, generated files
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy $(TYPED)
	$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/win32 $(PORTABLE)
	$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin $(PORTABLE)
	$(BIN)/python schemas/generate.py --check
	$(BIN)/python -m busd.components.model.schema --check
	$(BIN)/python -m pytest -q tests/test_layers.py tests/test_platforms.py

format: $(VENV)/.installed-dev  ## format the code and apply what ruff can repair by itself
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

bench: $(VENV)/.installed-dev  ## measure against nats-server in one run; prints ratios, writes bench-results/
	@$(BIN)/python tests/bench/run.py

bench-hostile: $(VENV)/.installed-dev  ## measure what others notice while one tenant attacks the broker (four minutes)
	@$(BIN)/python tests/bench/hostile.py

bench-cache: $(VENV)/.installed-dev  ## measure the cache: in process, against Redis, hit ratios, memory (ten minutes)
	@$(BIN)/python tests/bench/cache.py --json bench-results/cache.json

bench-deletion: $(VENV)/.installed-dev  ## measure deletion against rm -rf: files/s, memory, what a neighbour notices (15 minutes)
	@$(BIN)/python tests/bench/deletion.py --json bench-results/deletion.json
	@$(BIN)/python tests/bench/deletion.py --memory --json bench-results/deletion-memory.json
	@$(BIN)/python tests/bench/deletion.py --neighbour --json bench-results/deletion-neighbour.json

fuzz: $(VENV)/.installed-dev  ## fuzz every decoder for SECONDS each (default 100: about ten minutes), with a new seed
	@seed=$${SEED:-$$(date +%s)}; echo "seed $$seed; the same again: make fuzz SEED=$$seed"; \
	BUSD_FUZZ_SECONDS=$(SECONDS) BUSD_FUZZ_SEED=$$seed $(BIN)/python -m pytest -q -s -o faulthandler_timeout=0 tests/fuzz

soak: $(VENV)/.installed-dev  ## keep a node busy for MINUTES (default 30) and see that nothing grew or was left; SEED=N: as before
	@$(BIN)/python tests/soak/soak.py --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) --json bench-results/soak.json

wheel: $(VENV)/.installed-dev  ## build the wheel and the source archive into dist/
	@$(BIN)/python -m hatchling build

man: $(VENV)/.installed-dev  ## write the manual pages of bus and busd into build/man/
	@$(BIN)/bus man --dir build/man
	@$(BIN)/busd man --dir build/man

clean:  ## remove what make made, .venv included
	rm -rf $(VENV) build dist bench-results .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

# -- the virtual environment: stamps say what is installed, and pyproject.toml, or the version, when that is out of date 

$(VENV)/.made:
	@if [ -z "$(PYTHON)" ]; then \
		echo "busd needs Python 3.11 or newer with the venv module, and none of these is: python3, python3.11 to 3.14, python."; \
		python3 --version 2>&1 | sed 's/^/  python3 is: /'; \
		echo "  Debian, Ubuntu: apt install python3 python3-venv. Or name one: make PYTHON=/path/to/python3.11 run"; \
		exit 1; \
	fi >&2
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.installed-run: pyproject.toml busd/__init__.py | $(VENV)/.made
	@echo "installing busd into $(VENV)"
	@$(BIN)/python -m pip install --quiet --editable '.[node,cli]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml busd/__init__.py | $(VENV)/.made
	@echo "installing busd and its test tools into $(VENV)"
	@$(BIN)/python -m pip install --quiet --editable '.[node,cli]' --group dev
	@touch $@ $(VENV)/.installed-run
