"""The job that reports as up to date what is stale by Dagster's rules and has nothing to make."""

import dagster as dg
from pydantic import Field

from glr_assets.defs.dry_runs import DryPlatform
from glr_assets.defs.platform import Platform
from glr_assets.defs.reconfirmation import JOB, OP, confirm_unchanged, partial_readers

_DESCRIPTION = (
    "Reports as up to date, without a run of theirs, the stale assets of which a dry run says that there is nothing to "
    "make, because they read nothing of what has changed."
)


class ConfirmConfig(dg.Config):
    """Which assets to ask for."""

    assets: list[str] = Field(
        default_factory=list, description="Assets with the tag glr/reads = part; all of them where none is named"
    )


@dg.op(name=OP, out=dg.Out(dg.Nothing), description=_DESCRIPTION)
def confirm_op(context: dg.OpExecutionContext, config: ConfirmConfig, platform: Platform) -> None:
    """What was reported and what was not, as metadata of the step's output."""
    from glr_assets.defs.build import build_definitions  # it assembles this job too

    graph = build_definitions(platform).resolve_asset_graph()
    known = [key.to_user_string() for key in partial_readers(graph)]
    unknown = sorted({*config.assets} - {*known})
    if unknown:
        raise dg.Failure(
            f"{', '.join(unknown)}: expected assets with the tag glr/reads = part: {', '.join(known)}",
            allow_retries=False,
        )
    found = confirm_unchanged(DryPlatform.of(platform.settings()), context.instance, graph, config.assets)
    for name, error in found.failing.items():
        context.log.info(f"{name} stays unsynced, a run of it would fail: {error}")
    for name in found.changed:
        context.log.info(f"{name} is left as it is: a run was at it meanwhile, or the store has another version of it")
    context.add_output_metadata(
        {
            "reported as up to date": len(found.reported),
            "would be made": len(found.due),
            "would fail": len(found.failing),
            "changed meanwhile": len(found.changed),
            "names": dg.MetadataValue.json(found.reported),
        }
    )


@dg.job(name=JOB, description=_DESCRIPTION, executor_def=dg.in_process_executor)
def confirm_job() -> None:
    """One step."""
    confirm_op()
