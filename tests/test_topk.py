# SPDX-License-Identifier: Apache-2.0
import pytest

from golden.topk import TopKSpec
from hw.select import TopK
from sim.runner import run
from sim.tools import MissingToolError, icarus


@pytest.mark.parametrize(("simulator", "fields"), [
    ("verilator", {"width": 12}),
    ("verilator", {"n": 60, "width": 16, "lanes": 1, "digit": 2, "buffers": 1}),
    ("verilator", {"n": 37, "width": 7, "lanes": 2, "digit": 3, "buffers": 1, "mask": True}),
    ("verilator", {"n": 70, "width": 5, "lanes": 4, "digit": 1, "threshold": False}),
    ("verilator", {"n": 1, "width": 1, "lanes": 1, "digit": 1}),
    ("verilator", {"n": 19, "width": 9, "lanes": 8, "digit": 8, "mask": True}),
    ("verilator", {"width": 12, "engine": "bitserial"}),
    ("verilator", {"n": 50, "width": 7, "lanes": 1, "engine": "bitserial", "buffers": 1}),
    ("verilator", {"width": 12, "engine": "quickselect"}),
    ("verilator", {"n": 41, "width": 10, "lanes": 2, "engine": "quickselect", "mask": True}),
    ("verilator", {"n": 30, "width": 5, "lanes": 1, "engine": "quickselect", "buffers": 1}),
    ("icarus", {"n": 13, "width": 6, "lanes": 4, "digit": 3}),
    ("icarus", {"n": 13, "width": 6, "lanes": 4, "engine": "bitserial"}),
    ("icarus", {"n": 13, "width": 6, "lanes": 4, "engine": "quickselect"}),
])
def test_equals_golden(simulator, fields, tmp_path):
    if simulator == "icarus":
        try:
            icarus()
        except MissingToolError as error:
            pytest.skip(str(error))
    spec = TopKSpec(**fields)
    result = run(TopK(spec), bench="sim.bench_topk", simulator=simulator, tests=7,
                 directory=tmp_path)
    if spec.engine != "quickselect":
        assert result.report["cycles"] == spec.cycles(spec.n)
    print(result.report)
