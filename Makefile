# On a machine with Python >= 3.11 and make; each command first installs what it needs, in .venv:
#   make demo    the main job on embedded data, with its table
#   make test    the test suite
#   make docs    the documentation site, in build/site; index.html opens from disk
#   make notebook    docs/walkthrough.md as a notebook, run, in build/walkthrough.ipynb
#   make demo-network    the same rounds between real processes, over Flower and TLS
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo demo-network test test-long test-network test-benchmarks lint docs notebook install clean

install: .venv/installed

.venv/installed: setup.cfg demos/setup.cfg benchmarks/setup.cfg constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]' -e ./demos -e ./benchmarks
	touch $@

demo: install
	$(BIN)/python -m demos train --data simulated --epsilon 3

demo-network: install
	$(BIN)/python -m demos network --banks 3 --rounds 3

# Each worker has one half of the tests in their order, and takes over from the other at the end: fixtures of a module
# are then made once.
test: install
	$(BIN)/python -m pytest -n 2 --dist worksteal

# Long tests that need the machine to themselves: see test-network and test-benchmarks.
NETWORK := $(wildcard tests/flower/test_network_*.py)
ALONE := $(NETWORK) tests/flower/test_large.py tests/benchmarks/test_command_line.py

test-long: install
	$(BIN)/python -m pytest -n 2 --dist loadfile -m long $(addprefix --ignore=,$(ALONE))

# Flower on real processes, with faults; they mostly wait, so two networks live side by side. Then twenty million values.
test-network: install
	$(BIN)/python -m pytest -n 2 --dist loadfile -m long -rP $(NETWORK)
	$(BIN)/python -m pytest -m long -rP tests/flower/test_large.py

# A planted slow-down on real measurements: a quiet machine.
test-benchmarks: install
	$(BIN)/python -m pytest -m long tests/benchmarks/test_command_line.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

notebook: install
	$(BIN)/python docs/notebook.py docs/walkthrough.md build/walkthrough.ipynb

clean:
	rm -rf .venv build *.egg-info demos/*.egg-info benchmarks/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
