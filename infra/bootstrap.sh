#!/usr/bin/env bash
# Set up what the instance keeps in its database and no file can set: the limit of the pool "gpu", which is the number of
# GPUs of all machines together. Run it again when that changes.
# Usage: DAGSTER_HOME=… infra/bootstrap.sh [GPUS]      (run it in the environment where dagster is installed)
set -euo pipefail
: "${DAGSTER_HOME:?set it to the folder of the instance}"
gpus=${1:-1}
# A limit of 0 would hold every step of the pool for ever; a machine without a GPU runs one at a time on its CPU.
if ! [[ $gpus =~ ^[1-9][0-9]*$ ]]; then
    echo "error: GPUS = $gpus: expected a whole number from 1" >&2
    exit 2
fi
dagster instance concurrency set gpu "$gpus"
