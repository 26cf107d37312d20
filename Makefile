# `make help` lists what there is. GNU make and python3 >= 3.11 are enough; everything else goes into $(VENV).
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test quick test-real bench format environment system-deps clean

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
# Where torch comes from. Empty: pip's own sources. Set by hand, or found by the rule for $(VENV)/.stamp-torch.
TORCH_INDEX ?= auto
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

# $(call next,COMMAND): end with the one line that says what to type now.
next = { echo; echo "make: that failed. Next: $(1)"; exit 1; } >&2

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-20s %s\n", $$1, $$2 }'

demo: $(VENV)/.stamp-package ## train a tiny model, kill it three times, compare the bytes (90 s)
	@$(BIN)/dbr demo || $(call next,read the lines above$(comma) then: make demo)

test: $(VENV)/.stamp-package ## format, lint, types, import layers and all tests (12 min)
	@$(BIN)/ruff format --check --quiet . || $(call next,make format)
	@$(BIN)/ruff check --quiet . || $(call next,make format$(comma) then mend what is left)
	@$(BIN)/mypy || $(call next,mend the types named above$(comma) then: $(BIN)/mypy)
	@$(BIN)/lint-imports --no-logo > $(VENV)/lint-imports.log 2>&1 \
		|| { cat $(VENV)/lint-imports.log; $(call next,move the import$(comma) see CONTRIBUTING.md$(comma) then: $(BIN)/lint-imports); }
	@$(BIN)/pytest -q -n 2 --dist worksteal || $(call next,$(BIN)/pytest --lf -n 0 -x)

quick: $(VENV)/.stamp-package ## the tests to run while editing (3 min)
	@$(BIN)/pytest -q -n 2 --dist worksteal -m quick || $(call next,$(BIN)/pytest --lf -n 0 -x)

test-real: $(VENV)/.stamp-package ## homes on Ceph's radosgw, over http and TLS; needs its packages (3 min, not in CI)
	@DBR_TEST_REAL=1 $(BIN)/pytest -q -n 0 tests/real || $(call next,DBR_TEST_REAL=1 $(BIN)/pytest --lf -n 0 -x tests/real)

bench: $(VENV)/.stamp-package ## speed against the plain Diffusers loop, and start-up times
	@$(BIN)/python tests/benchmarks/run.py || $(call next,make bench on a machine that does nothing else)

format: $(VENV)/.stamp-package ## rewrite the files the way `make test` wants them
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format --quiet .

environment: $(VENV)/.stamp-package ## the Python environment alone, in .venv

system-deps: ## Debian packages that the steps above need and this machine lacks (needs root)
	@bash .ci/system_deps.sh "$(PYTHON)" || $(call next,sudo make system-deps)

clean: ## remove the environment and caches; runs/ is yours and stays
	@rm -rf $(VENV) .boot build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

comma := ,

# One stamp a stage, inside the environment, so that removing .venv forgets them all.
$(VENV)/.stamp-python:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| $(call next,install Python 3.11 or newer$(comma) then: make PYTHON=python3.11 $(MAKECMDGOALS))
	@echo "Making the environment in $(VENV) (once)"
	@rm -rf $(VENV)
	@# Debian's python3 comes without ensurepip; virtualenv brings its own pip.
	@"$(PYTHON)" -m venv $(VENV) > /dev/null 2>&1 || { rm -rf $(VENV); \
		"$(PYTHON)" -m pip install -qq --target .boot virtualenv && PYTHONPATH=.boot "$(PYTHON)" -m virtualenv --quiet $(VENV); } \
		|| $(call next,sudo make system-deps$(comma) then: make $(MAKECMDGOALS))
	@touch $@

# torch goes in first and alone, so that nothing can pull another build of it. Without an NVIDIA driver, and unless pip
# was told where to look, it is PyTorch's own CPU wheel: 200 MB in place of 3 GB. --no-deps: its dependencies come with
# the package, from pip's own sources, at the versions of constraints.txt. Where that index isn't reached, pip's own
# sources are asked.
$(VENV)/.stamp-torch: $(VENV)/.stamp-python
	@index="$(TORCH_INDEX)"; \
	if [ "$$index" = auto ]; then \
		index=; \
		if [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi > /dev/null && [ -z "$$PIP_FIND_LINKS$$PIP_INDEX_URL$$PIP_EXTRA_INDEX_URL" ] \
			&& ! $(BIN)/pip config list | grep -qE '(index-url|find-links)='; then index=$(TORCH_CPU_INDEX); fi; \
	fi; \
	echo "Installing $(TORCH)$${index:+ from $$index} (once; some minutes)"; \
	if [ -n "$$index" ]; then \
		$(BIN)/pip install -qq -c constraints.txt --no-deps --index-url "$$index" $(TORCH) 2> $(VENV)/torch.log \
			|| { [ "$(TORCH_INDEX)" = auto ] && $(BIN)/pip install -qq -c constraints.txt $(TORCH); } \
			|| { cat $(VENV)/torch.log >&2; false; }; \
	else \
		$(BIN)/pip install -qq -c constraints.txt $(TORCH); \
	fi \
		|| $(call next,mend what pip says above (often the network)$(comma) then: make $(MAKECMDGOALS); or name a source: make TORCH_INDEX=URL $(MAKECMDGOALS))
	@touch $@

$(VENV)/.stamp-package: $(VENV)/.stamp-torch pyproject.toml constraints.txt
	@echo "Installing dbr and its dependencies (once)"
	@$(BIN)/pip install -qq -c constraints.txt -e '.[test]' || $(call next,mend what pip says above (often the network)$(comma) then: make $(MAKECMDGOALS))
	@touch $@
