# Two commands do everything on a machine with Python and make: `make demo` and `make test`.
PYTHON ?= python3
PY := .venv/bin/python
LEGACY := .venv-legacy/bin/python
INSTALL := .venv/bin/uv pip install --quiet --python

.PHONY: demo test unit legacy lint format types docs clean

demo: .venv/ready
	$(PY) -m pml_slade demo

test: lint types unit legacy

# One thread: the tests' models are tiny, and two threads would wait for each other.
unit: .venv/ready
	OMP_NUM_THREADS=1 $(PY) -m pytest

# The same tests under the PML that powerful-benchmarker pins.
legacy: .venv-legacy/ready
	OMP_NUM_THREADS=1 $(LEGACY) -m pytest

lint: .venv/ready
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: .venv/ready
	$(PY) -m mypy

format: .venv/ready
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: .venv/ready
	$(INSTALL) $(PY) -e '.[docs]'
	$(PY) -m mkdocs build --strict

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check uv
	$(INSTALL) $(PY) -e '.[dev]'
	touch $@

.venv-legacy/ready: .venv/ready
	.venv/bin/uv venv --quiet --allow-existing --python $(PY) .venv-legacy
	$(INSTALL) $(LEGACY) -e '.[dev]' 'pytorch-metric-learning==0.9.92'
	touch $@

clean:
	rm -rf .venv .venv-legacy site build *.egg-info
