#!/usr/bin/env bash
# Back up an instance and the store into the folder TARGET, which may hold an earlier backup: what is there as it should
# be is not copied again. Work may go on meanwhile: what is being made is left out and named, and the backup keeps what it
# had of it. What is damaged is left out and named too, with exit status 1.
# The database comes first: what is finished after it is in the store's copy with its receipt, and a restored instance
# finds it done; the other way round it would tell of files that the copy has not.
# Usage: infra/backup.sh [--quick] [--instance-only] TARGET    back up
#        infra/backup.sh --verify [--instance-only] TARGET     hash what the backup holds, and change nothing
#   --quick          trust what lies in TARGET/store by its size, without reading it
#   --instance-only  leave the store aside
# Environment: DAGSTER_HOME; GLR_STORE with GLR_STORE_OPTIONS; for PostgreSQL what infra/team/dagster.yaml asks for.
set -euo pipefail
usage() { sed -n '7,10s/^# //p' "$0" >&2; exit 2; }
quick='' verify='' store=yes target=''
for argument; do
    case $argument in
        --quick) quick=--quick ;;
        --verify) verify=yes ;;
        --instance-only) store='' ;;
        -*) usage ;;
        *) [ -z "$target" ] || usage; target=$argument ;;
    esac
done
[ -n "$target" ] || usage

if [ -n "$verify" ]; then
    [ -f "$target/instance/dagster.yaml" ] || { echo "error: $target holds no backup: no instance/dagster.yaml" >&2; exit 1; }
    if [ -f "$target/instance/postgresql.dump" ]; then
        pg_restore --list "$target/instance/postgresql.dump" > /dev/null
    fi
    python - "$target/instance" <<'PYTHON'
import pathlib, sqlite3, sys

for path in sorted(pathlib.Path(sys.argv[1]).rglob("*.db")):
    with sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True) as database:
        try:
            found = database.execute("PRAGMA integrity_check").fetchone()[0]
        except sqlite3.DatabaseError as error:
            found = str(error)
    if found != "ok":
        sys.exit(f"error: {path}: damaged: {found.splitlines()[0]}; back up again")
PYTHON
    if [ -n "$store" ]; then
        [ -d "$target/store/receipts" ] || { echo "error: $target holds no store; back up with GLR_STORE set" >&2; exit 1; }
        GLR_STORE_OPTIONS='' glr verify --store "$target/store"
    fi
    exit
fi

: "${DAGSTER_HOME:?set it to the folder of the instance}"
if [ -n "$store" ]; then
    : "${GLR_STORE:?set it to the root URL of the store, or give --instance-only}"
fi
if [ ! -f "$DAGSTER_HOME/dagster.yaml" ]; then
    echo "error: DAGSTER_HOME=$DAGSTER_HOME holds no dagster.yaml; a store of \`glr demo --store S\` keeps its instance in S/.dagster" >&2
    exit 1
fi
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
    try:
        live = sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True)
        with live, sqlite3.connect(part) as still:
            live.backup(still)
    except sqlite3.OperationalError:
        if path.exists():
            raise
        part.unlink(missing_ok=True)
        print(f"left out {path.name}: it vanished", file=sys.stderr)  # as of a run that was deleted meanwhile
        continue
    still.close()
    live.close()
    part.replace(copy)
PYTHON
fi

if [ -n "$store" ]; then
    GLR_FROM_OPTIONS=${GLR_STORE_OPTIONS:-} GLR_TO_OPTIONS='' python -m glr_assets.mirror $quick "$GLR_STORE" "$target/store"
fi
