"""The code location: assembles what `defs` defines, and nothing else."""

import dagster as dg

from glr_assets.defs.build import build_definitions


@dg.definitions
def defs() -> dg.Definitions:
    """Every asset, check, job and sensor, with the platform that reads its settings from the environment."""
    return build_definitions()
