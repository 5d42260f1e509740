# Every target makes .venv itself, with the standard library's venv and pip. constraints.txt names all that goes in, so
# packages are unpacked while the engine compiles; pip brings CMake and Ninja where the machine has none.

PYTHON ?= python3
BIN := .venv/bin
# Two workers with one thread each: torch's own threads would only get in each other's way.
TEST_FLAGS ?= -n 2
PIP_INSTALL = PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
  $(BIN)/python -m pip install --quiet --no-deps --no-compile --disable-pip-version-check
SHELL := /bin/bash
# Packages are compiled as they are first imported, not all of them at set-up.
unexport PYTHONDONTWRITEBYTECODE
ENGINE := CMakeLists.txt $(shell find src/thalweg/engine/csrc -name '*.[ch]pp')

.PHONY: setup demo test check format bench precision sanitize clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt $(ENGINE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Thalweg needs Python 3.11 or later; say which one by PYTHON=python3.11" >&2; exit 1; }
	@echo "Setting up .venv (about two minutes) ..."
	@$(PYTHON) -m venv .venv
	@$(PIP_INSTALL) --requirement constraints.txt & \
	  $(PIP_INSTALL) --editable . && wait $$!
	@unmet=$$($(BIN)/python -m pip --disable-pip-version-check check) || { echo "$$unmet" >&2; exit 1; }
	@touch $@

demo: setup  ## train on digits, compare, draw, and print where everything is
	@$(BIN)/python benchmarks/demo.py

test: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -q $(TEST_FLAGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup  ## beside the peers, in an environment of their own
	$(BIN)/python benchmarks/run.py $(ARGS)

precision: setup  ## error against cost beside SciPy, torchdiffeq and diffrax, half an hour; ARGS="A3 B1" for some problems
	$(BIN)/python benchmarks/run.py precision $(ARGS)

sanitize:  ## the engine's C++ under AddressSanitizer and UndefinedBehaviorSanitizer, then ThreadSanitizer; needs CMake
	@for kind in address thread; do \
	  cmake -S . -B build/$$kind -DTHALWEG_SANITIZE=$$kind > /dev/null && cmake --build build/$$kind --parallel && \
	  for test in src/thalweg/engine/csrc/tests/*.cpp; do build/$$kind/$$(basename $$test .cpp) || exit 1; done || exit 1; \
	done

clean:
	rm -rf .venv .venv-peers build src/thalweg/core/*.so .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
