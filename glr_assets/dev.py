"""`glr dev`: the Dagster UI over one store, with the instance that has its runs."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from importlib import resources
from pathlib import Path

from glr_assets.errors import SettingsError
from glr_assets.locations import expanded, local_path
from glr_assets.settings import DATA, Settings
from glr_assets.store_settings import PATH as REMEMBERED

#: In a local store; hidden, as what is no part of what was made.
HOME = ".dagster"
CONFIG = "dagster.yaml"
WORKSPACE = "workspace.yaml"
#: SHA-256 of configurations that an earlier version copied and nobody has changed since: they are brought up to date.
SUPERSEDED = frozenset({"412efd4a846eecdfcdda55496693e964fca0097bee7059eb18eae5b12290206e"})


def dagster_home(settings: Settings) -> Path | None:
    """Where Dagster's instance for a store lies: DAGSTER_HOME, else `.dagster` in a local store; None of a remote one.

    A store `data` without an instance of its own takes the `.dagster` beside it, where there is one, as `make demo`
    and `make dev` have it: a command that is typed in a checkout reads and writes the instance that the UI shows.

    Raises:
        SettingsError: DAGSTER_HOME is no absolute path.
    """
    given = os.environ.get("DAGSTER_HOME", "").strip()
    if given:
        home = Path(expanded(given))
        if not home.is_absolute():
            raise SettingsError(
                f"DAGSTER_HOME = {given}: Dagster takes an absolute path only; give {local_path(given)}"
            )
        return home
    store = settings.open_store()
    if not store.is_local:
        return None
    root = Path(store.root)
    own, beside = root / HOME, root.parent / HOME
    if (own / CONFIG).is_file() or root.name != DATA:
        return own
    # What lies in another store is the instance of that one.
    is_beside = (beside / CONFIG).is_file() and not (root.parent / REMEMBERED).is_file()
    return beside if is_beside else own


def prepared_home(home: Path) -> Path:
    """The folder with Dagster's configuration in it; what is there stays, unless it is an earlier version's own.

    Raises:
        SettingsError: it cannot be written.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        there = home / CONFIG
        if not there.exists() or hashlib.sha256(there.read_bytes()).hexdigest() in SUPERSEDED:
            part = home / f".{CONFIG}.part"
            with resources.as_file(resources.files("glr_assets") / "laptop.yaml") as config:
                shutil.copyfile(config, part)
            part.replace(home / CONFIG)
    except OSError as error:
        raise SettingsError(
            f"{home}: cannot be Dagster's home ({error.strerror}); set DAGSTER_HOME to a folder that can be written"
        ) from error
    return home


def dev_command(home: Path, host: str, port: int) -> list[str]:
    """The command that opens the UI; writes the workspace that it loads into `home`."""
    from glr_assets.defs.code_location import LOCATION, MODULE

    workspace = home / WORKSPACE
    workspace.write_text(
        f"load_from:\n  - python_module:\n      module_name: {MODULE}\n      location_name: {LOCATION}\n"
    )
    return [sys.executable, "-m", "dagster", "dev", "-w", str(workspace), "-h", host, "-p", str(port)]


def dev_environment(settings: Settings, home: Path) -> dict[str, str]:
    """The environment of the UI and its runs: of the settings what was given, for the rest the store is asked."""
    given = {"STORE": settings.store, "SOURCE": settings.source, "RECIPE": settings.recipe}
    named = {f"GLR_{name}": value for name, value in given.items() if value is not None}
    if "GLR_RECIPE" in named:
        named["GLR_RECIPE"] = settings.resolved.recipe
    return os.environ | named | {"DAGSTER_HOME": str(home.absolute())}
