#!/usr/bin/env bash
# Install glr_assets on a bare Debian (12, or one with Python 3.11 or 3.12), in an image or on a machine where no container engine can run.
# Usage: infra/docker/install.sh PART…      with PARTs, in this order:
#   system   the packages of Debian that are needed to run (as root)
#   python   the project with its extra "cluster" into the virtual environment PREFIX
#   user     the user GLR_USER, who owns nothing but DAGSTER_HOME, where the instance's configuration is (as root)
# Environment:
#   PREFIX        the virtual environment (default /opt/glr)
#   DAGSTER_HOME  the instance's folder (default /opt/dagster)
#   GLR_USER      the user that runs it all (default glr, number 10001)
#   TORCH_INDEX   a package index that has the wanted build of torch; unset: pip's own, whose build is for CUDA
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
prefix=${PREFIX:-/opt/glr}
home=${DAGSTER_HOME:-/opt/dagster}
user=${GLR_USER:-glr}
export PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

find_python() {
    local candidate
    for candidate in python3.12 python3.11 python3; do
        if command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: no Python 3.11 or 3.12 on the PATH: install one and run this again" >&2
    return 1
}

install_system() {
    # PostgreSQL's client is for infra/backup.sh; it must be no older than the server.
    local packages=(ca-certificates libturbojpeg0 postgresql-client)
    # Images of Python bring their own; Debian's needs the part that makes virtual environments.
    if ! find_python >/dev/null 2>&1 || ! "$(find_python)" -c 'import ensurepip, venv' 2>/dev/null; then
        packages+=(python3 python3-venv)
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${packages[@]}"
    rm -rf /var/lib/apt/lists/*
}

install_python() {
    local python pip
    python=$(find_python)
    [ -x "$prefix/bin/python" ] || "$python" -m venv "$prefix"
    pip=("$prefix/bin/python" -m pip install --quiet --constraint "$root/infra/constraints.txt")
    # torch comes first: what depends on it would otherwise choose a build of its own.
    if [ -n "${TORCH_INDEX:-}" ]; then
        "${pip[@]}" --index-url "$TORCH_INDEX" torch
    else
        "${pip[@]}" torch
    fi
    "${pip[@]}" "${root}[cluster]"
}

install_user() {
    id "$user" >/dev/null 2>&1 ||
        useradd --uid 10001 --user-group --home-dir "$home" --no-create-home --shell /usr/sbin/nologin "$user"
    install -d -o "$user" -g "$user" "$home"
    install -m 644 "$root/infra/team/dagster.yaml" "$root/infra/team/workspace.yaml" "$home"
}

[ $# -gt 0 ] || { echo "usage: $0 PART…, of: system python user" >&2; exit 2; }
for part in "$@"; do
    case $part in
        system) install_system ;;
        python) install_python ;;
        user) install_user ;;
        *) echo "error: $part: expected system, python or user" >&2; exit 2 ;;
    esac
done
