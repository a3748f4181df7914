"""The job `explain_images`: the story of some images from the source to the submission, as pages of its run."""

from collections.abc import Iterator

import dagster as dg
from pydantic import Field

from glr_assets.defs import tags
from glr_assets.defs.platform import Platform
from glr_assets.errors import GlrError, MissingInputError, describe
from glr_assets.explain.pages import explanation_page, landmark_page, summary_page
from glr_assets.explain.stories import Explanation, answer_text, explain, summarize_landmarks, with_nearest
from glr_assets.packing.left_out import reason_left_out

#: Images of one run: each is an event of up to 100 kB in the instance's database.
MAX_IMAGES = 50
#: Names without an image that are listed; the others are counted.
MAX_PROBLEMS = 100


class ExplainConfig(dg.Config):
    """Which images are explained."""

    images: list[str] = Field([], description=f"ids, file names, titles or URLs of images, at most {MAX_IMAGES}")
    landmarks: list[int] = Field([], description="ids of landmarks: their images counted by fate, and some of them")
    images_per_landmark: int = Field(5, ge=0, le=MAX_IMAGES, description="images explained of each landmark")


@dg.op(
    out={"pages": dg.DynamicOut(str, description="one page an image or landmark, in the metadata")},
    description="Logs one page for each image and landmark of the config, and a summary. It makes nothing.",
)
def explain_requested(context: dg.OpExecutionContext, config: ExplainConfig, platform: Platform) -> Iterator[object]:
    """One output a page; a name that no table knows is a row of the summary with the reason."""
    settings = platform.settings()
    store = settings.open_store()
    try:
        landmarks = summarize_landmarks(store, config.landmarks, config.images_per_landmark)
    except MissingInputError as error:
        raise dg.Failure(describe(error), allow_retries=False) from None
    requested = dict.fromkeys([*config.images, *(image for found in landmarks for image in found.images)])
    found: dict[str, list[Explanation]] = {}
    problems: dict[str, str] = {}
    for name in requested:
        if sum(map(len, found.values())) >= MAX_IMAGES:
            problems[name] = f"left out: one run explains {MAX_IMAGES} images"
            continue
        try:
            found[name] = explain(store, name)
        except MissingInputError as error:
            raise dg.Failure(describe(error), allow_retries=False) from None
        except GlrError as error:
            problems[name] = reason_left_out(settings.packed_bucket(), name) or describe(error)
    explained = with_nearest(store, [one for of_name in found.values() for one in of_name][:MAX_IMAGES])
    for summary in landmarks:
        if not summary.counts:
            problems[f"landmark {summary.landmark_id}"] = "no train image is published under this id"
        page = landmark_page(summary)
        yield _page(f"landmark_{summary.landmark_id}".replace("-", "minus_"), str(summary.landmark_id), page)
    for number, one in enumerate(explained):
        yield _page(f"image_{number}", one.story.id, explanation_page(store, one))
    names = {id(one.story): name for name, of_name in found.items() for one in of_name}
    rows = [(names[id(one.story)], *_row(one), "") for one in explained]
    listed = list(problems.items())[:MAX_PROBLEMS]
    if len(listed) < len(problems):
        listed.append(("…", f"and {len(problems) - len(listed)} more"))
    rows += [(name, "", "", "", "", "", problem) for name, problem in listed]
    counts = f"{len(explained)} image{'s' * (len(explained) != 1)}, {len(problems)} problem{'s' * (len(problems) != 1)}"
    yield _page("summary", counts, summary_page(rows))


def _page(key: str, title: str, page: str) -> dg.DynamicOutput[str]:
    return dg.DynamicOutput(
        title,
        mapping_key=key,
        output_name="pages",
        metadata={"title": dg.MetadataValue.text(title), "page": dg.MetadataValue.md(page)},
    )


def _row(found: Explanation) -> tuple[str, ...]:
    story = found.story
    landmark = "" if story.landmark_id is None else f"{story.landmark_id}  {story.landmark or ''}"
    trains = "yes" if "train_manifest" in story.sets else "no"
    return (story.id, story.split, landmark, trains, answer_text(found.answers[0]) if found.answers else "")


@dg.job(
    description="The story of images from the source to the submission: picture, rights, decisions, duplicates, "
    "verified pairs, nearest images, answers. Set `images` or `landmarks` in the launchpad; it makes nothing.",
    tags={tags.READ_ONLY: "true"},
)
def explain_images() -> None:
    """One op; its pages are in the metadata of its outputs."""
    explain_requested()


JOBS = [explain_images]
