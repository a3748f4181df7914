"""Group `planning`: what to fetch, from tables alone."""

import dagster as dg

from glr_assets.defs.conventions import table_asset
from glr_assets.defs.platform import Platform
from glr_assets.defs.results import result_of
from glr_assets.planning import class_counts as counts
from glr_assets.planning import fill_plan as plan
from glr_assets.planning import fill_potential as potential
from glr_assets.planning.schemas import CLASS_COUNTS, FILL_PLAN, FILL_POTENTIAL


@table_asset(
    CLASS_COUNTS,
    group="planning",
    code_version=counts.CODE_VERSION,
    kinds={"pyarrow"},
    deps=["train_metadata", "competition_train"],
)
def class_counts(platform: Platform) -> dg.MaterializeResult:
    """One row per landmark: its images in the full train set, in the competition's, and left over."""
    store = platform.open_store()
    return result_of(counts.make_class_counts(store), store)


@table_asset(
    FILL_POTENTIAL,
    group="planning",
    code_version=potential.CODE_VERSION,
    kinds={"numpy"},
    deps=["class_counts"],
    recipe={"fill": {"threshold"}},
)
def fill_potential(platform: Platform) -> dg.MaterializeResult:
    """One row per threshold 0 to 100: images that filling every class takes, images there are for it, and classes
    that stay below it all the same; with both curves and the class sizes before and after filling.
    """
    store = platform.open_store()
    made = potential.make_fill_potential(store, platform.load_recipe().fill.threshold)
    return result_of(made, store)


@table_asset(
    FILL_PLAN,
    group="planning",
    code_version=plan.CODE_VERSION,
    kinds={"pyarrow"},
    deps=["train_metadata", "competition_train", "class_counts"],
    recipe={"fill": plan.DECIDED_BY, "seed": ()},
)
def fill_plan(platform: Platform) -> dg.MaterializeResult:
    """One row per train image planned as an extra of a small class, or held in reserve for a corrupt one."""
    store, recipe = platform.open_store(), platform.load_recipe()
    return result_of(plan.make_fill_plan(store, recipe.fill, recipe.seed), store)


ASSETS = [class_counts, fill_potential, fill_plan]
