#!/usr/bin/env bash
# Back up an instance and the store into the folder TARGET, which may hold an earlier backup: only what is new is copied.
# The database comes first: what is finished after it is in the store's copy with its receipt, and a restored instance
# finds it done; the other way round it would tell of files that the copy has not.
# Usage: infra/backup.sh TARGET
# Environment: DAGSTER_HOME; GLR_STORE with GLR_STORE_OPTIONS (unset: only the instance is backed up); for PostgreSQL
# what infra/team/dagster.yaml asks for.
set -euo pipefail
[ $# = 1 ] || { echo "usage: $0 TARGET" >&2; exit 2; }
: "${DAGSTER_HOME:?set it to the folder of the instance}"
target=$1
umask 077
mkdir -p "$target/instance"

cp "$DAGSTER_HOME/dagster.yaml" "$target/instance/dagster.yaml"
if grep -q '^ *postgres:' "$DAGSTER_HOME/dagster.yaml"; then
    PGPASSWORD=$DAGSTER_POSTGRES_PASSWORD pg_dump --format=custom --no-owner --file="$target/instance/postgresql.part" \
        -h "$DAGSTER_POSTGRES_HOST" -p "${DAGSTER_POSTGRES_PORT:-5432}" -U "$DAGSTER_POSTGRES_USER" "$DAGSTER_POSTGRES_DB"
    mv "$target/instance/postgresql.part" "$target/instance/postgresql.dump"
else
    # SQLite's own backup: a plain copy of a database that is written to would be damaged.
    python - "$DAGSTER_HOME" "$target/instance" <<'PYTHON'
import pathlib, sqlite3, sys

home, target = map(pathlib.Path, sys.argv[1:])
for path in sorted(home.rglob("*.db")):
    copy = target / path.relative_to(home)
    copy.parent.mkdir(parents=True, exist_ok=True)
    part = copy.with_name(copy.name + ".part")
    part.unlink(missing_ok=True)
    with sqlite3.connect(path) as live, sqlite3.connect(part) as still:
        live.backup(still)
    still.close()
    live.close()
    part.replace(copy)
PYTHON
fi

if [ -n "${GLR_STORE:-}" ]; then
    GLR_FROM_OPTIONS=${GLR_STORE_OPTIONS:-} GLR_TO_OPTIONS='' python -m glr_assets.mirror "$GLR_STORE" "$target/store"
fi
