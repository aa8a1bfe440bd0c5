# The face of the repository; Meson and the scripts in tools/ do the work. Each target installs what it needs.
#
#   PYTHON=python3.12   the Python that .venv is made with (default: python3)
#   PREFIX=/usr/local   where `make install` puts the C library, its headers and the command
#   JOBS=2              how many compilers and tests run at once (default: the number of cores)

PYTHON ?= python3
PREFIX ?= /usr/local
JOBS ?= $(shell nproc)
export PYTHON JOBS

.PHONY: build help demo examples check check-long check-fresh bench bench-apps bench-cluster sanitize fuzz docs install clean
.NOTPARALLEL:

build: ## the C library in build/, the Python package and the command in .venv/ (the default)
	@tools/setup.sh build
	@tools/configure.sh build
	@ninja -C build -j $(JOBS)
	@tools/install_package.sh

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: build ## the main job, on real input, beside the standard library
	.venv/bin/python examples/demo.py

examples: build ## the examples and applications in C in build/examples/, with what they need
	@tools/setup.sh build apps
	@tools/configure.sh build -Dexamples=true
	@ninja -C build -j $(JOBS)

check: ## build, and run every test that ends within minutes; the last line is the summary
	@tools/check.sh

check-long: ## the same and the long tests: a million tasks, valgrind, fuzzing
	@tools/check.sh long

check-fresh: ## `make demo` and `make check` on a fresh Debian 12 (as root)
	@tools/setup.sh fresh
	tools/fresh-debian.sh demo check

bench: build ## every benchmark, beside its peers: table and plot in build/bench/
	@tools/setup.sh build test bench
	@tools/configure.sh build -Dbench=true
	ninja -C build -j $(JOBS)
	meson test -C build --benchmark --verbose
	.venv/bin/python python/src/codec_bench.py
	.venv/bin/python bench/one_machine.py

bench-apps: examples ## the applications beside what a user would pick instead: docs/benchmarks/
	@tools/setup.sh build apps peers
	.venv/bin/python bench/apps.py

bench-cluster: build ## the cluster beside ipyparallel, dask.distributed and Ray: table and plot in build/bench/
	@tools/setup.sh build test bench
	@tools/configure.sh build -Dbench=true -Dtests=true
	@ninja -C build -j $(JOBS)
	.venv/bin/python bench/cluster.py

sanitize: ## the C tests under the address, undefined-behaviour and thread sanitizers
	@tools/sanitize.sh

fuzz: ## search with every fuzz target for FUZZ_SECONDS (default 60) each
	@tools/fuzz.sh

docs: build ## the manual as HTML in build/docs
	@tools/setup.sh build docs
	.venv/bin/sphinx-build -W -q docs build/docs

install: build ## install the C library, headers, pkg-config file and command under PREFIX
	@tools/configure.sh build --prefix=$(PREFIX)
	meson install -C build

clean: ## remove everything that was built, but not .venv
	rm -rf build build-* .venv/.package
