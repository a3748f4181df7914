#!/usr/bin/env bash
# Set up what the instance keeps in its database and no file can set: the limit of the pool "gpu".
# Usage: DAGSTER_HOME=… infra/bootstrap.sh [GPUS]      (run it in the environment where dagster is installed)
set -euo pipefail
: "${DAGSTER_HOME:?set it to the folder of the instance}"
dagster instance concurrency set gpu "${1:-1}"
