# The same commands for people and for CI. `make help` lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
# Installed before everything that depends on it; on a machine with a GPU: make TORCH=torch serve
TORCH ?= torch==2.13.0
HOST ?= 127.0.0.1
PORT ?= 8000
DEVICES ?= cpu
BIN := $(CURDIR)/.venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

SOURCES := $(shell find symphony csrc -name '*.pyx' -o -name '*.pxd' -o -name '*.h')
WEIGHTS := $(addprefix examples/models/,digits/model.safetensors digits_export/model.pt2 digits_png/model.pt2)
# Mostly waits for leases and links to end, or watches its process's memory: run beside the others, its output after theirs.
APART := tests/server/test_random_faults.py tests/cluster tests/coordination tests/links tests/net
TREE = $$(git ls-files --cached --others --exclude-standard) $(WEIGHTS)

.PHONY: help serve demo test test-fast lint format debug sanitize bench-smoke paper perf-analyzer kserve wheel clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

serve: .stamp/built $(WEIGHTS)  ## serve the example models on http://127.0.0.1:8000
	$(BIN)/symphony serve --repository examples/models --devices $(DEVICES) --host $(HOST) --port $(PORT)

demo: .stamp/built $(WEIGHTS)  ## start a node, send it real sentences and images, check every answer
	$(BIN)/python examples/demo.py

test: .stamp/built .stamp/etcd .stamp/prometheus .stamp/chromium $(WEIGHTS)  ## run every test
	mkdir -p build && $(BIN)/python -m pytest $(APART) > build/apart.log 2>&1 & apart=$$!; \
	$(BIN)/python -m pytest $(addprefix --ignore=,$(APART)) && rest=0 || rest=$$?; \
	wait $$apart && apart=0 || apart=$$?; cat build/apart.log; exit $$((rest | apart))

test-fast: .stamp/built $(WEIGHTS)  ## run the tests that need no sockets and no patience (under a minute)
	SYMPHONY_EXAMPLES=50 $(BIN)/python -m pytest -m "not sockets and not slow"

lint: .stamp/built  ## check style, types and C++ layout
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
	find csrc examples tests -name '*.h' -o -name '*.hpp' -o -name '*.cpp' | xargs $(BIN)/clang-format --dry-run -Werror

format: .stamp/built  ## rewrite the files in the style that lint asks for
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .
	find csrc examples tests -name '*.h' -o -name '*.hpp' -o -name '*.cpp' | xargs $(BIN)/clang-format -i

debug: .stamp/built $(WEIGHTS)  ## run the fast tests on a build with bounds checks and balance counters
	$(call in_tree,debug,,-m "not sockets and not slow")

sanitize: .stamp/built $(WEIGHTS)  ## run the tests of the core and the containers under AddressSanitizer and UBSan
	$(BIN)/python -m pytest tests/csrc
	$(call in_tree,sanitize,$(SANITIZER),tests/core)

bench-smoke: .stamp/built  ## run every benchmark for a moment, to see that it works
	$(BIN)/python -m pytest tests/test_bench.py

paper: .stamp/built  ## redo the paper's figures by simulation into bench/results/paper (an hour or so)
	$(BIN)/python bench/paper.py

perf-analyzer: .stamp/built  ## run Triton's perf_analyzer against a node (fetched into build/ once)
	$(BIN)/python bench/perf_analyzer.py

kserve: .stamp/built  ## run KServe's client against a node (installed into an environment of its own, 450 MB, once)
	test -x build/kserve/bin/python || { $(PYTHON) -m venv build/kserve && build/kserve/bin/pip install --quiet "kserve==0.21.0"; }
	$(BIN)/python -m pytest tests/foreign/test_kserve.py

wheel: .stamp/built  ## build the source archive and the wheel into dist/
	$(BIN)/python -m build --no-isolation --outdir dist .

clean:  ## remove what was built; the virtual environment stays
	rm -rf build dist .stamp .tools *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis $(WEIGHTS)
	find symphony -name '*.so' -delete

# Set-up, once: an environment, torch first, then the rest; again when pyproject.toml changes.
$(BIN)/python:
	$(PYTHON) -m venv .venv

.stamp/installed: pyproject.toml setup.py | $(BIN)/python
	$(PIP) "setuptools>=77" "cython>=3.1,<4" $(TORCH)
	$(PIP) --no-build-isolation -e ".[dev,demo,plan,plots,kubernetes]"
	mkdir -p .stamp && touch $@

.stamp/built: .stamp/installed $(SOURCES)
	$(BIN)/python setup.py --quiet build_ext --inplace --parallel 2
	touch $@

# A real etcd for the tests of coordination; without it they are skipped, and say why.
.stamp/etcd: tests/tools/fetch_etcd.sh
	tests/tools/fetch_etcd.sh .tools/etcd
	mkdir -p .stamp && { [ -e .tools/etcd/missing ] || touch $@; }

$(WEIGHTS) &: examples/train_digits.py examples/models/digits/model.py | .stamp/built
	$(BIN)/python examples/train_digits.py

# A real Prometheus and a real browser for the tests of what people see; without them those are skipped, and say why.
.stamp/prometheus .stamp/chromium: .stamp/%: tests/tools/fetch_%.sh
	$< .tools/$*
	mkdir -p .stamp && { [ -e .tools/$*/missing ] || touch $@; }

# A debug or sanitizer build lives in its own copy of the sources, so it never meets the release extensions.
in_tree = mkdir -p build/$(1) && tar -c --ignore-failed-read $(TREE) | tar -x -C build/$(1) && cd build/$(1) \
	&& SYMPHONY_BUILD=$(1) $(BIN)/python setup.py --quiet build_ext --inplace --parallel 2 && $(2) $(BIN)/python -m pytest $(3)
SANITIZER = ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 PYTHONMALLOC=malloc \
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)"
