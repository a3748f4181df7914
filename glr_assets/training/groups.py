"""`training_groups`: landmarks grouped by their number of images, and what each image is for.

A classifier of tens of thousands of landmarks with 6 to 100 images each learns the large ones; one a group of
landmarks of like size is balanced and small enough to train by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.curation.chosen import TRAINING_MANIFEST, chosen_inputs
from glr_assets.curation.duplicate_groups import duplicate_groups
from glr_assets.manifests import kept_images
from glr_assets.plots import groups_of_images
from glr_assets.receipts import Made, Summary, Writer, make, need_receipts
from glr_assets.recipes import Groups, Recipe
from glr_assets.seeded import seeded_hash
from glr_assets.store import Store
from glr_assets.tables import fixed_width, read_table
from glr_assets.training.schemas import TRAINING_GROUPS
from glr_assets.verification.plan import bucket_keys

CODE_VERSION = "2"
PICTURE = "reports/training_groups.png"

TRAIN: Final = "train"
CALIBRATION: Final = "calibration"
VALIDATION: Final = "validation"
FOLDS: Final = (TRAIN, CALIBRATION, VALIDATION)

Numbers = npt.NDArray[np.int64]


def group_keys(recipe: Groups) -> list[str]:
    """The keys of the groups, which are partitions: `00`, `01` and on."""
    return bucket_keys(recipe.count)


def groups_of(landmark_ids: Numbers, sizes: Numbers, recipe: Groups) -> Numbers:
    """The group of each landmark [n], counted from 0; -1 where it has too few images for any.

    With `bounds` in the recipe a group goes from its bound to the next. Without, the first group holds the landmarks
    of up to `first` images, and the others, in the order of size and of id where sizes are equal, about equally many
    images each. No group is then left with one landmark, which is nothing to tell apart, while there is another to
    put it to; groups for which two landmarks are not left are empty.

    Args:
        landmark_ids: [n], each once, in any order.
        sizes: images of each.
        recipe: `[groups]`.
    """
    used = np.minimum(sizes, recipe.largest)
    if recipe.bounds is not None:
        return np.searchsorted(np.array(recipe.bounds), used, side="right") - 1
    order = np.lexsort((landmark_ids, used))
    order = order[used[order] >= recipe.smallest]
    images = np.concatenate([[0], np.cumsum(used[order])])
    ends = [0]
    for number in range(recipe.count):
        start, left = ends[-1], recipe.count - number
        if number == 0 and recipe.count > 1:
            end = int(np.searchsorted(used[order], recipe.first, side="right"))
        else:
            target = images[start] + (images[-1] - images[start]) / left
            # The end nearest to the target.
            end = int(np.searchsorted((images[1:] + images[:-1]) / 2, target, side="right"))
        if number or end:
            end = max(end, start + 2)
        ends.append(len(order) if left == 1 or end >= len(order) - 1 else end)
    found = np.full(len(sizes), -1, np.int64)
    found[order] = np.repeat(np.arange(recipe.count), np.diff(ends))
    return found


def grouped(images: pa.Table, recipe: Groups, seed: int, duplicates: Numbers | None = None) -> pa.Table:
    """What each image is for, in `TRAINING_GROUPS`'s columns.

    Of a landmark with n images the group's validation share is held out, rounded by a seeded coin, at least one
    and never all; half of these, rounded down, calibrate. Which they are depends on the seed, the landmark and the
    ids of its own images. Near-duplicates are in one fold: their group has that of one of its members, drawn by seed,
    so the shares hold in the mean; a landmark that is one group trains whole.

    Args:
        images: `id, landmark_id, shard`, sorted by id.
        recipe: `[groups]`.
        seed: of the coin and of the order of a landmark's images.
        duplicates: int64 [n], the row of the first of each image's near-duplicates (`duplicate_groups`); absent: none
            has any.
    """
    duplicates = np.arange(images.num_rows) if duplicates is None else duplicates
    landmark_ids, number, sizes = np.unique(images["landmark_id"].to_numpy(), return_inverse=True, return_counts=True)
    used = np.minimum(sizes, recipe.largest)
    group = groups_of(landmark_ids, sizes, recipe)
    held = _held_out(landmark_ids, used, group, recipe, seed)
    place = _places(images["id"], number, sizes, seed, duplicates)
    fold = _folds(place, number, held, used, duplicates, _coins(images["id"], seed))
    outside = group[number] < 0
    fold[outside] = -1
    keys = np.where(fold < 0, -1, group[number])
    reason = np.select([outside, fold < 0], [1, 2], default=0)
    fewest = recipe.smallest if recipe.bounds is None else recipe.bounds[0]
    reasons = [
        "",
        f"landmark has fewer than {fewest} images",
        f"beyond the {recipe.largest} images of a landmark that are used",
    ]
    table = images.select(["id", "landmark_id", "shard"])
    table = table.append_column("group", _worded(keys, group_keys(recipe)))
    table = table.append_column("fold", _worded(fold, FOLDS))
    return table.append_column("reason", _worded(reason, reasons))


def _held_out(landmark_ids: Numbers, used: Numbers, group: Numbers, recipe: Groups, seed: int) -> Numbers:
    """Images of each landmark [n] that do not train."""
    position = group / max(recipe.count - 1, 1)
    share = recipe.validation_first + (recipe.validation_last - recipe.validation_first) * position
    names = pa.array([str(landmark) for landmark in landmark_ids.tolist()], pa.string())
    coin = seeded_hash(names, seed, "group fold of landmark") / 2.0**64
    exact = share * used
    held = np.floor(exact) + (coin < exact % 1)
    return np.clip(held, 1, np.maximum(used - 1, 0)).astype(np.int64)


def _places(ids: pa.ChunkedArray, number: Numbers, sizes: Numbers, seed: int, duplicates: Numbers) -> Numbers:
    """The place of each image in the seeded order of its landmark's images, near-duplicates side by side, from 0."""
    names, by_seed = fixed_width(ids), seeded_hash(ids, seed, "group fold")
    order = np.lexsort((names, names[duplicates], by_seed[duplicates], number))
    starts = np.cumsum(sizes) - sizes
    place = np.empty(len(number), np.int64)
    place[order] = np.arange(len(number)) - starts[number[order]]
    return place


def _coins(ids: pa.ChunkedArray, seed: int) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for each image [n]."""
    return (seeded_hash(ids, seed, "group fold of near-duplicates") >> np.uint64(11)) / 2.0**53


def _folds(
    place: Numbers, number: Numbers, held: Numbers, used: Numbers, duplicates: Numbers, coins: npt.NDArray[np.float64]
) -> Numbers:
    """The fold of each image [n], by its place in `FOLDS`: validation first, then calibration, then training.

    What is beyond the images of a landmark that are used has -1.
    """
    inside = place < used[number]
    rows = np.flatnonzero(inside)
    first = np.full(len(place), len(place), np.int64)
    np.minimum.at(first, duplicates[rows], place[rows])
    size = np.bincount(duplicates[rows], minlength=len(place))
    # A group has the fold of one of its places.
    drawn = (first + np.floor(coins * size).astype(np.int64))[duplicates]
    fold = np.select([drawn < (held - held // 2)[number], drawn < held[number]], [2, 1], default=0)
    fold[~inside] = -1
    trains = np.zeros(len(held), bool)
    trains[number[fold == 0]] = True
    # Where no image would train, the last group does.
    last = np.zeros(len(held), np.int64)
    np.maximum.at(last, number[rows], first[duplicates[rows]])
    fold[inside & ~trains[number] & (first[duplicates] == last[number])] = 0
    return np.asarray(fold, np.int64)


def _worded(values: Numbers, words: Sequence[str]) -> pa.Array:
    """The words of these numbers; none of -1."""
    return pa.array(list(words), pa.string()).take(pa.array(values, mask=values < 0))


#: Of `[groups]`, what decides the group of a landmark and what its images are for.
GROUPED_BY: Final = frozenset(
    {"count", "smallest", "first", "largest", "bounds", "validation_first", "validation_last"}
)


def make_training_groups(store: Store, recipe: Recipe) -> Made:
    """`training_groups`: the table, and a picture of landmarks and images a group."""

    def build(writer: Writer) -> Summary:
        images = kept_images(store, recipe.training.manifest)
        table = grouped(images, recipe.groups, recipe.seed, duplicate_groups(store, images))
        found = {key: _figures(table, key) for key in group_keys(recipe.groups)}
        writer.table(TRAINING_GROUPS, table)
        writer.write(PICTURE, _picture(found))
        summary: Summary = {
            "rows": table.num_rows,
            "in_groups": table.num_rows - table["group"].null_count,
            "landmarks": sum(group.landmarks for group in found.values()),
            "empty_groups": sum(not group.landmarks for group in found.values()),
        }
        return summary | {f"group_{key}": group.told for key, group in found.items()}

    return make(
        store,
        "training_groups",
        inputs=chosen_inputs(store, TRAINING_MANIFEST, recipe.training.manifest)
        | need_receipts(store, "image_catalog"),
        parameters={
            "manifest": recipe.training.manifest,
            "groups": recipe.groups.model_dump(mode="json", include=set(GROUPED_BY)),
            "seed": recipe.seed,
        },
        code_version=CODE_VERSION,
        build=build,
    )


@dataclass(frozen=True)
class _Figures:
    """One group in figures: its landmarks, the fewest and most images of one, its images by fold."""

    landmarks: int
    fewest: int
    most: int
    images: dict[str, int]

    @property
    def sizes(self) -> str:
        """Images a landmark, as `6-10`."""
        return f"{self.fewest}-{self.most}" if self.landmarks else "empty"

    @property
    def told(self) -> str:
        """The figures in a line."""
        if not self.landmarks:
            return "empty"
        images = ", ".join(f"{count} {fold}" for fold, count in self.images.items())
        return f"{self.landmarks} landmarks of {self.sizes} images; {images}"


def _figures(table: pa.Table, key: str) -> _Figures:
    rows = table.filter(pc.equal(table["group"], key))
    sizes = rows["landmark_id"].value_counts().field("counts").to_numpy()
    folds = {fold: int(pc.sum(pc.equal(rows["fold"], fold)).as_py() or 0) for fold in FOLDS}
    return _Figures(len(sizes), int(sizes.min(initial=2**31)), int(sizes.max(initial=0)), folds)


def _picture(found: Mapping[str, _Figures]) -> bytes:
    return groups_of_images(
        [f"{key}\n{group.sizes}" for key, group in found.items()],
        np.array([group.landmarks for group in found.values()]),
        {fold: np.array([group.images[fold] for group in found.values()]) for fold in FOLDS},
    )


@dataclass(frozen=True)
class GroupImages:
    """The images of one group by what they are for: ids and landmarks, in the order of ids."""

    ids: tuple[str, ...]
    landmark_ids: tuple[int, ...]
    folds: tuple[str, ...]

    @property
    def landmarks(self) -> tuple[int, ...]:
        """The group's landmarks, ascending."""
        return tuple(sorted(set(self.landmark_ids)))

    def of(self, fold: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Ids and landmarks of one fold."""
        chosen = [n for n, found in enumerate(self.folds) if found == fold]
        return tuple(self.ids[n] for n in chosen), tuple(self.landmark_ids[n] for n in chosen)


def images_of_group(store: Store, group: str) -> GroupImages:
    """The images of one group, from `training_groups`; none where it is empty."""
    rows = read_table(store, TRAINING_GROUPS, ["id", "landmark_id", "group", "fold"])
    rows = rows.filter(pc.equal(rows["group"], group))
    return GroupImages(*(tuple(rows[name].to_pylist()) for name in ("id", "landmark_id", "fold")))


def outsiders_of_group(store: Store, group: str, count: int, seed: int) -> tuple[str, ...]:
    """Training images of other groups, at most `count`, as a seed draws them: what is none of this group's."""
    rows = read_table(store, TRAINING_GROUPS, ["id", "group", "fold"])
    # Of an image in no group both comparisons are absent, which a filter takes for no.
    rows = rows.filter(pc.and_(pc.not_equal(rows["group"], group), pc.equal(rows["fold"], TRAIN)))
    order = np.lexsort((fixed_width(rows["id"]), seeded_hash(rows["id"], seed, f"outsiders of group {group}")))
    return tuple(sorted(rows["id"].take(pa.array(order[:count])).to_pylist()))
