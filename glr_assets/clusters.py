"""The code location for several machines: the same assets, whose steps are sent to workers or to pods.

`dagster code-server start -m glr_assets.clusters -a celery` (or `-a kubernetes`); see docs/deploy.md.
"""

import dagster as dg

from glr_assets.defs import executors
from glr_assets.defs.build import build_definitions


@dg.definitions
def celery() -> dg.Definitions:
    """Steps as tasks of Celery's workers."""
    return build_definitions(executor=executors.celery())


@dg.definitions
def kubernetes() -> dg.Definitions:
    """Steps as pods."""
    return build_definitions(executor=executors.kubernetes())
