# SPDX-License-Identifier: Apache-2.0
# Every target that needs it brings .venv up to date with pyproject.toml first; see tools/.
PYTHON ?= python3
VENV := .venv
BUILD := build
PRESETS := rowwise/tiny rowwise/paper rowwise/ecp5 spatten/tiny spatten/paper-1/8 spatten/paper
TESTS := tests
WORKERS := 2
AREA := hw.arith.requant:Requant lanes=8
FPGA := hw.rowwise.core:RowwiseCore --preset ecp5
BENCH :=
BITSTREAM := rowwise --board ulx3s-85f
NETLIST :=
FAULTS := --programs 2000 --seed 1

export PYTHON
.DEFAULT_GOAL := help
.PHONY: help env verilog test sim faults lint area bench fpga bitstream board netlist clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:[^#]*## /\t/' | expand -t 10

env:  ## bring .venv up to date with pyproject.toml
	@sh tools/bootstrap.sh

verilog: env  ## write the Verilog of the PRESETS to build/verilog
	@printf '%s\n' $(PRESETS) | xargs -P $(WORKERS) -I{} sh -c 'preset={}; \
		$(VENV)/bin/vitral verilog "$${preset%%/*}" --preset "$${preset#*/}" -o $(BUILD)/verilog'

test:  ## run all tests, TESTS=tests/test_x.py for some
	@sh tools/bootstrap.sh g++ perl
	$(VENV)/bin/python -m pytest -n $(WORKERS) $(TESTS)

sim:  ## simulate a trained network on the smallest core, RTL against the golden model
	@sh tools/bootstrap.sh g++ perl
	$(VENV)/bin/vitral run digits --on rowwise --preset tiny --engine rtl --images 4

faults:  ## 2,000 programs that go wrong on a simulated chip, FAULTS="--chip C --programs N"
	@sh tools/bootstrap.sh g++ perl
	$(VENV)/bin/python -m tests.faults $(FAULTS)

lint: env  ## ruff and pyright
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyright

area: env  ## gate equivalents of a block, AREA="hw.x:Component field=value ..."
	$(VENV)/bin/python -m vitral.area $(AREA)

bench:  ## measure everything again into build/bench, BENCH="--quick" for what takes minutes
	@sh tools/bootstrap.sh g++ perl
	$(VENV)/bin/python -m vitral.bench $(BENCH)

fpga: env  ## what a block takes of an ECP5, FPGA="hw.x:Component --preset P field=value ..."
	$(VENV)/bin/python -m vitral.fpga $(FPGA)

bitstream: env  ## a bitstream into build/bitstream, BITSTREAM="rowwise --board B --clock MHZ"
	$(VENV)/bin/vitral bitstream $(BITSTREAM) -o $(BUILD)/bitstream

board:  ## digits through the serial pins of a simulated board, bit-exact
	@sh tools/bootstrap.sh g++ perl
	$(VENV)/bin/vitral run digits --on rowwise --preset tiny --board simulated --images 2

netlist:  ## simulate the ECP5 netlist of a small core, NETLIST="--preset tiny" for another
	@sh tools/bootstrap.sh g++ perl
	$(VENV)/bin/python -m tests.netlist $(NETLIST)

clean:  ## remove what was built, but not .venv
	rm -rf $(BUILD) .pytest_cache .ruff_cache .hypothesis
