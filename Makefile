# make setup   prepare .venv: torch, pinned wheels, ROS 2 Jazzy, cooper_interfaces
# make demo    a robot's questions answered over ROS 2, pictures and a bag in demo_out/
# make test    prove it
# make engines every graph into real TensorRT engines, without a GPU (minutes to an hour; resumes)
# make clean   remove build files and demo_out; runs/ and .venv stay (make distclean removes .venv too)
#
# make setup PYTHON=python3.12           take another Python (3.10 or newer); it is kept from then on
# make setup TORCH_PIP_ARGS='...'        extra words for the pip command that installs torch
# make demo DEMO='--seed 3'             another room; see cooper demo --help
# make test TESTS='-k launch'           extra words for pytest; '-n 0' runs in one process
# make engines ENGINES='--case odd'     part of it; see benchmarks/build_engines.py --help

PYTHON ?= $(or $(realpath $(VENV)/bin/python),python3)
TESTS ?=
DEMO ?=
ENGINES ?=
VENV := $(CURDIR)/.venv
export TORCH_PIP_ARGS

# What follows concerns the commands below only, not a robot: stay on this machine, and let one
# torch thread run per process, for several processes share the cores.
ROS_ENV := ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST AMENT_PREFIX_PATH=$(VENV) \
           ROS_PYTHON_CHECK_FIELDS=1

.PHONY: setup demo test lint engines clean distclean
.DEFAULT_GOAL := setup

setup:
	@$(PYTHON) scripts/bootstrap.py

demo: setup
	@$(VENV)/bin/cooper demo $(DEMO)

lint: setup
	@$(VENV)/bin/ruff check .

test: lint
	@$(ROS_ENV) OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest test -q -n 2 \
		--no-loadscope-reorder $(TESTS)

engines: setup
	@OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/build_engines.py $(ENGINES)

clean:
	rm -rf build install log demo_out .pytest_cache .ruff_cache .hypothesis *.egg-info

distclean: clean
	rm -rf .venv
