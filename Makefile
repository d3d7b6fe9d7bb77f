# Every target makes its own virtual environment in .venv; nothing has to be installed by hand
# but Python 3.11-3.13 with its venv module, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: sweep test test-all test-slow lint bench system gl browser clean

sweep: $(VENV)/run.stamp
	$(BIN)/python -m runners.sweep --algos diffsr,qvpo

# Every part and every kind of fault once, in five minutes on two cores.
test: $(VENV)/test.stamp gl browser
	$(BIN)/python -m pytest -n auto --dist worksteal

# The rest: every method, task and fault in every combination, in about twenty minutes.
test-all: $(VENV)/test.stamp gl browser
	$(BIN)/python -m pytest -n auto --dist worksteal -m 'extended and not slow'

# Tests of minutes each: the random-policy table, the full kill matrix.
test-slow: $(VENV)/test.stamp gl
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/bench.stamp
	$(BIN)/python -m runners.bench.methods

# What pip does not bring: a GL library for tasks from pixels, a browser to test the HTML report in.
# Installed with apt if this is root, else named.
GL := libegl1 libopengl0 libgl1-mesa-dri
BROWSER := chromium chromium-driver
APT := apt-get install -y -qq --no-install-recommends
system:
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

clean:
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
