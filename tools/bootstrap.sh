#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Usage: sh tools/bootstrap.sh [PROGRAM...]
# Check that each PROGRAM is installed, then bring .venv up to date with pyproject.toml: at once
# when its content was installed before, else with pip. A failed installation leaves no stamp.
set -eu
cd "$(dirname "$0")/.."

missing() { # what it is, how to get it
    echo "make: $1, which Vitral needs; get it with: $2" >&2
    exit 1
}
for program in "$@"; do
    command -v "$program" >/dev/null 2>&1 ||
        missing "$program is not installed" "apt-get install $program"
done

python=${PYTHON:-python3}
command -v "$python" >/dev/null 2>&1 ||
    missing "$python is not installed" "apt-get install python3 python3-venv"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    missing "$python is older than Python 3.11" "apt-get install python3.11-venv, then make PYTHON=python3.11"
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
    missing "$python has no venv module" "apt-get install python3-venv"

exec 9<.                                        # one installation at a time, where flock exists
! command -v flock >/dev/null 2>&1 || flock 9

stamp=.venv/pyproject.sha256
want=$("$python" -c 'import hashlib, os, sys
print(hashlib.sha256(open("pyproject.toml", "rb").read()).hexdigest(), *sys.version_info[:2], os.getcwd())')
[ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$want" ] || exit 0

echo "make: installing what pyproject.toml asks for into .venv (a minute or two, once)"
rm -f "$stamp"
# An environment of another Python, or of a folder since moved, cannot be repaired: start afresh.
"$python" -c 'import pathlib, subprocess, sys
sys.exit(subprocess.call([".venv/bin/python", "-c", "import sys; sys.exit(sys.prefix != sys.argv[1] or [*sys.version_info[:2]] != [int(v) for v in sys.argv[2:]])",
    str(pathlib.Path(".venv").absolute()), *map(str, sys.version_info[:2])], stderr=subprocess.DEVNULL))' 2>/dev/null ||
    "$python" -m venv --clear .venv
.venv/bin/python -m pip --disable-pip-version-check --quiet install -e '.[dev,fpga,plots]'
echo "$want" >"$stamp.new"
mv "$stamp.new" "$stamp"
