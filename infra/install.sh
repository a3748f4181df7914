#!/usr/bin/env bash
# Make the virtual environment VENV (default .venv) and install the project into it, with what it is tested with.
# As root on Debian it installs the system packages that are missing; otherwise it names them.
# Usage: infra/install.sh [VENV]
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}

python=
for candidate in python3.12 python3.11 python3; do
    if command -v "$candidate" >/dev/null 2>&1 &&
        "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "error: no Python 3.11 or 3.12 on the PATH: install one and run this again" >&2
    exit 1
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends python3-venv
    else
        echo "error: Python's venv module is missing: install the package python3-venv and run this again" >&2
        exit 1
    fi
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }
pip install --upgrade pip "setuptools>=75,<81" wheel
# torch comes first: what depends on it would otherwise choose a build of its own.
pip install "torch==2.13.*"
pip install --editable ".[dev]"
touch "$venv/.installed"
