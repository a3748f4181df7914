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
# Install a Debian package, as root on Debian; otherwise say what is missing and end.
install_package() {
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$1"
    else
        echo "error: $2 is missing: install the package $1 and run this again" >&2
        exit 1
    fi
}
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    install_package python3-venv "Python's venv module"
fi
# As glr_assets/images/turbojpeg.py looks for it.
finds_turbojpeg() {
    "$python" -c 'import ctypes, ctypes.util; ctypes.CDLL(ctypes.util.find_library("turbojpeg") or "libturbojpeg.so.0")' 2>/dev/null
}
if ! finds_turbojpeg; then
    install_package libturbojpeg0 "the library libturbojpeg"
    finds_turbojpeg || { echo "error: libturbojpeg0 is installed but $python does not find it" >&2; exit 1; }
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }
pip install --upgrade pip "setuptools>=75,<81" wheel
# torch comes first: what depends on it would otherwise choose a build of its own.
pip install "torch==2.13.*"
pip install --editable ".[cluster,dev]"
touch "$venv/.installed"
