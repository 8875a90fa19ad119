# Two commands do everything on a machine with Python and make: `make demo` and `make test`.
PYTHON ?= python3
PY := .venv/bin/python
BENCHMARK := .venv-benchmark/bin/python
INSTALL := .venv/bin/uv pip install --quiet --python
# Python starts many times here: it keeps what it compiles, whatever the environment says.
unexport PYTHONDONTWRITEBYTECODE
# A process per core and one thread each: the tests' models are tiny, and threads would wait for each other.
PYTEST = OMP_NUM_THREADS=1 $(1) -m pytest --numprocesses auto --dist worksteal

# Scripts that share what tests use.
FAULTS = PYTHONPATH=tests OMP_NUM_THREADS=1 $(PY) -m

.PHONY: demo test unit legacy benchmark-smoke upstream reliability stress lint format types docs clean

demo: .venv/ready
	$(PY) -m pml_slade demo

# mypy takes one core, and the tests begin on the other.
test: .venv/ready .venv-benchmark/ready
	$(MAKE) --jobs 2 lint types unit
	$(MAKE) legacy

unit: .venv/ready
	$(call PYTEST,$(PY))

# Under powerful-benchmarker and the PML that it pins: its own tests, and those that another PML can change.
legacy: .venv-benchmark/ready
	$(call PYTEST,$(BENCHMARK))

# SwAV, its fine-tuning, T2 and S2 on Glyphs under powerful-benchmarker, then their table.
benchmark-smoke: .venv-benchmark/ready
	$(BENCHMARK) benchmarks/reality_check.py glyphs t2 s2 --reproductions 0 --no-write

# The contribution to PML, made anew, laid over a copy of the installed PML and tested there.
upstream: .venv/ready
	$(PY) upstream/contribution.py --try

# Everything on the fault bench, tried anew, and docs/reliability.md from what came.
reliability: .venv/ready
	$(FAULTS) faults.reliability

# 100 kills at random moments, two runs at once, a thousand forgeries of a run's folder, 5,000 images with faults.
stress: .venv/ready
	$(FAULTS) faults.stress
	$(FAULTS) faults.fuzz
	$(FAULTS) faults.look

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
	$(INSTALL) $(PY) -e '.[dev,pretraining]'
	touch $@

.venv-benchmark/ready: .venv/ready
	.venv/bin/uv venv --quiet --allow-existing --python $(PY) .venv-benchmark
	$(INSTALL) $(BENCHMARK) -e '.[dev,benchmarker]'
	touch $@

clean:
	rm -rf .venv .venv-benchmark site build *.egg-info
