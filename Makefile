# Two commands do everything on a machine with Python and make: `make demo` and `make test`.
PYTHON ?= python3
PY := .venv/bin/python
# The lowest versions have no wheels for new Pythons.
LOWEST_PYTHON ?= 3.10
BENCHMARK := .venv-benchmark/bin/python
INSTALL := .venv/bin/uv pip install --quiet --python
# Python starts many times here: it keeps what it compiles, whatever the environment says.
unexport PYTHONDONTWRITEBYTECODE
# A process per core and one thread each: the tests' models are tiny, and threads would wait for each other.
PYTEST = $(IN_MEMORY) OMP_NUM_THREADS=1 $(1) -m pytest --numprocesses auto --dist worksteal
# Runs write each file safely, so that tests wait for the disk unless theirs lie in memory: where 8 GB are free.
IN_MEMORY := $(shell df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 && $$4 > 8e6 {print "TMPDIR=/dev/shm"}')

GPU_PYTHON ?= $(PY)
PHOTOS ?= photos
WEIGHTS ?= weights.safetensors

# Scripts that share what tests use.
FAULTS = PYTHONPATH=tests OMP_NUM_THREADS=1 $(PY) -m

.PHONY: demo test unit legacy gpu benchmark-smoke upstream reliability stress lowest pythons lint format types docs clean

demo: .venv/ready
	$(PY) -m pml_slade demo

# Today's tests, and beside them, one after the other, all else.
test: .venv/ready
	$(MAKE) --jobs 2 unit .venv-benchmark/ready lint types docs legacy

unit: .venv/ready
	$(call PYTEST,$(PY))

# Under powerful-benchmarker and the PML that it pins: its own tests, and those that another PML can change.
# In one process: most of another one's time would go into reading the tests.
legacy: .venv-benchmark/ready
	$(call PYTEST,$(BENCHMARK)) --numprocesses 0

# Where there is a GPU: the tests on it, how fast it is, eight minutes at most, into docs/performance.md, and
# photographs with all rows and pools into docs/results.md; repeat the command to resume.
# `make gpu GPU_PYTHON=python3 PHOTOS=FOLDER WEIGHTS=FILE`; FOLDER holds birds, flowers and cars.
gpu:
	$(GPU_PYTHON) -m pytest --quiet tests/test_cuda.py
	$(GPU_PYTHON) benchmarks/speed.py --device cuda --within 8
	$(GPU_PYTHON) benchmarks/photographs.py $(PHOTOS) --weights $(WEIGHTS) --device cuda --jobs 4 --runs runs/gpu
	$(GPU_PYTHON) benchmarks/photographs.py $(PHOTOS) --weights $(WEIGHTS) --device cuda --jobs 4 --runs runs/gpu \
		--pools open mixed --rows start teacher control slade

# SwAV, its fine-tuning, T2 and S2 on Glyphs under powerful-benchmarker, then their table.
benchmark-smoke: .venv-benchmark/ready
	$(BENCHMARK) benchmarks/reality_check.py glyphs t2 s2 --reproductions 0 --no-write

# The contribution to PML, made anew, laid over a copy of the installed PML and tested there.
upstream: .venv/ready
	$(PY) upstream/contribution.py --try

# Tries everything on the fault bench, and writes docs/reliability.md.
reliability: .venv/ready
	$(FAULTS) faults.reliability

# 100 kills at random moments, two runs at once, a thousand forgeries of a run's folder, 5,000 images with faults.
stress: .venv/ready
	$(FAULTS) faults.stress
	$(FAULTS) faults.fuzz
	$(FAULTS) faults.look

# The tests with the lowest versions that pyproject.toml allows, as uv resolves them.
lowest: .venv-lowest/ready
	$(call PYTEST,.venv-lowest/bin/python)

# The tests under other Pythons, which uv fetches where they are not installed; `make pythons PYTHONS=3.12`.
PYTHONS ?= 3.10 3.12 3.13
pythons: $(PYTHONS:%=.venv-%/ready)
	for version in $(PYTHONS); do $(call PYTEST,.venv-$$version/bin/python) || exit 1; done

lint: .venv/ready
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: .venv/ready
	$(PY) -m mypy

format: .venv/ready
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# Warnings, such as links that lead nowhere, are errors.
docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check uv
	$(INSTALL) $(PY) -e '.[dev,docs,onnx,pretraining]'
	touch $@

.venv-benchmark/ready: .venv/ready
	.venv/bin/uv venv --quiet --allow-existing --python $(PY) .venv-benchmark
	$(INSTALL) $(BENCHMARK) -e '.[dev,benchmarker]'
	touch $@

.venv-lowest/ready: .venv/ready
	.venv/bin/uv venv --quiet --allow-existing --python $(LOWEST_PYTHON) .venv-lowest
	$(INSTALL) .venv-lowest/bin/python --resolution lowest-direct -e '.[dev,pretraining]'
	touch $@

.venv-3.%/ready: .venv/ready
	.venv/bin/uv venv --quiet --allow-existing --python 3.$* .venv-3.$*
	$(INSTALL) .venv-3.$*/bin/python -e '.[dev,pretraining]'
	touch $@

clean:
	rm -rf .venv .venv-benchmark .venv-lowest .venv-3.* site build *.egg-info
