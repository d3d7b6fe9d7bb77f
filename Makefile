# Every target makes its own virtual environment in .venv; nothing has to be installed by hand
# but Python 3.11-3.13 with its venv module, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: sweep test test-slow lint bench clean

sweep: $(VENV)/run.stamp
	$(BIN)/python -m runners.sweep --algos diffsr,qvpo

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest -n auto

test-slow: $(VENV)/test.stamp
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/bench.stamp
	$(BIN)/python -m runners.bench

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
