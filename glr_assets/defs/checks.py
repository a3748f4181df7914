"""Asset checks: every table against its schema, and what must hold across tables."""

import functools
import io
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets import markdown
from glr_assets.csv_structure import UNTERMINATED
from glr_assets.curation import checks as curated
from glr_assets.curation.leaks import leaks_into_test
from glr_assets.curation.schemas import TRAIN_EXTRA, TRAIN_MANIFEST
from glr_assets.defs.platform import Platform
from glr_assets.defs.results import ROW_COUNT
from glr_assets.defs.shard_checks import Found, damage
from glr_assets.errors import DamagedFileError
from glr_assets.exports.export import incomplete
from glr_assets.filtering import checks as filtering
from glr_assets.images.catalog import absent_problem
from glr_assets.images.checks import MOST_FAILED, STATUSES, many_failed
from glr_assets.images.members import BEHIND_FIGURE
from glr_assets.images.schemas import IMAGE_CATALOG
from glr_assets.ledger.balance import BALANCED, unbalanced
from glr_assets.ledger.schemas import IMAGE_LEDGER
from glr_assets.manifests import kept_images
from glr_assets.metadata import checks as published
from glr_assets.metadata.schemas import (
    COMPETITION_TRAIN,
    INDEX_METADATA,
    RECOGNITION_SOLUTION,
    RETRIEVAL_SOLUTION,
    TEST_METADATA,
    TRAIN_METADATA,
)
from glr_assets.openimages import checks as openimages
from glr_assets.openimages import images
from glr_assets.openimages.parts import part_keys, requests
from glr_assets.openimages.schemas import NON_LANDMARK_FILTER, OPENIMAGES_CLASSIFIER_DATASET, OPENIMAGES_IMAGES
from glr_assets.receipts import Receipt, digest_of, find_receipt, need_receipt
from glr_assets.recipes import Verification
from glr_assets.retrieval.checks import misanswered
from glr_assets.retrieval.submission import RETRIEVAL_SUBMISSION
from glr_assets.store import Store
from glr_assets.tables import Table, read_parts, read_table, stored_problems
from glr_assets.verification import checks as verification
from glr_assets.verification.plan import set_to_clean
from glr_assets.verification.schemas import CLEANED_MANIFEST, FALSE_IMAGES, VERIFICATION_CALIBRATION

WARN = dg.AssetCheckSeverity.WARN


def schema_check(asset: str, table: Table) -> dg.AssetChecksDefinition:
    """A blocking check that the asset's file has the columns, types and unique keys of its schema."""

    @dg.asset_check(asset=asset, name="schema", blocking=True, description=f"Schema of {table.path}: {table.grain}.")
    def schema(platform: Platform) -> dg.AssetCheckResult:
        store = platform.open_store()
        try:
            found = stored_problems(store, table)
        except DamagedFileError as error:
            found = [damage(store, error)]
        return dg.AssetCheckResult(passed=not found, metadata={"problems": found})

    return schema


def _holds(
    asset: str,
    name: str,
    description: str,
    look: Callable[[Store], str | Found],
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
    after: Sequence[str] = (),
) -> dg.AssetChecksDefinition:
    """A check of an asset, which waits for the assets `after` where the same run makes them."""

    @dg.asset_check(asset=asset, name=name, description=description, additional_deps=list(after))
    def check(platform: Platform) -> dg.AssetCheckResult:
        store = platform.open_store()
        try:
            found = look(store)
        except DamagedFileError as error:
            found = damage(store, error)
        problem, note = (found, "") if isinstance(found, str) else (found.broken or found.doubtful, found.note)
        told = {"problem": problem or "none"} | ({"note": note} if note else {})
        return dg.AssetCheckResult(passed=not problem, severity=severity, metadata=told)

    return check


#: Failed images that `few_images_failed` names; the catalog has all.
NAMED: Final = 10


@dg.asset_check(
    asset="image_catalog",
    name="few_images_failed",
    description=f"At most {MOST_FAILED:.0%} of a split's wanted images failed, or a single one. The metadata counts "
    "failed images and names the first with their reasons. All of them are the rows of "
    f"`{IMAGE_CATALOG.path}` with the status `failed`; `glr why ID` shows one.",
)
def few_images_failed(platform: Platform) -> dg.AssetCheckResult:
    """The count is shown whether or not it warns: a few broken files of a published set stay broken."""
    store = platform.open_store()
    counts: Counter[tuple[str, str]] = Counter()
    first: list[tuple[str, ...]] = []
    try:
        for part in read_parts(store, IMAGE_CATALOG, ["split", "status", "id", "member", "reason"]):
            rows = part.group_by(["split", "status"], use_threads=False).aggregate([([], "count_all")]).to_pylist()
            counts.update({(row["split"], row["status"]): row["count_all"] for row in rows})
            failed = part.filter(pc.equal(part["status"], "failed")).slice(0, NAMED - len(first)).to_pylist()
            first += [(row["split"], row["id"] or row["member"], row["reason"]) for row in failed]
    except DamagedFileError as error:
        return dg.AssetCheckResult(passed=False, severity=WARN, metadata={"problem": damage(store, error)})
    splits = sorted({split for split, _ in counts})
    found = {split: many_failed({status: counts[split, status] for status in STATUSES}) for split in splits}
    problem = "; ".join(f"{split}: {text}" for split, text in found.items() if text)
    metadata: dict[str, Any] = {
        "problem": problem or "none",
        "failed": sum(count for (_, status), count in counts.items() if status == "failed"),
    }
    if first:
        metadata["first failed images"] = dg.MetadataValue.md(markdown.table(("split", "image", "reason"), first))
    return dg.AssetCheckResult(passed=not problem, severity=WARN, metadata=metadata)


def _behind_end_marks(store: Store) -> str:
    count = _receipt(store, "image_catalog").summary.get(BEHIND_FIGURE)
    return f"{count} members of the catalog stand behind an end mark" if count else ""


def _strangers(store: Store) -> str:
    columns = ["landmark_id"]
    return curated.strangers(read_table(store, TRAIN_MANIFEST, columns), read_table(store, COMPETITION_TRAIN, columns))


def _overfull(store: Store) -> str:
    keep = need_receipt(store, "deduped_manifest").parameters["keep"]
    return curated.overfull(read_table(store, TRAIN_MANIFEST, ["landmark_id"]), keep)


def _in_both(store: Store) -> str:
    return curated.in_both(read_table(store, TRAIN_EXTRA, ["id"]), read_table(store, COMPETITION_TRAIN, ["id"]))


def _beyond_threshold(store: Store) -> str:
    manifest = read_table(store, TRAIN_MANIFEST, ["landmark_id", "origin"])
    return curated.beyond_threshold(manifest, need_receipt(store, "train_extra").parameters["threshold"])


def rows_check(asset: str) -> dg.AssetChecksDefinition:
    """A check that warns where a table that is read from CSV has lost many rows since the materialization before.

    A further materialization with nothing to do accepts the loss.
    """

    @dg.asset_check(
        asset=asset,
        name="keeps_its_rows",
        description=f"It has lost at most {curated.MOST_LOST:.0%} of its rows since the materialization before.",
    )
    def rows(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        records = context.instance.fetch_materializations(dg.AssetKey(asset), limit=2).records
        now, before = ([*(_rows(record) for record in records), None, None])[:2]
        found = curated.rows_lost(before, now) if before is not None and now is not None else ""
        return dg.AssetCheckResult(passed=not found, severity=WARN, metadata={"problem": found or "none"})

    return rows


def _rows(record: dg.EventLogRecord) -> float | None:
    entry = record.asset_materialization.metadata.get(ROW_COUNT) if record.asset_materialization is not None else None
    return float(entry.value) if entry is not None and isinstance(entry.value, int | float) else None


SPLITS = {"train_metadata": TRAIN_METADATA, "index_metadata": INDEX_METADATA, "test_metadata": TEST_METADATA}
SOLUTIONS = {"recognition_solution": RECOGNITION_SOLUTION, "retrieval_solution": RETRIEVAL_SOLUTION}


def _column(store: Store, asset: str, column: str = "id") -> pa.ChunkedArray | None:
    """A column of a metadata table; None where the table has not been made: its own checks look again once it is."""
    if find_receipt(store, asset) is None:
        return None
    return read_table(store, (SPLITS | SOLUTIONS)[asset], [column])[column]


def _in_another_split(asset: str) -> Callable[[Store], str]:
    def broken(store: Store) -> str:
        ids = _column(store, asset)
        others = {other: _column(store, other) for other in SPLITS if other != asset}
        found = [
            published.shared(ids, listed, other)
            for other, listed in others.items()
            if ids is not None and listed is not None
        ]
        return "; ".join(filter(None, found))

    return broken


def _not_test_images(*solutions: str) -> Callable[[Store], str]:
    def broken(store: Store) -> str:
        listed = _column(store, "test_metadata")
        queries = {solution: _column(store, solution) for solution in solutions}
        found = [
            published.unlisted(ids, listed, f"queries of {solution}", "test_metadata")
            for solution, ids in queries.items()
            if ids is not None and listed is not None
        ]
        return "; ".join(filter(None, found))

    return broken


def _not_index_images(store: Store) -> str:
    listed, named = _column(store, "index_metadata"), _column(store, "retrieval_solution", "index_ids")
    if listed is None or named is None:
        return ""
    return published.unlisted(pc.list_flatten(named), listed, "relevant images", "index_metadata")


def _leaks(store: Store) -> str:
    problem = curated.leaking(read_table(store, TRAIN_MANIFEST, ["id"]), leaks_into_test(store))
    return f"{problem}; [dedupe] remove_leaks = true drops them" if problem else ""


def _receipt(store: Store, asset: str) -> Receipt:
    """The receipt of an asset, whatever has become of its files: that is what a check looks at."""
    receipt = find_receipt(store, asset)
    return receipt if receipt is not None else need_receipt(store, asset)


def _unaccounted(store: Store) -> str:
    parameters = _receipt(store, "cleaned_manifest").parameters
    recipe = Verification(manifest=parameters["manifest"])
    return verification.unaccounted(
        read_table(store, CLEANED_MANIFEST, ["id", "decision"]), set_to_clean(store, recipe)
    )


def _unpaired(store: Store) -> str:
    columns = ["id", "decision", "partner", "inliers"]
    threshold = int(pc.min(read_table(store, VERIFICATION_CALIBRATION, ["threshold"])["threshold"]).as_py())
    return verification.unpaired(read_table(store, CLEANED_MANIFEST, columns), threshold)


def _featureless(store: Store) -> str:
    failed = _receipt(store, "cleaned_manifest").summary["failed"]
    return f"{failed} images" if failed else ""


def _too_often_wrong(store: Store) -> Found:
    receipt = _receipt(store, "verification_calibration")
    rate, features = (receipt.parameters[name] for name in ("max_false_rate", "max_features"))
    pairs, same_thing, least, exceeding = (
        int(receipt.summary[name] or 0) for name in ("pairs", "same_thing", "threshold_least", "exceeding")
    )
    judged = read_table(store, FALSE_IMAGES)
    problem = verification.without_foundation(pairs, same_thing, least, features)
    return Found(
        doubtful=problem or verification.too_often_wrong(judged, rate), note=verification.unjudged(judged, exceeding)
    )


def _without_picture(store: Store) -> str:
    return str(_receipt(store, "evaluation").summary.get("unanswerable") or "")


def _unrequested(store: Store) -> str:
    """Over the parts that are there, but for those of earlier annotations, which are to be made anew."""
    for name in store.names(f"receipts/{images.ASSET}"):
        key = name.removesuffix(".json")
        receipt = find_receipt(store, images.receipt_name(key))
        if receipt is None:
            continue
        requested = requests(store, int(key), receipt.parameters["parts"])
        if receipt.inputs["openimages_annotations"] != digest_of(requested.to_pylist()):
            continue
        index = read_table(store, OPENIMAGES_IMAGES, ["image_id", "status", "reason"], part=key)
        problem = openimages.unaccounted(index, requested.select(["image_id"]))
        if problem:
            return f"part {key}: {problem}"
    return ""


def _leaking(store: Store) -> str:
    parts = part_keys(_receipt(store, "openimages_classifier_dataset").parameters["parts"])
    index = [read_table(store, OPENIMAGES_IMAGES, ["image_id", "md5"], part=part) for part in parts]
    plan = read_table(store, OPENIMAGES_CLASSIFIER_DATASET, ["image_id", "split", "decision"])
    return openimages.leaking(plan, pa.concat_tables(index))


def _repeated_crops(store: Store) -> str:
    columns = ["image_id", "box", "decision", "file", "row"]
    return openimages.repeated_crops(read_table(store, OPENIMAGES_CLASSIFIER_DATASET, columns))


def _unfiltered(store: Store) -> str:
    manifest = str(_receipt(store, "non_landmark_filter").parameters["manifest"])
    return filtering.undecided(read_table(store, NON_LANDMARK_FILTER, ["id"]), kept_images(store, manifest))


def _implausible(store: Store) -> str:
    recall = _receipt(store, "non_landmark_filter").summary["held_out_crops_dropped"]
    found = read_table(store, NON_LANDMARK_FILTER, ["decision"])
    return filtering.implausible(found, float(recall) if isinstance(recall, float | int) else None)


def _too_often_dropped(store: Store) -> Found:
    receipt = _receipt(store, "non_landmark_filter")
    share, least = (
        float(value) if isinstance(value, float | int) else None
        for value in (receipt.summary["held_out_landmarks_dropped" + end] for end in ("", "_least"))
    )
    rate = float(receipt.parameters["max_false_rate"])
    return Found(doubtful=filtering.too_often_dropped(least, share, rate), note=filtering.unjudged(least))


def _incomplete(asset: str, store: Store) -> str:
    return incomplete(store, asset)


def _misanswered(store: Store) -> str:
    receipt = _receipt(store, "retrieval_submission")
    queries, index = (read_table(store, table, ["id"])["id"].to_pylist() for table in (TEST_METADATA, INDEX_METADATA))
    with store.open(RETRIEVAL_SUBMISSION) as file:
        lines = io.TextIOWrapper(file, encoding="utf-8", newline="")
        return misanswered(lines, queries, index, int(receipt.parameters["retrieved"]))


def _contradicted_size(asset: str) -> Callable[[Store], str]:
    return lambda store: str(_receipt(store, asset).summary.get("image_size_warning") or "")


def _unterminated(asset: str) -> Callable[[Store], str]:
    return lambda store: str(_receipt(store, asset).summary.get(UNTERMINATED) or "")


def _without_boxes(store: Store) -> str:
    return str(_receipt(store, "openimages_annotations").summary["categories_without_boxes"])


FROM_CSV = (
    "train_metadata",
    "train_attribution",
    "landmark_labels",
    "competition_train",
    "index_metadata",
    "test_metadata",
    "recognition_solution",
    "retrieval_solution",
    "openimages_annotations",
)
CHECKS = [
    *(
        _holds(
            asset,
            f"{asset}_shares_no_image",
            "No id is in two of train, index and test: an image that trains and is asked for leaks its answer.",
            _in_another_split(asset),
            severity=WARN,
            after=[other for other in SPLITS if other != asset],
        )
        for asset in SPLITS
    ),
    *(
        _holds(
            asset,
            f"{asset}_queries_are_test_images",
            "Every query with a published answer is in the table of the test images.",
            _not_test_images(*solutions),
            severity=WARN,
            after=after,
        )
        for asset, solutions, after in (
            ("test_metadata", tuple(SOLUTIONS), list(SOLUTIONS)),
            *((solution, (solution,), ["test_metadata"]) for solution in SOLUTIONS),
        )
    ),
    *(
        _holds(
            asset,
            f"{asset}_relevant_images_are_listed",
            "Every image that answers a retrieval query is in the table of the index images.",
            _not_index_images,
            severity=WARN,
            after=[other],
        )
        for asset, other in (("index_metadata", "retrieval_solution"), ("retrieval_solution", "index_metadata"))
    ),
    _holds(
        "index_metadata",
        "index_landmarks_are_of_index_images",
        "The landmarks published for the index are of images of the index, and not of none of them.",
        lambda store: published.mislabelled(_receipt(store, "index_metadata").summary),
        severity=WARN,
    ),
    few_images_failed,
    _holds(
        "image_catalog",
        "wanted_images_are_held",
        "Every wanted image is in a shard of the source, where all shards of its split are ingested.",
        lambda store: absent_problem(_receipt(store, "image_catalog").summary),
        severity=WARN,
    ),
    _holds(
        "image_catalog",
        "nothing_behind_end_marks",
        "No shard has members or other bytes behind the end mark of its TAR, where readers of TARs do not look.",
        _behind_end_marks,
        severity=WARN,
    ),
    _holds(
        "train_manifest",
        "classes_of_the_competition",
        "Every landmark that trains is one of the competition's.",
        _strangers,
    ),
    _holds("train_manifest", "class_sizes", "No class has more images than dedupe keeps.", _overfull),
    _holds(
        "image_ledger",
        "adds_up",
        "Requested = kept + dropped + failed, and what was kept trains.",
        lambda store: unbalanced(read_parts(store, IMAGE_LEDGER, BALANCED)),
    ),
    _holds(
        "image_catalog",
        "hashes_present",
        "Every stored image has its difference hash and the digest of its bytes.",
        lambda store: curated.unhashed(read_parts(store, IMAGE_CATALOG, ["status", "dhash", "stored_xxh3"])),
    ),
    _holds("train_extra", "no_image_in_both_sets", "No planned extra is of the competition's set.", _in_both),
    _holds(
        "train_manifest", "filled_to_threshold", "No class that was filled is beyond the threshold.", _beyond_threshold
    ),
    _holds(
        "train_manifest",
        "no_leak",
        "No image that trains is a near-duplicate of a test image.",
        _leaks,
        severity=WARN,
    ),
    _holds(
        "verification_calibration",
        "seldom_wrong",
        "No more foreign images stay than the recipe allows, judged on landmarks that chose no threshold.",
        _too_often_wrong,
        severity=WARN,
    ),
    _holds(
        "evaluation",
        "queries_have_pictures",
        "Every scored query has a stored picture; one without counts as answered wrong.",
        _without_picture,
        severity=WARN,
    ),
    _holds("cleaned_manifest", "all_decided", "Every image of the set that is cleaned has a decision.", _unaccounted),
    _holds(
        "cleaned_manifest",
        "features_found",
        "No image's local features failed; the manifest gives the reason of each that did.",
        _featureless,
        severity=WARN,
    ),
    _holds("cleaned_manifest", "kept_have_partners", "Every kept image has a partner with enough inliers.", _unpaired),
    _holds(
        "openimages_annotations",
        "categories_have_boxes",
        "Every category of the recipe has a usable box.",
        _without_boxes,
        severity=WARN,
    ),
    _holds(
        "openimages_images",
        "requested_are_accounted_for",
        "Requested = obtained + missing, each missing one with a reason.",
        _unrequested,
    ),
    _holds("openimages_classifier_dataset", "no_crop_twice", "No box stands in the files twice.", _repeated_crops),
    _holds(
        "openimages_classifier_dataset", "no_image_in_both_splits", "No image is in train and in held_out.", _leaking
    ),
    _holds(
        "non_landmark_filter",
        "filter_decides_all",
        "Every image of the set that is filtered has a decision.",
        _unfiltered,
    ),
    _holds(
        "non_landmark_filter",
        "filter_is_plausible",
        "It drops a small share of the set, and most of the held-out crops.",
        _implausible,
        severity=WARN,
    ),
    _holds(
        "non_landmark_filter",
        "landmarks_seldom_dropped",
        "No more landmark photographs are dropped than the recipe allows, judged on landmarks that chose no threshold.",
        _too_often_dropped,
        severity=WARN,
    ),
    *(
        _holds(
            asset,
            f"{asset}_image_size",
            "An external network is used at the image size that its file declares.",
            _contradicted_size(asset),
            severity=WARN,
        )
        for asset in ("embedder", "non_landmark_classifier")
    ),
    *(
        _holds(
            asset,
            f"{asset}_ends_in_newline",
            "Every CSV that it was made from ends in a line end: a file without one may be cut.",
            _unterminated(asset),
            severity=WARN,
        )
        for asset in FROM_CSV
    ),
    *(rows_check(asset) for asset in FROM_CSV),
    *(
        _holds(
            asset,
            f"{asset}_is_complete",
            "Its files hold every image that the manifest keeps, and are as long as they were written.",
            functools.partial(_incomplete, asset),
        )
        for asset in ("train_tfrecords", "train_zip")
    ),
    _holds(
        "retrieval_submission",
        "every_query_has_a_row",
        "One row per test image, in their order, with images of the index, none of them twice.",
        _misanswered,
    ),
]
