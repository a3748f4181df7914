"""A small bucket in which every fate an image can meet is met, followed from its tables to the ledger and `why`."""

from __future__ import annotations

import os
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

import pyarrow as pa
import pytest

from glr_assets.curation.checks import overfull, strangers
from glr_assets.curation.fates import MISSING_REASON
from glr_assets.curation.schemas import DEDUPED_MANIFEST, TRAIN_EXTRA, TRAIN_MANIFEST
from glr_assets.errors import GlrError, MissingInputError
from glr_assets.images.reader import ImageReader
from glr_assets.ledger import image_ledger as ledger_module
from glr_assets.ledger.account import account_lines, image_account
from glr_assets.ledger.balance import unbalanced
from glr_assets.ledger.image_ledger import ABSENT_REASON, ledger_pieces, make_image_ledger
from glr_assets.ledger.schemas import IMAGE_LEDGER
from glr_assets.ledger.why import ImageStory, dropped, dropped_lines, image_ids, told, why
from glr_assets.manifests import kept_images
from glr_assets.metadata.schemas import (
    COMPETITION_TRAIN,
    INDEX_METADATA,
    TEST_METADATA,
    TRAIN_ATTRIBUTION,
    TRAIN_METADATA,
)
from glr_assets.planning.schemas import FILL_PLAN
from glr_assets.receipts import Made
from glr_assets.source import BucketSource
from glr_assets.store import Store
from glr_assets.tables import problems, read_table, write_table
from glr_assets_tests.images.handmade import (
    TINY,
    Bucket,
    Entry,
    identifier,
    make_curated,
    make_tables,
    photo,
    picture,
    tar_of,
    write_shard,
)

RECIPE = TINY.overridden({"fill": {"threshold": 3, "reserves": 2}, "dedupe": {"keep": 3, "sample": 4}})
LARGE, SMALL, LONELY, FOREIGN = 10, 20, 30, 40


@dataclass
class Lineage:
    store: Store
    folder: Path
    made: dict[str, Made]
    large: list[str]
    small: list[str]
    plan: list[str]
    lonely: str
    foreign: str
    stranger: str
    index: str
    test: str
    missing_test: str

    def story(self, image_id: str) -> ImageStory:
        (found,) = why(self.store, image_id)
        return found


@pytest.fixture(scope="module")
def lineage(tmp_path_factory: pytest.TempPathFactory) -> Lineage:
    folder, store = tmp_path_factory.mktemp("fates") / "bucket", Store(str(tmp_path_factory.mktemp("store")))
    # LARGE: 8 images in the competition's set, one corrupt and one in no shard: 6 stored, 4 compared, 3 kept.
    large = [identifier(n) for n in range(8)]
    # SMALL: 2 in the competition's set, one corrupt; 6 beside it, of which 1 extra and 2 reserves are planned.
    small = [identifier(n) for n in range(10, 18)]
    lonely, foreign, stranger, index, test, missing_test = (identifier(n) for n in range(20, 26))
    train = dict.fromkeys(large, LARGE) | dict.fromkeys(small, SMALL) | {lonely: LONELY, foreign: FOREIGN}
    competition = [*large, *small[:2], lonely]
    names = {LARGE: "Large_Tower", SMALL: "Small_%26_Old_Gate", LONELY: "Lonely_Rock", FOREIGN: "Foreign_Hut"}
    bucket = Bucket(train, competition, index={index: 900}, test=[test, missing_test], names=names)
    bucket.write(folder)
    source = BucketSource(str(folder))
    make_tables(source, store, RECIPE)
    plan = [row["id"] for row in sorted(read_table(store, FILL_PLAN).to_pylist(), key=lambda row: row["rank"])]
    assert len(plan) == 3
    corrupt = {large[6], small[1], plan[0]}
    data = {image_id: b"<html>" if image_id in corrupt else picture(n) for n, image_id in enumerate(train)}
    first = [photo(image_id, data[image_id]) for image_id in large[:7]]
    second = [photo(image_id, data[image_id]) for image_id in [*small, lonely, foreign]]
    second += [photo(stranger, picture(90)), photo(large[0], picture(91)), Entry("l.jpg", type=tarfile.SYMTYPE)]
    for split, key, entries in (
        ("train", "000", first),
        ("train", "001", second),
        ("index", "000", [photo(index, picture(92))]),
        ("test", "000", [photo(test, picture(93))]),
    ):
        write_shard(folder, split, key, tar_of(entries))
    made = make_curated(source, store, RECIPE)
    return Lineage(store, folder, made, large, small, plan, lonely, foreign, stranger, index, test, missing_test)


def test_every_id_of_every_split_has_one_row(lineage: Lineage) -> None:
    ledger = read_table(lineage.store, IMAGE_LEDGER)
    assert problems(IMAGE_LEDGER, ledger) == []
    listed = {("train", image_id) for image_id in (*lineage.large, *lineage.small, lineage.lonely, lineage.foreign)}
    listed |= {("train", lineage.stranger), ("index", lineage.index), ("train", "l")}
    listed |= {("test", lineage.test), ("test", lineage.missing_test)}
    rows = list(zip(ledger["split"].to_pylist(), ledger["id"].to_pylist(), strict=True))
    assert set(rows) == listed
    assert rows == sorted(rows)


@pytest.mark.parametrize("piece", [1, 3, 7])
def test_the_ledger_is_the_same_in_pieces_of_any_size(
    lineage: Lineage, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "PIECE", piece)
    pieces = list(ledger_pieces(lineage.store))
    assert max(part.num_rows for part in pieces) == piece
    assert pa.concat_tables(pieces).equals(read_table(lineage.store, IMAGE_LEDGER))


def test_without_published_attribution_nobody_is_named(lineage: Lineage, tmp_path: Path) -> None:
    shutil.copytree(lineage.store.url, tmp_path / "store")
    store = Store(str(tmp_path / "store"))
    with store.writing(TRAIN_ATTRIBUTION.path) as file:
        write_table(TRAIN_ATTRIBUTION, TRAIN_ATTRIBUTION.empty(), file)
    names = ["author", "license"]
    found = pa.concat_tables(ledger_pieces(store))
    assert [found[name].null_count for name in names] == [found.num_rows] * 2
    others = [name for name in found.schema.names if name not in names]
    assert found.select(others).equals(read_table(lineage.store, IMAGE_LEDGER, others))


def test_ledger_adds_up(lineage: Lineage) -> None:
    ledger = read_table(lineage.store, IMAGE_LEDGER)
    summary = lineage.made["image_ledger"].receipt.summary
    # 11 of the competition and 3 planned. Kept: 3 of LARGE, 1 of SMALL and 2 planned, 1 lonely.
    # Dropped: 3 of LARGE. Failed: 2 of LARGE, 1 of SMALL and the corrupt extra.
    expected = {"requested": 14, "kept": 7, "dropped": 3, "failed": 4, "in_train": 7}
    absent = {"train_wanted_in_no_shard": 1, "index_wanted_in_no_shard": 0, "test_wanted_in_no_shard": 1}
    assert summary == {"rows": ledger.num_rows} | expected | absent
    assert unbalanced([ledger]) == ""
    manifest = read_table(lineage.store, TRAIN_MANIFEST)
    assert strangers(manifest, read_table(lineage.store, COMPETITION_TRAIN)) == ""
    assert overfull(manifest, RECIPE.dedupe.keep) == ""
    trains = {row["id"] for row in ledger.to_pylist() if row["in_train"]}
    assert trains == set(manifest["id"].to_pylist())
    assert trains <= set(ImageReader.of_split(lineage.store, "train").ids)


def test_summaries_of_the_sets_count_what_they_hold(lineage: Lineage) -> None:
    summaries = {name: made.receipt.summary for name, made in lineage.made.items()}
    dropped_for = {"near_duplicates": 0, "leaks": 0, "less_diverse": 1, "not_compared": 2}
    assert summaries["deduped_manifest"] == {"requested": 11, "kept": 5, "dropped": 3, "failed": 3} | dropped_for
    # The lonely landmark has one of three images and nothing to fill it with.
    short = {"passed_over": 0, "classes_short": 1, "shortfall": 2}
    assert summaries["train_extra"] == {"requested": 3, "kept": 2, "dropped": 0, "failed": 1} | short
    assert summaries["train_manifest"] == {"rows": 7, "from_competition": 5, "extras": 2, "classes": 3}


def test_kept_images_of_a_manifest_are_its_kept_rows(lineage: Lineage) -> None:
    for name, table in (("deduped_manifest", DEDUPED_MANIFEST), ("train_manifest", TRAIN_MANIFEST)):
        rows = read_table(lineage.store, table).to_pylist()
        kept = sorted((row["id"], row["landmark_id"], row["shard"]) for row in rows if row["decision"] == "kept")
        assert [tuple(row.values()) for row in kept_images(lineage.store, name).to_pylist()] == kept


def test_a_rerun_finds_everything_made(lineage: Lineage) -> None:
    again = make_curated(BucketSource(str(lineage.folder)), lineage.store, RECIPE)
    assert all(made.reused for made in again.values())


def decisions(story: ImageStory) -> list[tuple[str, str]]:
    return [(decision.asset, decision.decision) for decision in story.decisions]


def of_decision(lineage: Lineage, word: str) -> list[ImageStory]:
    stories = [lineage.story(image_id) for image_id in lineage.large[:6]]
    return [story for story in stories if story.decisions[-1].decision == word]


def test_why_of_a_kept_image_tells_source_place_and_sets(lineage: Lineage) -> None:
    story = of_decision(lineage, "kept")[0]
    assert decisions(story) == [
        ("competition_train", "competition"),
        ("train_images/000", "stored"),
        ("deduped_manifest", "kept"),
    ]
    assert story.sets == ["deduped_manifest", "train_manifest"]
    assert story.landmark_id == LARGE
    assert story.landmark == "Large Tower"
    assert (story.url, story.author, story.license, story.title) == (
        f"https://x.org/{story.id}",
        f"Ann {story.id[:3]}",
        "CC BY 4.0",
        f"File:{story.id}.jpg",
    )
    assert story.source is not None
    source = (lineage.folder / story.source.path).read_bytes()
    assert source[story.source.offset :][: story.source.size] == picture(lineage.large.index(story.id))
    assert story.stored is not None
    stored = lineage.store.read(story.stored.path, story.stored.offset, story.stored.size)
    assert stored == ImageReader.of_split(lineage.store, "train").read(story.id)
    assert all(decision.version for decision in story.decisions)
    assert (story.width, story.height) == (48, 32)
    assert story.dhash is not None
    assert len(story.dhash) == 16


def test_why_of_a_dropped_image_names_the_kept_one_that_is_most_like_it(lineage: Lineage) -> None:
    dropped = of_decision(lineage, "dropped")
    assert len(dropped) == 3
    kept = {story.id: story for story in of_decision(lineage, "kept")}
    reasons = {story.decisions[-1].reason for story in dropped}
    assert reasons == {
        "less diverse than the 3 kept of its class",
        "not among the 4 images of its class compared",
    }
    for story in dropped:
        last = story.decisions[-1]
        assert last.partner in kept
        distances = {i: (int(story.dhash or "", 16) ^ int(k.dhash or "", 16)).bit_count() for i, k in kept.items()}
        assert last.distance == distances[last.partner] == min(distances.values())
        assert story.sets == []
        text = told(story)
        assert f"most like {last.partner}, {last.distance} bits of dhash apart" in text
        assert text.splitlines()[-1].endswith("none")


@pytest.mark.parametrize(
    ("which", "expected", "reason"),
    [
        (
            "corrupt",
            [("competition_train", "competition"), ("train_images/000", "failed"), ("deduped_manifest", "failed")],
            "no image that can be opened: starts with 3c 68 74 6d 6c 3e",
        ),
        (
            "missing",
            [("competition_train", "competition"), ("train_images", "missing"), ("deduped_manifest", "failed")],
            MISSING_REASON,
        ),
        (
            "corrupt extra",
            [("fill_plan", "extra"), ("train_images/001", "failed"), ("train_extra", "failed")],
            "no image that can be opened: starts with 3c 68 74 6d 6c 3e",
        ),
        (
            "reserve",
            [("fill_plan", "reserve"), ("train_images/001", "stored"), ("train_extra", "kept")],
            "reserve in the place of an image that cannot be used",
        ),
        ("unwanted", [("train_images/001", "skipped")], "not wanted by the plan"),
        ("foreign", [("train_images/001", "skipped")], "not wanted by the plan"),
        ("stranger", [("train_images/001", "skipped")], "unknown id: not in the split's table"),
        ("index", [("index_images/000", "stored")], "downsized and stored"),
        ("test", [("test_images/000", "stored")], "downsized and stored"),
        ("missing test", [("test_images", "missing")], ABSENT_REASON),
    ],
)
def test_why_tells_each_fate(lineage: Lineage, which: str, expected: list[tuple[str, str]], reason: str) -> None:
    image_id = {
        "corrupt": lineage.large[6],
        "missing": lineage.large[7],
        "corrupt extra": lineage.plan[0],
        "reserve": lineage.plan[1],
        "unwanted": next(i for i in lineage.small[2:] if i not in lineage.plan),
        "foreign": lineage.foreign,
        "stranger": lineage.stranger,
        "index": lineage.index,
        "test": lineage.test,
        "missing test": lineage.missing_test,
    }[which]
    story = lineage.story(image_id)
    assert decisions(story) == expected
    assert story.decisions[-1].reason == reason
    sets = {"reserve": ["train_extra", "train_manifest"], "index": ["index_images"], "test": ["test_images"]}
    assert story.sets == sets.get(which, [])
    assert (story.stored is not None) == ("stored" in dict(expected).values())
    assert (story.source is None) == ("missing" in which)
    if which == "index":
        assert (story.landmark_id, story.index_landmark_id, story.url) == (None, 900, None)
    text = told(story)
    assert image_id in text.splitlines()[0]
    assert reason in text
    assert text.endswith("\n")
    assert ImageStory.model_validate_json(story.model_dump_json()) == story


def test_why_of_an_image_in_two_shards_tells_the_stored_one(lineage: Lineage) -> None:
    story = lineage.story(lineage.large[0])
    assert story.shard == "000"
    assert story.source is not None
    assert story.source.path == "train/images_000.tar"


def test_why_of_an_image_nobody_names_says_so(lineage: Lineage) -> None:
    with pytest.raises(GlrError, match=r"'nobody': no table and no ingested shard"):
        why(lineage.store, "nobody")
    for hostile in ("", "' or 1=1", "../..", "\0", "\udcff", "%ff", "\ud800", "x/\udcff.jpg"):
        with pytest.raises(GlrError, match="no table and no ingested shard"):
            why(lineage.store, hostile)


def test_a_file_name_that_is_no_utf8_is_found_by_its_bytes(lineage: Lineage, tmp_path: Path) -> None:
    """`glr pack` writes such names percent-encoded; the shell gives their bytes, which Python holds as surrogates."""
    store = Store(str(tmp_path / "store"))
    rows = read_table(lineage.store, TRAIN_METADATA).to_pylist()
    wanted = rows[0]["id"]
    rows[0]["url"] = "gates/" + quote(b"S\xffd.JPG")
    for table in (TRAIN_METADATA, TRAIN_ATTRIBUTION, INDEX_METADATA, TEST_METADATA):
        held = TRAIN_METADATA.rows(rows) if table is TRAIN_METADATA else read_table(lineage.store, table)
        with store.writing(table.path) as file:
            write_table(table, held, file)
    assert image_ids(store, os.fsdecode(b"gates/s\xffd.jpg")) == [wanted]
    assert image_ids(store, "S%FFd.JPG") == [wanted]
    assert image_ids(store, os.fsdecode(b"s\xfed.jpg")) == []


def test_why_before_the_ledger_is_made_says_what_to_do(store: Store) -> None:
    with pytest.raises(MissingInputError, match=r"image_ledger.parquet is missing"):
        why(store, "a")
    with pytest.raises(MissingInputError, match="train_metadata has not been made"):
        make_image_ledger(store)


def test_an_id_of_two_splits_has_a_story_in_each(tmp_path: Path, store: Store) -> None:
    image_id = identifier(0)
    shard = {"000": tar_of([photo(image_id, picture(0))])}
    bucket = Bucket({image_id: 1}, [image_id], {"train": shard, "index": shard}, {image_id: 900})
    make_curated(BucketSource(bucket.write(tmp_path / "bucket")), store, TINY)
    stories = why(store, image_id)
    assert [(story.split, story.landmark_id, story.index_landmark_id) for story in stories] == [
        ("index", None, 900),
        ("train", 1, None),
    ]


def test_sets_lie_where_their_tables_say(lineage: Lineage) -> None:
    for table in (DEDUPED_MANIFEST, TRAIN_EXTRA, TRAIN_MANIFEST):
        assert problems(table, read_table(lineage.store, table)) == []


def test_dropped_images_are_listed_by_landmark_and_reason(lineage: Lineage) -> None:
    ledger = read_table(lineage.store, IMAGE_LEDGER).to_pylist()
    expected = {row["id"] for row in ledger if row["status"] == "failed" or row["decision"] in {"dropped", "failed"}}
    found = dropped(lineage.store)
    assert {one.id for one in found} == expected
    assert lineage.large[6] in expected
    of_small = {one.id for one in dropped(lineage.store, landmark="old gate")}
    assert (
        of_small
        == {one.id for one in found if one.landmark_id == SMALL}
        == {one.id for one in dropped(lineage.store, landmark=str(SMALL))}
    )
    assert of_small
    for nobody in ("nonsense", "\udcff", "-1"):
        with pytest.raises(GlrError, match=r"no landmark of .* has this id"):
            dropped(lineage.store, landmark=nobody)
    assert {one.reason for one in dropped(lineage.store, reason="DIVERSE")} == {
        one.reason for one in found if "diverse" in one.reason
    }
    assert dropped_lines(found).endswith(f"{len(expected)} images\n")


def test_images_are_found_by_what_the_tables_tell(lineage: Lineage) -> None:
    row = read_table(lineage.store, TRAIN_ATTRIBUTION).to_pylist()[0]
    names = [row["title"].upper(), row["url"], unquote(row["url"]).rpartition("/")[2]]
    assert all(row["id"] in [story.id for story in why(lineage.store, name)] for name in names)
    with pytest.raises(GlrError, match="by id, file name, title or URL"):
        why(lineage.store, "nowhere.jpg")


def test_the_account_adds_up_and_names_each_fate(lineage: Lineage) -> None:
    account = image_account(lineage.store)
    ledger = [row for row in read_table(lineage.store, IMAGE_LEDGER).to_pylist() if row["landmark_id"] is not None]
    assert sum(account["train"].values()) == len(ledger)
    assert account["train"]["trains"] == read_table(lineage.store, TRAIN_MANIFEST).num_rows
    assert account["train"]["failed at ingest"] == sum(row["status"] == "failed" for row in ledger)
    assert account["test"] == {"stored": 1, "without a picture": 1}
    lines = account_lines(account, 1)
    assert lines[-1] == "queries  1 of 2 have no picture and count as unanswered"
