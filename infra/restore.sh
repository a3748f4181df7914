#!/usr/bin/env bash
# Restore what infra/backup.sh left in the folder SOURCE: the store first, then the instance, whose database is replaced.
# Stop webserver, daemon, code server and workers before.
# Usage: infra/restore.sh SOURCE        (environment as for infra/backup.sh)
set -euo pipefail
[ $# = 1 ] || { echo "usage: $0 SOURCE" >&2; exit 2; }
: "${DAGSTER_HOME:?set it to the folder of the instance}"
source=$1
[ -f "$source/instance/dagster.yaml" ] || { echo "error: $source holds no backup: no instance/dagster.yaml" >&2; exit 1; }

if [ -n "${GLR_STORE:-}" ]; then
    GLR_FROM_OPTIONS='' GLR_TO_OPTIONS=${GLR_STORE_OPTIONS:-} python -m glr_assets.mirror "$source/store" "$GLR_STORE"
fi

mkdir -p "$DAGSTER_HOME"
cp "$source/instance/dagster.yaml" "$DAGSTER_HOME/dagster.yaml"
if [ -f "$source/instance/postgresql.dump" ]; then
    PGPASSWORD=$DAGSTER_POSTGRES_PASSWORD pg_restore --clean --if-exists --no-owner --single-transaction --exit-on-error \
        -h "$DAGSTER_POSTGRES_HOST" -p "${DAGSTER_POSTGRES_PORT:-5432}" -U "$DAGSTER_POSTGRES_USER" \
        -d "$DAGSTER_POSTGRES_DB" "$source/instance/postgresql.dump"
else
    (cd "$source/instance" && find . -name '*.db' -print0) | while IFS= read -r -d '' database; do
        mkdir -p "$(dirname "$DAGSTER_HOME/$database")"
        # What a killed writer left of the database that is replaced is not of this one.
        rm -f "$DAGSTER_HOME/$database-wal" "$DAGSTER_HOME/$database-shm" "$DAGSTER_HOME/$database-journal"
        cp "$source/instance/$database" "$DAGSTER_HOME/$database"
    done
fi
