# Every target makes its own virtual environment in .venv; nothing has to be installed by hand
# but Python 3.11-3.13 with its venv module, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: sweep test test-all test-slow lint bench docs system gl browser clean help

sweep: $(VENV)/run.stamp ## Diff-SR and QVPO on three MuJoCo tasks, with the report
	$(BIN)/python -m runners.sweep --algos diffsr,qvpo

test: $(VENV)/test.stamp gl browser ## every part and every kind of fault once, in minutes
	$(BIN)/python -m pytest -n auto --dist worksteal

test-all: $(VENV)/test.stamp gl browser ## the rest: every method, task and fault in every combination
	$(BIN)/python -m pytest -n auto --dist worksteal -m 'extended and not slow'

test-slow: $(VENV)/test.stamp gl ## tests of minutes each
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/test.stamp ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/bench.stamp ## speed of every method, side by side
	$(BIN)/python -m runners.bench

docs: $(VENV)/docs.stamp ## these pages as a site, in the folder site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Site: site/index.html"

# Every target with a comment behind two hash signs.
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

# What pip does not bring: a GL library for tasks from pixels, a browser to test the HTML report in.
# Installed with apt if this is root, else named.
GL := libegl1 libopengl0 libgl1-mesa-dri
BROWSER := chromium chromium-driver
APT := apt-get install -y -qq --no-install-recommends
system: ## install what pip does not bring (as root), or name it
	@missing=; \
	ldconfig -p | grep -q libEGL.so.1 || missing="$(GL)"; \
	{ command -v chromium && command -v chromedriver; } >/dev/null || missing="$$missing $(BROWSER)"; \
	if [ -z "$$missing" ]; then echo "system packages: ready"; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive $(APT) $$missing >/dev/null; \
	else echo "as root: $(APT) $$missing"; fi

# Tasks from pixels need a GL library: this names the one that is missing.
gl: $(VENV)/run.stamp
	@$(BIN)/python -c "from envs.parts.pixels import gl_problem as p; print(p() or 'images: ready')"

# The HTML report is tested in Chromium; without it these tests are skipped and say so.
browser: $(VENV)/run.stamp
	@$(BIN)/python tests/helpers/browser.py

clean: ## remove the environment and all caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info

# A stamp stands for one set of installed packages; it is made again when the pins change.
$(VENV)/run.stamp: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable .
	touch $@

$(VENV)/test.stamp: $(VENV)/run.stamp
	$(INSTALL) --editable '.[test]'
	touch $@

$(VENV)/bench.stamp: $(VENV)/run.stamp
	$(INSTALL) --editable '.[bench]'
	touch $@

$(VENV)/docs.stamp: $(VENV)/run.stamp
	$(INSTALL) --editable '.[docs]'
	touch $@
