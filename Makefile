# The commands people run are the ones that CI runs; `make help` lists them.
#
# Whatever is installed stays in this folder: environments in .venv*, and uv in .tools where PATH has none that will do.
# Needed beforehand: make, a Python 3.11 and a package index that pip can reach. No interpreter is ever downloaded.

.DEFAULT_GOAL := help

PYTHON ?= 3.11
PORT ?= 8000
WORKERS ?= 2
PYTHONS := 3.11 3.12 3.13

UV := $(shell uv cache dir >/dev/null 2>&1 && echo uv || echo .tools/bin/uv)
own_uv := $(filter .tools/bin/uv,$(UV))

# uv reads none of pip's settings: these two are handed on to it.
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
ifdef PIP_CERT
export SSL_CERT_FILE ?= $(PIP_CERT)
endif
export UV_PYTHON_DOWNLOADS := never

venv := $(if $(filter 3.11,$(PYTHON)),.venv,.venv-$(PYTHON))
python := $(venv)/bin/python

# Python 3.13 has no wheel that brings a redis-server: it borrows the one of 3.11.
ifeq ($(PYTHON),3.13)
borrowed := $(if $(REDIS_SERVER)$(shell command -v redis-server 2>/dev/null),,.venv/installed)
endif
ifneq ($(borrowed),)
export REDIS_SERVER := $(CURDIR)/.venv/bin/redis-server
endif

# $(call install,VERSION,GROUPS): a new environment beside the target, which marks it as complete.
define install
@version=$(strip $(1)); \
found=$$($(UV) python find --system --no-project "$$version" 2>/dev/null) || found=; \
for candidate in "$${PYENV_ROOT:-$$HOME/.pyenv}/versions/$$version".*/bin/python; do \
	if [ -z "$$found" ] && [ -x "$$candidate" ]; then found=$$candidate; fi; \
done; \
if [ -z "$$found" ]; then \
	echo "Python $$version was not found, neither on PATH nor under pyenv: install it, or choose one: make test PYTHON=3.12" >&2; \
	exit 1; \
fi; \
echo "Installing into $(@D) (Python $$version)"; \
$(UV) venv --quiet --clear --python "$$found" "$(@D)"
@$(UV) pip install --quiet --python "$(@D)/bin/python" --editable '.[msgspec]' $(2)
@touch $@
endef

.PHONY: help
help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
	@echo "PYTHON=3.12 chooses the interpreter (now $(PYTHON)), PORT=8080 the port of run, REDIS_URL its store, ARGS what bench and simulate are given, WORKERS=4 how many tests run at once."

.PHONY: run
run: $(venv)/installed ## Serve the example shop; in memory, or in Redis where REDIS_URL is set
	@echo "The shop, cached in $(if $(REDIS_URL),Redis,memory). Try:"
	@echo "  curl -i http://127.0.0.1:$(PORT)/               the addresses there are"
	@echo "  curl -i http://127.0.0.1:$(PORT)/items/1        an item, cached for a minute"
	@echo "  curl -i http://127.0.0.1:$(PORT)/report         a second the first time, then at once"
	@echo "  curl -i http://127.0.0.1:$(PORT)/me -H 'Authorization: Bearer ada-token'"
	@echo "  open    http://127.0.0.1:$(PORT)/docs"
	@$(python) -m uvicorn examples.shop:app --host 127.0.0.1 --port $(PORT)

.PHONY: test
test: check pytest ## Everything that CI runs: lint, format, types, tests with coverage

.PHONY: test-all
test-all: ## The same on Python 3.11, 3.12 and 3.13
	@for version in $(PYTHONS); do \
		echo "== Python $$version"; \
		$(MAKE) --no-print-directory test PYTHON=$$version || exit 1; \
	done

.PHONY: pytest
pytest: $(venv)/installed $(borrowed)
	$(python) -m pytest --numprocesses=$(WORKERS) --dist=worksteal --cov --ignore=tests/simulation
	@# Apart: measuring what it covers would double the time of its schedules, and the rest covers the same.
	$(python) -m pytest --numprocesses=$(WORKERS) --dist=worksteal tests/simulation

.PHONY: check
check: $(venv)/installed ## Lint, format and types, without changing a file
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy

.PHONY: format
format: $(venv)/installed ## Put imports and layout in order
	$(python) -m ruff check --fix .
	$(python) -m ruff format .

.PHONY: simulate
simulate: $(venv)/installed ## Run the engine under a million schedules; the tests run a hundred thousand
	$(python) -m tests.simulation --schedules 1000000 $(ARGS)

.PHONY: bench
bench: .venv-bench/installed ## Measure, beside other caching libraries
	.venv-bench/bin/python -m tests.benchmarks $(ARGS)

.PHONY: clean
clean: ## Remove what was installed, built and left behind
	rm -rf .venv .venv-* .tools build dist htmlcov .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -f .coverage .coverage.* uv.lock
	find fast_cache tests examples -name __pycache__ -type d -exec rm -rf {} +

.venv/installed: pyproject.toml | $(own_uv)
	$(call install,3.11,--group dev)

.venv-bench/installed: pyproject.toml | $(own_uv)
	$(call install,$(PYTHON),--group dev --group peers)

.venv-%/installed: pyproject.toml | $(own_uv)
	$(call install,$*,--group dev)

.tools/bin/uv:
	@echo "Installing uv into .tools"
	@python3.11 -m venv --clear .tools || python3 -m venv --clear .tools
	@.tools/bin/python -m pip install --quiet --quiet uv
