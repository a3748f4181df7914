"""Jobs by purpose: the part of the lineage that serves it, walked in one process, finished work skipped.

An asset job of Dagster's cannot hold assets of different partitions, and the lineage has shards of three splits,
buckets and groups: so a job of these walks the lineage as `glr demo` does, each asset in a run of its own inside it,
over all shards of the source. On several machines the sensors and backfills do the same in many runs.
"""

import dagster as dg

from glr_assets.defs.conventions import GPU_TAGS
from glr_assets.defs.platform import Platform

TABLES_FIRST = (
    "train_metadata",
    "train_attribution",
    "landmark_labels",
    "competition_train",
    "index_metadata",
    "test_metadata",
    "recognition_solution",
    "retrieval_solution",
    "class_counts",
    "fill_potential",
    "fill_plan",
)
CURATED = (
    "image_catalog",
    "label_conflicts",
    "train_test_leaks",
    "deduped_manifest",
    "train_extra",
    "fill_shortfall",
    "train_manifest",
    "image_ledger",
)
CLEANED = ("local_features", "verification_calibration", "verified_pairs", "cleaned_manifest")
EVALUATED = (
    "train_embeddings",
    "index_embeddings",
    "test_embeddings",
    "non_landmark_embeddings",
    "faiss_index",
    "search_features",
    "test_features",
    "recognition_model",
    "submission",
    "retrieval_submission",
    "evaluation",
    "model_comparison",
)
#: By job the assets that it walks.
WALKS: dict[str, tuple[str, ...]] = {
    "ingest": (*TABLES_FIRST, "train_images", "index_images", "test_images"),
    "curate": (*CURATED, *CLEANED),
    "train": ("embedder", "training_groups", "group_classifiers", "group_calibration"),
    "evaluate": EVALUATED,
}
EVERYTHING = "everything"
_TOLD = {
    "ingest": "The source's tables, what to fetch, and every shard of its images.",
    "curate": "The catalog, the manifests, geometric cleaning and the ledger, of what has been ingested.",
    "train": "The embedder, and the classifiers of groups with their calibration, on the manifests as they are.",
    "evaluate": "Embeddings, the index, the submissions and their scores, with the embedder as it is.",
    EVERYTHING: "The whole lineage, every shard of the source included: what `glr demo` runs.",
}
_ON_GPU = {"train", "evaluate", EVERYTHING}


def _job(name: str) -> dg.JobDefinition:
    @dg.op(name=f"walk_{name}", description=_TOLD[name])
    def walk(context: dg.OpExecutionContext, platform: Platform) -> None:
        from glr_assets.defs.lineage import Progress, materialise_lineage  # it imports the definitions

        progress = Progress(
            begins=lambda step: context.log.info(f"{step.asset}: {step.number} of {step.of}"),
            ends=lambda step, seconds, warnings: context.log.info("; ".join([f"{step.asset}: {seconds} s", *warnings])),
        )
        materialise_lineage(platform.settings(), context.instance, progress, WALKS.get(name))

    tags = {"glr/purpose": name} | ({"dagster-k8s/config": GPU_TAGS["dagster-k8s/config"]} if name in _ON_GPU else {})

    @dg.job(name=name, description=_TOLD[name], tags=tags)
    def purpose() -> None:
        walk()

    return purpose


JOBS = [_job(name) for name in (*WALKS, EVERYTHING)]


@dg.schedule(
    cron_schedule="0 4 * * 6",
    job=next(job for job in JOBS if job.name == "train"),
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Every Saturday: the job `train`. What trains on unchanged manifests finds its version and is done.",
)
def weekly_training() -> dg.RunRequest:
    """One run of the job."""
    return dg.RunRequest()
