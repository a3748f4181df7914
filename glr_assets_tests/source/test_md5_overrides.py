"""The list of published MD5 sums known to be wrong: how it is checked, and what it changes."""

from __future__ import annotations

import hashlib
import shutil
from datetime import date
from pathlib import Path

import pytest

from glr_assets.errors import SourceError
from glr_assets.source import BucketSource
from glr_assets.source.md5_overrides import FILE, Md5Override, load_overrides, packaged_overrides

WRONG, RIGHT, OTHER = "0" * 32, "1" * 32, "2" * 32
ENTRY = {
    "split": '"train"',
    "shard": '"000"',
    "published": f'"{WRONG}"',
    "actual": f'"{RIGHT}"',
    "evidence": '"two downloads"',
    "reviewed": "2025-01-31",
}


def written(folder: Path, *entries: dict[str, str]) -> Path:
    path = folder / "overrides.toml"
    path.write_text(
        "".join("[[override]]\n" + "".join(f"{key} = {value}\n" for key, value in e.items()) for e in entries)
    )
    return path


def test_the_projects_list_is_packaged_and_has_no_entries() -> None:
    assert packaged_overrides() == ()
    text = (Path(load_overrides.__code__.co_filename).with_name(FILE)).read_text()
    shown = "\n".join(line[4:] for line in text.splitlines() if line.startswith("#   "))
    assert "[[override]]" in shown  # the example of its comment is one that can be loaded


def test_the_example_in_the_lists_comment_is_right(tmp_path: Path) -> None:
    text = (Path(load_overrides.__code__.co_filename).with_name(FILE)).read_text()
    path = tmp_path / "example.toml"
    path.write_text("\n".join(line[4:] for line in text.splitlines() if line.startswith("#   ")))
    (entry,) = load_overrides(path)
    assert (entry.split, entry.shard, entry.reviewed) == ("train", "042", date(2025, 1, 31))


def test_entries_are_loaded(tmp_path: Path) -> None:
    entries = load_overrides(written(tmp_path, ENTRY, ENTRY | {"shard": '"001"'}, ENTRY | {"published": f'"{OTHER}"'}))
    assert [(e.shard, e.published) for e in entries] == [("000", WRONG), ("001", WRONG), ("000", OTHER)]
    assert load_overrides(written(tmp_path)) == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"published": f'"{WRONG[1:]}"'}, "override 2 published"),
        ({"actual": '"' + "g" * 32 + '"'}, "override 2 actual"),
        ({"actual": '"' + "A" * 32 + '"'}, "override 2 actual"),
        ({"actual": f'"{WRONG}"'}, "nothing to correct"),
        ({"split": '"validation"'}, "override 2 split"),
        ({"shard": "0"}, "override 2 shard"),
        ({"shard": '"../x"'}, "override 2 shard"),
        ({"evidence": '" "'}, "override 2 evidence"),
        ({"reviewed": '"soon"'}, "override 2 reviewed"),
        ({"why": '"x"'}, "override 2 why"),
        ({"shard": '"001"'}, "override 2 is for train/001"),
    ],
)
def test_an_entry_that_is_wrong_is_named(tmp_path: Path, change: dict[str, str], words: str) -> None:
    path = written(tmp_path, ENTRY | {"shard": '"001"'}, ENTRY | change)
    with pytest.raises(SourceError) as error:
        load_overrides(path)
    assert str(path) in str(error.value)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", sorted(ENTRY))
def test_an_entry_that_lacks_something_is_named(tmp_path: Path, key: str) -> None:
    path = written(tmp_path, {name: value for name, value in ENTRY.items() if name != key})
    with pytest.raises(SourceError, match=f"override 1 {key}: Field required"):
        load_overrides(path)


@pytest.mark.parametrize("text", ["[[override]", "override = 3", "other = 1", "[override]\n"])
def test_a_file_of_another_form(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(SourceError, match=r"x\.toml"):
        load_overrides(path)
    with pytest.raises(SourceError, match=r"absent\.toml"):
        load_overrides(tmp_path / "absent.toml")


# In a bucket whose published sum is wrong


@pytest.fixture
def wrong(bucket: str, tmp_path: Path) -> tuple[Path, str]:
    """A bucket whose first shard's md5 file is wrong, and the sum that would be right."""
    root = Path(shutil.copytree(bucket, tmp_path / "bucket"))
    (root / "md5sum/train/md5.images_000.txt").write_text(f"{WRONG}  images_000.tar\n")
    return root, hashlib.md5((root / "train/images_000.tar").read_bytes()).hexdigest()


def override(actual: str, **changes: str) -> Md5Override:
    given = {"split": "train", "shard": "000", "published": WRONG, "actual": actual, "evidence": "here"} | changes
    return Md5Override.model_validate(given | {"reviewed": date(2025, 1, 31)})


def count(source: BucketSource) -> int:
    return sum(1 for _ in source.members("train", "000", require_md5=True, max_member_bytes=2**20))


def test_an_override_makes_its_shard_pass(wrong: tuple[Path, str]) -> None:
    root, actual = wrong
    with pytest.raises(SourceError, match=f"MD5 is {actual}, expected {WRONG}"):
        count(BucketSource(str(root)))
    source = BucketSource(str(root), overrides=[override(actual)])
    assert count(source) > 0
    assert source.shard_digest("train", "000", require_md5=True) == actual
    assert source.shard_digest("train", "001", require_md5=True) == BucketSource(str(root)).shard_digest(
        "train", "001", require_md5=True
    )


@pytest.mark.parametrize("change", [{"shard": "001"}, {"split": "index"}, {"published": OTHER}])
def test_an_override_is_for_its_split_its_shard_and_its_sum_alone(
    wrong: tuple[Path, str], change: dict[str, str]
) -> None:
    root, actual = wrong
    source = BucketSource(str(root), overrides=[override(actual, **change)])
    assert source.shard_digest("train", "000", require_md5=True) == WRONG
    with pytest.raises(SourceError, match=f"expected {WRONG}"):
        count(source)


def test_an_override_verifies_too(wrong: tuple[Path, str]) -> None:
    root, actual = wrong
    with pytest.raises(SourceError, match=f"MD5 is {actual}, expected {RIGHT}.*md5_overrides"):
        count(BucketSource(str(root), overrides=[override(RIGHT)]))
