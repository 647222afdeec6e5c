# Two commands do all the set-up on a machine with Python >= 3.11 and make:
#   make demo    the main job on embedded data, with its table
#   make test    the test suite
#   make demo-network    the same rounds between real processes, over Flower and TLS
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo demo-network test test-long lint install clean

install: .venv/installed

.venv/installed: setup.cfg constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]'
	touch $@

demo: install
	$(BIN)/python -m demos train --data simulated --epsilon 3 --rounds 10

demo-network: install
	$(BIN)/python -m demos network --banks 3 --rounds 3

test: install
	$(BIN)/python -m pytest -n 2

test-long: install
	$(BIN)/python -m pytest -n 2 --dist loadfile -m long

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
