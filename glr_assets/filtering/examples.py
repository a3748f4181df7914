"""What the classifier learns from: labelled crops of Open Images, and photographs of the set that is filtered.

Of the photographs all teach, also those that geometry did not verify, though some of these show no landmark: views of
a hall or a detail look unlike the verified ones, and a classifier that has seen none of them takes them for anything.
The few wrong ones are told by scores that are made without them (`probe`; Northcutt, Jiang and Chuang, "Confident
learning", JAIR 2021). The threshold is set by verified photographs alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.curation.duplicate_groups import duplicate_groups
from glr_assets.errors import ClassifierError
from glr_assets.images.reader import ImageReader
from glr_assets.manifests import kept_images
from glr_assets.openimages.crop_files import png, read_crops
from glr_assets.openimages.plan import KEPT, TRAIN
from glr_assets.openimages.schemas import OPENIMAGES_CLASSIFIER_DATASET
from glr_assets.recipes import Recipe
from glr_assets.seeded import seeded_hash
from glr_assets.store import Store
from glr_assets.tables import fixed_width, read_table
from glr_assets.training.photographs import ReadAhead, TrainingSet
from glr_assets.verification.schemas import CLEANED_MANIFEST

#: Crops of a category that are learned from, at most: enough to tell six kinds of things from buildings, in memory.
MOST_CROPS: Final = 4000
_PLACE = ("image_id", "box", "class", "split", "file", "row")


@dataclass(frozen=True)
class Examples:
    """Pictures whose class is known: the categories of Open Images in the recipe's order, and last `a landmark`.

    Attributes:
        classes: names in the order of class numbers.
        training: pictures that teach; their `landmark_ids` are class numbers.
        held_out: pictures that set the threshold. No photograph of Open Images has crops in both, and near-duplicates
            are in one.
        verified: names of the photographs that geometry verified.
    """

    classes: tuple[str, ...]
    training: TrainingSet
    held_out: TrainingSet
    verified: frozenset[str]

    @property
    def landmark(self) -> int:
        """The class number of landmark photographs."""
        return len(self.classes) - 1

    @property
    def balance(self) -> float:
        """Landmark photographs that teach for one crop that does: by it neither counts for more than the other."""
        photographs = sum(number == self.landmark for number in self.training.landmark_ids)
        return photographs / max(1, len(self.training) - photographs)


def photograph_name(image_id: str) -> str:
    """What a photograph is called among the examples."""
    return f"photograph {image_id}"


def verified_ids(store: Store) -> pa.Array:
    """The images that geometry verified, as `cleaned_manifest` keeps them."""
    rows = read_table(store, CLEANED_MANIFEST, ["id", "decision"])
    return rows.filter(pc.equal(rows["decision"], "kept"))["id"].combine_chunks()


def gather_examples(store: Store, recipe: Recipe) -> Examples:
    """Draw them: at most `MOST_CROPS` of a category, and landmark photographs in proportion, by seeded orders.

    Raises:
        ClassifierError: there is no crop, or no landmark photograph.
        MissingInputError: dataset, manifest or images have not been made.
    """
    crops = _drawn_crops(store, recipe.seed)
    photographs = _drawn_photographs(store, recipe, crops.num_rows)
    if not crops.num_rows or not photographs.num_rows:
        raise ClassifierError(
            f"non_landmark_classifier: found {crops.num_rows} crops of Open Images and {photographs.num_rows} landmark "
            "photographs, expected some of each; set [openimages] categories that have boxes, or [filter] manifest"
        )
    classes = (*recipe.openimages.categories, "a landmark")
    shown = {_crop_name(row): row["class"] for row in crops.to_pylist()}
    ids = photographs["id"].to_pylist()
    shown |= {photograph_name(image_id): len(classes) - 1 for image_id in ids}
    names = pa.array([photograph_name(image_id) for image_id in ids])
    # Near-duplicates go where the first of them goes: one that teaches would flatter the score of one that is held out.
    alone = seeded_hash(names, recipe.seed, "filter held out") < np.uint64(recipe.filter.validation * 2**64)
    out = alone[duplicate_groups(store, photographs)]
    held_out = {_crop_name(row) for row in crops.to_pylist() if row["split"] != TRAIN}
    held_out |= set(names.filter(pa.array(out)).to_pylist())
    source = _Pictures(dict(_read_all(store, crops, recipe.openimages.size)), ImageReader.of_split(store, "train", ids))
    sure = set(verified_ids(store).to_pylist())

    def part(wanted: Callable[[str], bool]) -> TrainingSet:
        ids = tuple(name for name in sorted(shown) if wanted(name))
        return TrainingSet(ids, tuple(shown[name] for name in ids), source.read, source.read_ahead)

    training = part(lambda name: name not in held_out)
    verified = frozenset(photograph_name(image_id) for image_id in ids if image_id in sure)
    return Examples(classes, training, part(held_out.__contains__), verified)


def _drawn_crops(store: Store, seed: int) -> pa.Table:
    rows = read_table(store, OPENIMAGES_CLASSIFIER_DATASET, [*_PLACE, "decision"])
    rows = rows.filter(pc.equal(rows["decision"], KEPT)).drop_columns("decision").combine_chunks()
    names = pa.array([_crop_name(row) for row in rows.to_pylist()], pa.string())
    classes = rows["class"].to_numpy()
    order = np.lexsort((seeded_hash(names, seed, "filter crops"), classes))
    ordered = classes[order]
    starts = np.searchsorted(ordered, ordered, side="left")
    return rows.take(pa.array(np.sort(order[np.arange(len(order)) - starts < MOST_CROPS])))


def _drawn_photographs(store: Store, recipe: Recipe, crops: int) -> pa.Table:
    rows = kept_images(store, recipe.filter.manifest)
    order = np.lexsort((fixed_width(rows["id"]), seeded_hash(rows["id"], recipe.seed, "filter photographs")))
    return rows.take(pa.array(np.sort(order[: round(recipe.filter.landmarks * crops)])))


def _crop_name(row: dict[str, object]) -> str:
    return f"crop {row['image_id']} {row['box']}"


@dataclass(frozen=True)
class _Pictures:
    """Encoded pictures by name: crops are held in memory as PNG, photographs are read by range."""

    crops: dict[str, bytes]
    photographs: ImageReader

    def read(self, name: str) -> bytes:
        """The bytes of one."""
        kind, _, image_id = name.partition(" ")
        return self.photographs.read(image_id) if kind == "photograph" else self.crops[name]

    @property
    def read_ahead(self) -> ReadAhead | None:
        """As `ImageReader.read_ahead`, of any names."""
        return None if self.photographs.read_ahead is None else self._read_many

    def _read_many(self, names: Iterable[str]) -> Iterator[bytes]:
        names = list(names)
        ids = (name.partition(" ")[2] for name in names if name not in self.crops)
        found = self.photographs.read_many(ids)
        return (self.crops[name] if name in self.crops else next(found) for name in names)


def _read_all(store: Store, crops: pa.Table, size: int) -> Iterator[tuple[str, bytes]]:
    rows = sorted(crops.to_pylist(), key=itemgetter("file", "row"))
    for file, group in groupby(rows, key=itemgetter("file")):
        of_file = list(group)
        pixels = read_crops(store, file, [row["row"] for row in of_file], size)
        yield from ((_crop_name(row), png(found)) for row, found in zip(of_file, pixels, strict=True))
