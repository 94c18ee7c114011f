# The two commands: `make demo` and `make test`. Each installs its requirements first; Python 3.11+, make and pip suffice.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CONSTRAINTS := $(if $(CI),-c constraints.txt,)

RELIABILITY ?= tests/reliability

.PHONY: demo test check docs reliability mutants format clean

demo: $(VENV)/.demo
	$(BIN)/pipeline demo

# Progress in per cent; at the end the tests that were skipped, each with its reason.
test: $(VENV)/.test
	$(BIN)/python -m pytest -n auto -rs $(TESTS)

# For developers: format, lint, types, tests.
check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto -rs $(TESTS)

# The documentation as pages to read, from docs/ and the docstrings.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -q -W -n --keep-going docs docs/_build/html
	@echo docs/_build/html/index.html

# Every promise of tests/reliability/ at its full size; docs/reliability.md says what came of it. RELIABILITY=FILE runs a
# part of it and leaves the figures of the others as they were. `make mutants` after it adds its own.
reliability: $(VENV)/.fuzz
	$(if $(filter command line,$(origin RELIABILITY)),,rm -f docs/reliability.jsonl)
	$(BIN)/python -m pytest -q -n auto $(RELIABILITY) --trials full --results docs/reliability.jsonl; status=$$?; \
	$(BIN)/python tests/reliability/page.py docs/reliability.jsonl docs/reliability.md && exit $$status

# The suite is itself tested: each safeguard is taken away, and a test must fail.
mutants: $(VENV)/.test
	$(BIN)/python tests/reliability/mutants.py --results docs/reliability.jsonl; status=$$?; \
	$(BIN)/python tests/reliability/page.py docs/reliability.jsonl docs/reliability.md && exit $$status

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# A stamp a set of extras: made again when the requirements change.
$(VENV)/.demo $(VENV)/.test $(VENV)/.fuzz $(VENV)/.dev $(VENV)/.docs: $(VENV)/.%: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -q $(CONSTRAINTS) -e '.[$*]'
	touch $@

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

clean:
	find features_cache -mindepth 1 ! -name README.md -delete
	rm -rf $(VENV) docs/_build demo runs notebooks/features_cache
