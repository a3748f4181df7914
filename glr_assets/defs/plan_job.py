"""The plan of a change in the UI: a job whose run shows it as metadata."""

import dagster as dg
from pydantic import Field

from glr_assets.defs import tags
from glr_assets.defs.plan import UNKNOWN, plan_changes, plan_markdown
from glr_assets.defs.platform import Platform


class PlanConfig(dg.Config):
    """Another recipe or source to plan for; those of the store where not given."""

    recipe: str | None = Field(None, description="Recipe name or path, in place of GLR_RECIPE")
    source: str | None = Field(None, description="Root URL of the source bucket, in place of GLR_SOURCE")
    check_bytes: bool = Field(
        False, description="Hash small files of finished work as a run does, not only compare their sizes"
    )


@dg.op(name="plan", description="What runs would make again by that recipe and source, and why; it makes nothing.")
def plan_op(context: dg.OpExecutionContext, config: PlanConfig, platform: Platform) -> None:
    """The plan as metadata of the step's output."""
    given = {name: value for name, value in (("recipe", config.recipe), ("source", config.source)) if value}
    settings = Platform(**(platform.model_dump() | given)).settings()
    plan = plan_changes(settings, context.instance, check_bytes=config.check_bytes)
    context.add_output_metadata(
        {
            "plan": dg.MetadataValue.md(plan_markdown(plan)),
            "recipe": plan.recipe,
            "source": plan.source,
            "would be made": sum(len(reason.partitions) or 1 for one in plan.assets for reason in one.made),
            "done": plan.done,
            "bytes to fetch": UNKNOWN if plan.bytes is None else plan.bytes,
            "seconds by past runs": UNKNOWN if plan.seconds is None else plan.seconds,
        }
    )


@dg.job(
    name="plan_changes",
    description=(
        "What runs would make again, asset by asset and shard by shard, with the causes, the bytes to fetch and the "
        "time of past runs: the metadata of the step's output. The launchpad takes another recipe or source. It makes "
        "and writes nothing."
    ),
    tags={tags.READ_ONLY: "true"},
)
def plan_job() -> None:
    """One step."""
    plan_op()
