#!/usr/bin/env bash
# Restore what infra/backup.sh left in the folder SOURCE: the store first, then the instance, whose database is replaced.
# Of the store what lies there is hashed, and replaced where it is not as the backup has it: a damaged store is mended.
# Stop webserver, daemon, code server and workers before.
# Usage: infra/restore.sh [--quick] [--instance-only] SOURCE      (environment as for infra/backup.sh)
#   --quick          trust what lies in the store by its size, without reading it
#   --instance-only  leave the store aside
set -euo pipefail
usage() { sed -n '5,7s/^# //p' "$0" >&2; exit 2; }
quick='' store=yes source=''
for argument; do
    case $argument in
        --quick) quick=--quick ;;
        --instance-only) store='' ;;
        -*) usage ;;
        *) [ -z "$source" ] || usage; source=$argument ;;
    esac
done
[ -n "$source" ] || usage
: "${DAGSTER_HOME:?set it to the folder of the instance}"
[ -f "$source/instance/dagster.yaml" ] || { echo "error: $source holds no backup: no instance/dagster.yaml" >&2; exit 1; }

if [ -n "$store" ]; then
    : "${GLR_STORE:?set it to the root URL of the store, or give --instance-only}"
    [ -d "$source/store/receipts" ] || { echo "error: $source holds no store; give --instance-only for the rest" >&2; exit 1; }
    if ! GLR_FROM_OPTIONS='' GLR_TO_OPTIONS=${GLR_STORE_OPTIONS:-} python -m glr_assets.mirror $quick "$source/store" "$GLR_STORE"; then
        echo "error: the store was not restored whole, the instance not at all; --instance-only restores that alone" >&2
        exit 1
    fi
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
