"""A part's images: requested = obtained + missing, the same bytes whatever happens, nothing fetched twice."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from glr_assets.errors import MissingInputError, RecipeError
from glr_assets.openimages.annotations import make_openimages_annotations
from glr_assets.openimages.fetching import Fetcher
from glr_assets.openimages.images import make_openimages_images
from glr_assets.openimages.parts import part_keys
from glr_assets.openimages.root import OpenImagesRoot
from glr_assets.openimages.schemas import OPENIMAGES_IMAGES, STORED_IMAGES
from glr_assets.ranges import Retry
from glr_assets.receipts import Made
from glr_assets.recipes import Execution, OpenImages, load_recipe
from glr_assets.store import Store
from glr_assets.tables import problems, read_table
from glr_assets_tests.lineage import digests
from glr_assets_tests.openimages.handmade import ONE, RECIPE, Root, box, jpeg, md5, pixels
from glr_assets_tests.openimages.server import Site

FETCHED = RECIPE.model_copy(update={"fetch": True, "fetch_hosts": ("localhost",)})


def rows_of(store: Store, part: str = "00") -> dict[str, dict]:
    return {row["image_id"]: row for row in read_table(store, OPENIMAGES_IMAGES, part=part).to_pylist()}


def made(
    root: OpenImagesRoot, store: Store, recipe: OpenImages = RECIPE, execution: Execution = ONE, part: str = "00"
) -> Made:
    make_openimages_annotations(root, store, recipe, 0)
    fetcher = Fetcher(recipe, schemes=("http",), retry=Retry(attempts=2, first_wait=0.01))
    return make_openimages_images(root, store, part, recipe, execution, fetcher=fetcher)


def test_images_are_stored_byte_for_byte_and_what_is_missing_has_a_reason(root: Root, store: Store) -> None:
    good, cut = jpeg(pixels(1)), jpeg(pixels(2))[:500]
    root.add("good", good, box("good"), box("good", "/m/dog"))
    root.add("cut", cut, box("cut"), original=b"another")
    root.add("gone", None, box("gone"), original=good)
    root.add("wrong", jpeg(pixels(3)), box("wrong"))
    root.images[-1]["OriginalMD5"] = md5(b"another")
    root.add("unwanted", good, box("unwanted", "/m/fox"))
    root.add("unusable", good, box("unusable", edges=(0, 0, 0, 1)))
    summary = made(root.write(), store).receipt.summary
    rows = rows_of(store)
    assert {name: row["reason"].split(":")[0] for name, row in rows.items()} == {
        "cut": "undecodable",
        "gone": "no file",
        "good": "",
        "wrong": "wrong MD5",
    }
    assert (summary["requested"], summary["obtained"], summary["missing"]) == (4, 1, 3)
    assert [summary[f"missing: {reason}"] for reason in ("no file", "undecodable", "wrong MD5")] == [1, 1, 1]
    assert summary["MD5: matches"] == 1
    with tarfile.open(fileobj=io.BytesIO(store.read(STORED_IMAGES.format(part="00")))) as tar:
        assert tar.getnames() == ["good.jpg"]
        member = tar.extractfile("good.jpg")
        assert member is not None
        assert member.read() == good
    row = rows["good"]
    assert store.read(STORED_IMAGES.format(part="00"), row["stored_offset"], row["stored_size"]) == good
    assert (row["width"], row["height"], row["mode"], row["origin"]) == (60, 40, "RGB", "root")
    assert row["license"] == "https://creativecommons.org/licenses/by/2.0/"
    assert problems(OPENIMAGES_IMAGES, read_table(store, OPENIMAGES_IMAGES, part="00")) == []


def test_every_image_is_in_one_part_alone(sample: OpenImagesRoot, store: Store) -> None:
    recipe = load_recipe("small").openimages.model_copy(update={"parts": 5})
    make_openimages_annotations(sample, store, recipe, 0)
    ids: list[str] = []
    for part in part_keys(5):
        summary = make_openimages_images(sample, store, part, recipe, ONE).receipt.summary
        ids += rows_of(store, part)
        assert summary["requested"] == summary["obtained"] + summary["missing"]  # type: ignore[operator]
    assert len(ids) == len(set(ids)) == 100


def test_workers_change_nothing(sample: OpenImagesRoot, tmp_path: Path) -> None:
    recipe = load_recipe("small").openimages
    found = []
    for workers in (1, 3):
        store = Store(str(tmp_path / f"store{workers}"))
        make_openimages_annotations(sample, store, recipe, 0)
        for part in part_keys(recipe.parts):
            make_openimages_images(sample, store, part, recipe, Execution(workers=workers))
        found.append(digests(Path(store.root)))
    assert found[0] == found[1]


def test_a_finished_part_is_known_and_a_changed_file_makes_it_anew(root: Root, store: Store) -> None:
    root.add("a1", jpeg(pixels(1)), box("a1"))
    root.add("b1", None, box("b1"), original=b"")
    opened = root.write()
    assert not made(opened, store).reused
    assert made(opened, store).reused
    # Another category whose images are those: the annotations are new, the list of images is not.
    assert made(opened, store, RECIPE.model_copy(update={"categories": ("Cat", "Dog", "Fox")})).reused
    root.files["b1"] = jpeg(pixels(2))
    again = made(root.write(), store)
    assert not again.reused
    assert again.receipt.summary["obtained"] == 2


def test_a_part_that_the_recipe_has_not_and_missing_annotations(root: Root, store: Store) -> None:
    opened = root.write()
    with pytest.raises(MissingInputError, match="openimages_annotations has not been made"):
        make_openimages_images(opened, store, "00", RECIPE, ONE)
    with pytest.raises(RecipeError, match="there is no part 01 of 1, they are 00 to 00"):
        made(opened, store, part="01")


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as opened:
        yield opened


def on_site(root: Root, site: Site, count: int = 6) -> OpenImagesRoot:
    """A root without files, whose images are on a site; the last is gone from it."""
    for number in range(count):
        data, name = jpeg(pixels(number)), f"i{number}"
        url = site.gives(f"/{name}.jpg", data) if number < count - 1 else site.url("/gone.jpg")
        root.add(name, None, box(name), original=data, OriginalURL=url)
    return root.write()


def test_what_the_root_lacks_is_fetched_and_verified(root: Root, store: Store, site: Site) -> None:
    root.add("here", jpeg(pixels(99)), box("here"))
    opened = on_site(root, site)
    site.gives("/i1.jpg", jpeg(pixels(77)))
    first = made(opened, store, FETCHED)
    rows = rows_of(store)
    assert rows["here"]["origin"] == "root"
    assert (rows["i0"]["origin"], rows["i0"]["md5_check"]) == ("fetched", "matches")
    assert rows["i1"]["reason"].startswith("wrong MD5")
    assert rows["i5"]["reason"] == "HTTP 404"
    summary = first.receipt.summary
    assert (summary["requested"], summary["obtained"], summary["fetched"], summary["missing"]) == (7, 5, 4, 2)
    assert first.run == {"fetched_now": 6}
    assert not list((Path(store.root) / "openimages" / "fetched").rglob("*.jpg"))


def test_nothing_is_fetched_where_the_recipe_does_not_say_so(root: Root, store: Store, site: Site) -> None:
    made(on_site(root, site), store)
    assert {row["reason"].split(":")[0] for row in rows_of(store).values()} == {"no file"}
    assert not site.asked


def test_a_killed_part_goes_on_where_it_was_and_leaves_the_same_bytes(
    root: Root, store: Store, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = on_site(root, site)
    undisturbed = Store(str(tmp_path / "undisturbed"))
    made(opened, undisturbed, FETCHED)
    site.asked.clear()
    original, left = Fetcher.fetch, [3]

    def killed(self: Fetcher, url: str) -> object:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return original(self, url)

    monkeypatch.setattr(Fetcher, "fetch", killed)
    monkeypatch.setattr("glr_assets.openimages.images.CONNECTIONS", 1)
    with pytest.raises(KeyboardInterrupt):
        made(opened, store, FETCHED)
    assert not store.exists(STORED_IMAGES.format(part="00"))
    monkeypatch.setattr(Fetcher, "fetch", original)
    assert made(opened, store, FETCHED).run == {"fetched_now": 3}
    assert set(site.asked.values()) == {1}
    assert digests(Path(store.root)) == digests(Path(undisturbed.root))


def test_missing_images_alone_are_tried_again(root: Root, store: Store, site: Site, tmp_path: Path) -> None:
    opened = on_site(root, site)
    made(opened, store, FETCHED)
    site.asked.clear()
    assert made(opened, store, FETCHED).reused
    site.gives("/gone.jpg", jpeg(pixels(5)))
    again = made(opened, store, FETCHED, Execution(workers=1, retry_failed=True))
    assert site.asked == {"/gone.jpg": 1}
    assert again.receipt.summary["missing"] == 0
    whole = Store(str(tmp_path / "whole"))
    made(opened, whole, FETCHED)
    assert digests(Path(store.root)) == digests(Path(whole.root))


def test_a_damaged_earlier_part_is_fetched_anew(root: Root, store: Store, site: Site) -> None:
    opened = on_site(root, site)
    made(opened, store, FETCHED)
    row = rows_of(store)["i2"]
    path = Path(store.root) / STORED_IMAGES.format(part="00")
    data = bytearray(path.read_bytes())
    data[row["stored_offset"] + 40] ^= 1
    path.write_bytes(bytes(data))
    site.asked.clear()
    made(opened, store, FETCHED, Execution(workers=1, retry_failed=True))
    assert site.asked == {"/i2.jpg": 1, "/gone.jpg": 1}
    assert rows_of(store)["i2"]["md5_check"] == "matches"
