"""Tables of GLDv2's size and class distribution, invented: ten CSVs laid out as the published bucket has them.

Every count is the published one (`GLDV2`), or its `scaled` part. Ids are 16 hexadecimal digits, all different within
and across splits, some of them digits alone and some like `1e5…`; landmark ids have gaps; URLs, titles and authors
hold commas, quotes and letters beyond ASCII, and are quoted only where they must be, as in the published files. The
same size gives the same bytes.

Other benchmarks take the arrays without the files: `train_images(GLDV2)` is the full train set with its landmarks
and which images are the competition's, `index_ids`, `query_ids` the other splits.

`python -m glr_assets_tests.benchmarks.full_size BUCKET [--scale 0.01]` writes the bucket (1.5 GB, about 20 seconds).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.source import TableName
from glr_assets.source.layout import CATEGORY_URL, TABLE_COLUMNS, TABLE_PATHS

ROWS_AT_ONCE = 2**19
FOLDERS_FROM = 2**40
SMALL_CLASS = 10
"""Images of the classes that are `Size.small_share` of all."""


@dataclass(frozen=True)
class Size:
    """How many of each there are. The defaults are GLDv2's, as published with it (Weyand et al. 2020)."""

    train: int = 4_132_914
    landmarks: int = 203_094
    largest: int = 10_247
    small_share: float = 0.57
    competition: int = 1_580_470
    competition_landmarks: int = 81_313
    index: int = 761_757
    index_landmarks: int = 101_302
    test: int = 117_577

    def scaled(self, scale: float) -> Size:
        """A part of it; the largest class shrinks by the square root, for classes stay as large as they are."""
        if scale == 1:
            return self
        counts = ("train", "landmarks", "competition", "competition_landmarks", "index", "index_landmarks", "test")
        return Size(
            **{name: round(getattr(self, name) * scale) for name in counts},
            largest=round(self.largest * scale**0.5),
            small_share=self.small_share,
        )


GLDV2 = Size()


@dataclass(frozen=True)
class Classes:
    """The landmarks of train, by ascending id: int64 [landmarks] each.

    Attributes:
        landmark_ids: with gaps.
        images: in the full set; sums up to `Size.train`.
        competition: of these in the competition's set; 0 where it is none of its classes.
    """

    landmark_ids: npt.NDArray[np.int64]
    images: npt.NDArray[np.int64]
    competition: npt.NDArray[np.int64]


@dataclass(frozen=True)
class TrainImages:
    """The full train set in the order of train.csv, which is none: one row per image.

    Attributes:
        ids: strings [train].
        landmark: row of its landmark in `classes`, int64 [train].
        competition: whether it is in the competition's set, bool [train].
        classes: the landmarks.
    """

    ids: pa.Array
    landmark: npt.NDArray[np.int64]
    competition: npt.NDArray[np.bool_]
    classes: Classes

    @property
    def landmark_ids(self) -> npt.NDArray[np.int64]:
        """The landmark of each image, int64 [train]."""
        return self.classes.landmark_ids[self.landmark]


def image_ids(first: int, count: int) -> pa.Array:
    """The ids numbered from `first`: a one-to-one mixture of the number (SplitMix64), so no two are equal."""
    words = np.arange(first + 1, first + count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        words = (words ^ words >> np.uint64(shift)) * np.uint64(factor)
    return hexadecimal(words ^ words >> np.uint64(31))


def hexadecimal(words: npt.NDArray[np.uint64]) -> pa.Array:
    """Each word as a string of 16 digits."""
    data = words.astype(">u8").view(np.uint8)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    return _strings(np.stack([digits[data >> 4], digits[data & 15]], axis=1).reshape(len(words), 16))


def index_ids(size: Size) -> pa.Array:
    """The ids of the index, in the order of index.csv."""
    return image_ids(size.train, size.index)


def query_ids(size: Size) -> pa.Array:
    """The ids of the test set, in the order of test.csv."""
    return image_ids(size.train + size.index, size.test)


def landmark_classes(size: Size) -> Classes:
    """The landmarks of train with their class sizes.

    Class sizes are the quantiles of the lognormal distribution that has GLDv2's mean and share of small classes,
    the largest set to the published one. Larger classes are likelier the competition's, which has 2 images of a
    class at least; shares are such that about 400,000 extras fill classes to 20, as the earlier system reports.
    """
    random = np.random.default_rng(1)
    landmark_ids = np.sort(random.choice(size.landmarks * 5 // 4, size.landmarks, replace=False)).astype(np.int64)
    images = random.permutation(_class_sizes(size))
    fit = np.flatnonzero(images > 1)
    chance = random.random(len(fit)) ** (1 / (images[fit] + 1.0))
    chosen = fit[np.argsort(-chance, kind="stable")[: size.competition_landmarks]]
    share = random.beta(0.8, 0.8, len(chosen))
    competition = np.zeros(size.landmarks, np.int64)
    competition[chosen] = _summing_to(size.competition, share * images[chosen], 2, images[chosen])
    return Classes(landmark_ids, images, competition)


def _class_sizes(size: Size) -> npt.NDArray[np.int64]:
    """Images of each class, ascending: int64 [landmarks] that sum up to `size.train`."""
    mean = size.train / size.landmarks
    normal = _normal_quantiles((np.arange(size.landmarks) + 0.5) / size.landmarks)
    at_small = float(np.interp(size.small_share, (np.arange(size.landmarks) + 0.5) / size.landmarks, normal))
    # Of ln X = mu + s z: E[X] = exp(mu + s^2 / 2) is the mean, and X = SMALL_CLASS + 1/2 where z = at_small.
    gap = np.log(mean) - np.log(SMALL_CLASS + 0.5)
    spread = at_small + np.sqrt(at_small**2 + 2 * gap)
    wanted = np.exp(np.log(SMALL_CLASS + 0.5) + spread * (normal - at_small))
    small = round(size.small_share * size.landmarks)
    wanted[-1] = size.largest
    lowest = np.where(np.arange(size.landmarks) < small, 1, SMALL_CLASS + 1)
    highest = np.where(np.arange(size.landmarks) < small, SMALL_CLASS, size.largest)
    lowest[-1] = size.largest
    return np.sort(_summing_to(size.train, wanted, lowest, highest))


def _normal_quantiles(shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Quantiles of the standard normal distribution, read off its integrated density."""
    z = np.linspace(-6, 6, 24_001)
    density = np.exp(-(z**2) / 2)
    below = np.cumsum(density) - density / 2
    return np.interp(shares, below / density.sum(), z)


def _summing_to(
    total: int,
    wanted: npt.NDArray[np.float64],
    lowest: npt.NDArray[np.int64] | int,
    highest: npt.NDArray[np.int64] | int,
) -> npt.NDArray[np.int64]:
    """Whole numbers in proportion to `wanted`, between the bounds, that sum up to `total`."""

    def at(factor: float) -> npt.NDArray[np.int64]:
        return np.clip(np.rint(wanted * factor), lowest, highest).astype(np.int64)

    below, above = 0.0, 1.0
    while at(above).sum() < total:
        below, above = above, 2 * above
        if above > 1e9:
            raise ValueError(f"no {len(wanted)} numbers within the bounds sum up to {total}")
    for _ in range(60):
        middle = (below + above) / 2
        below, above = (middle, above) if at(middle).sum() < total else (below, middle)
    found, step = at(below), at(above) - at(below)
    found[np.flatnonzero(step)[: total - found.sum()]] += 1
    if found.sum() != total:
        raise ValueError(f"no {len(wanted)} numbers within the bounds sum up to {total}")
    return found


def train_images(size: Size) -> TrainImages:
    """The full train set in the order of train.csv."""
    classes = landmark_classes(size)
    landmark = np.repeat(np.arange(size.landmarks), classes.images)
    place = np.arange(size.train) - np.repeat(np.cumsum(classes.images) - classes.images, classes.images)
    competition = place < classes.competition[landmark]
    order = np.random.default_rng(2).permutation(size.train)
    return TrainImages(image_ids(0, size.train), landmark[order], competition[order], classes)


def write_bucket(folder: Path, size: Size = GLDV2) -> dict[TableName, int]:
    """Write all ten CSVs under `folder`; gives the bytes of each."""
    train = train_images(size)
    names = landmark_names(size.landmarks)
    tables = {
        "train": _train_rows(train, names),
        "train_clean": _clean_rows(train),
        "train_attribution": _attribution_rows(train, names),
        "train_label_to_category": _label_rows(train.classes, names, hierarchy=False),
        "train_label_to_hierarchical": _label_rows(train.classes, names, hierarchy=True),
        "index": iter([[index_ids(size)]]),
        "index_image_to_landmark": _index_rows(size),
        "test": iter([[query_ids(size)]]),
        "recognition_solution": _recognition_rows(size, train.classes),
        "retrieval_solution": _retrieval_rows(size),
    }
    return {name: _write_csv(folder, name, parts) for name, parts in tables.items()}  # type: ignore[arg-type,misc]


def landmark_names(count: int) -> list[str]:
    """Names of so many landmarks as their Commons categories have them, no two equal: `Old Church, Balivo`."""
    random = np.random.default_rng(3)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "é", "ö", "an", "or", "el")]
    first, kind, mark = (random.integers(0, 2**31, count) for _ in range(3))
    names = []
    for number in range(count):
        place, rest = "", number
        for _ in range(3):
            rest, syllable = divmod(rest, len(syllables))
            place += syllables[syllable]
        name = f"{_FIRSTS[first[number] % len(_FIRSTS)]} {_KINDS[kind[number] % len(_KINDS)]}"
        by_name = (f'{name} "{place.title()}"', f"{name} ({place.title()})", f"{name}, {place.title()}")
        names.append(by_name[0 if mark[number] % 100 == 0 else 1 if mark[number] % 100 < 20 else 2])
    return names


_FIRSTS = ("Old", "New", "Upper", "Lower", "Great", "Saint Mary's", "Saint John's", "Royal", "West", "East", "Musée")
_KINDS = (
    *("Church", "Castle", "Bridge", "Town hall", "Lighthouse", "Waterfall", "Monument", "Abbey", "Palace", "Museum"),
    *("Fort", "Railway station", "Temple", "Lake", "Mountain", "Tower", "Gate", "Cathedral", "Square", "Fountain"),
)
_NATURAL = ("Waterfall", "Lake", "Mountain")
_CAMERAS = ("DSC", "IMG", "P", "Panorama from the north", "view at night", "July", "detail, façade", "")
_LICENCES = tuple(
    f"https://creativecommons.org/licenses/{by}/" for by in ("by/2.0", "by-sa/3.0", "by-sa/4.0", "by/3.0")
)


def _train_rows(train: TrainImages, names: Sequence[str]) -> Iterator[list[pa.Array]]:
    """`id,url,landmark_id`."""
    for part in _parts(len(train.ids)):
        # In Commons' folders files lie by the digits of a hash, which has nothing to do with their ids here.
        digits = image_ids(FOLDERS_FROM + part.start, part.stop - part.start)
        folders = pc.utf8_slice_codeunits(digits, 0, 1), pc.utf8_slice_codeunits(digits, 0, 2)
        root = pa.scalar("https://upload.wikimedia.org/wikipedia/commons")
        url = pc.binary_join_element_wise(root, *folders, _files(train, names, part, "_"), "/")
        yield [train.ids[part], url, pa.array(train.landmark_ids[part])]


def _attribution_rows(train: TrainImages, names: Sequence[str]) -> Iterator[list[pa.Array]]:
    """`id,url,author,license,title`; a tenth of the images are by a hundredth of the authors."""
    random = np.random.default_rng(4)
    authors = pa.array([f"{name.split(' ')[0]} {name.split(' ')[-1]}" for name in names[:150_000]])
    licences = pa.array(_LICENCES)
    for part in _parts(len(train.ids)):
        count = len(train.ids[part])
        by = (len(authors) * random.random(count) ** 2).astype(np.int64)
        page = pc.binary_join_element_wise(
            "https://commons.wikimedia.org/wiki/File:", _files(train, names, part, "_"), ""
        )
        title = pc.binary_join_element_wise("File:", _files(train, names, part, " "), "")
        yield [
            train.ids[part],
            page,
            authors.take(pa.array(by)),
            licences.take(pa.array(random.integers(0, len(licences), count))),
            title,
        ]


def _files(train: TrainImages, names: Sequence[str], part: slice, blank: str) -> pa.Array:
    """The names of the images' files: the landmark's name, what a camera or its owner adds, and a number."""
    stems = pa.array([name.replace(" ", blank) for name in names])
    added = pa.array([camera.replace(" ", blank) for camera in _CAMERAS])
    numbers = np.arange(part.start, part.stop) * 654_435_761 % 100_000_007
    ends = pc.binary_join_element_wise(
        added.take(pa.array(numbers % len(added))), pa.array(numbers).cast(pa.string()), blank
    )
    stem = stems.take(pa.array(train.landmark[part]))
    return pc.binary_join_element_wise(pc.binary_join_element_wise(stem, ends, f"{blank}-{blank}"), ".jpg", "")


def _clean_rows(train: TrainImages) -> Iterator[list[pa.Array]]:
    """`landmark_id,images`."""
    rows = np.flatnonzero(train.competition)
    rows = rows[np.argsort(train.landmark[rows], kind="stable")]
    images = train.classes.competition
    offsets = np.concatenate([[0], np.cumsum(images[images > 0])]).astype(np.int32)
    lists = pa.ListArray.from_arrays(pa.array(offsets), train.ids.take(pa.array(rows)))
    yield [pa.array(train.classes.landmark_ids[images > 0]), pc.binary_join(lists, " ")]


def _label_rows(classes: Classes, names: Sequence[str], *, hierarchy: bool) -> Iterator[list[pa.Array]]:
    """`landmark_id,category`, and with the hierarchy `supercategory,hierarchical_label,natural_or_human_made`."""
    categories = [CATEGORY_URL + quote(name.replace(" ", "_"), safe="_,()'") for name in names]
    columns = [pa.array(classes.landmark_ids), pa.array(categories)]
    if hierarchy:
        kinds = [next(kind for kind in _KINDS if kind in name) for name in names]
        natural = ["natural" if kind in _NATURAL else "human-made" for kind in kinds]
        columns += [pa.array([kind.lower() for kind in kinds]), pa.array([f"{k}, kept".lower() for k in kinds])]
        columns.append(pa.array(natural))
    yield columns


def _index_rows(size: Size) -> Iterator[list[pa.Array]]:
    """`id,landmark_id`, in a numbering of its own."""
    landmark = np.random.default_rng(5).integers(0, size.index_landmarks, size.index)
    yield [index_ids(size), pa.array(landmark)]


def _recognition_rows(size: Size, classes: Classes) -> Iterator[list[pa.Array]]:
    """`id,landmarks,Usage`: of one image in 60 a landmark or two, as of the published."""
    random = np.random.default_rng(6)
    landmarks = random.choice(classes.landmark_ids, (size.test, 2)).astype(str)
    kind = random.integers(0, 240, size.test)
    answers = np.where(kind == 0, np.char.add(np.char.add(landmarks[:, 0], " "), landmarks[:, 1]), landmarks[:, 0])
    yield [
        query_ids(size),
        pa.array(np.where(kind < 4, answers, "").tolist()),
        pa.array(random.choice(["Public", "Private", "Private"], size.test).tolist()),
    ]


def _retrieval_rows(size: Size) -> Iterator[list[pa.Array]]:
    """`id,images,Usage`: relevant images of one query in 100, `None` and Ignored for the others."""
    random = np.random.default_rng(7)
    ids = index_ids(size)
    images = ["None"] * size.test
    for row in range(0, size.test, 100):
        chosen = random.choice(size.index, random.integers(1, 60), replace=False)
        images[row] = " ".join(ids.take(pa.array(chosen)).to_pylist())
    usage = [
        "Ignored" if listed == "None" else "Public" if row % 300 else "Private" for row, listed in enumerate(images)
    ]
    yield [query_ids(size), pa.array(images), pa.array(usage)]


def _parts(count: int) -> Iterator[slice]:
    yield from (slice(begin, min(begin + ROWS_AT_ONCE, count)) for begin in range(0, count, ROWS_AT_ONCE))


def _write_csv(folder: Path, name: TableName, parts: Iterator[list[pa.Array]]) -> int:
    """Write columns as CSV, quoting what must be and nothing else (Arrow's own writer quotes every string)."""
    path = folder / TABLE_PATHS[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(",".join(TABLE_COLUMNS[name]).encode() + b"\n")
        for columns in parts:
            fields = [
                _field(column) if pa.types.is_string(column.type) else column.cast(pa.string()) for column in columns
            ]
            lines = pc.binary_join_element_wise(pc.binary_join_element_wise(*fields, ","), "\n", "")
            offsets = np.frombuffer(lines.buffers()[1], np.int32)
            file.write(memoryview(lines.buffers()[2])[offsets[lines.offset] : offsets[lines.offset + len(lines)]])
    return path.stat().st_size


def _field(values: pa.Array) -> pa.Array:
    """Values with a comma, a quote or a line end in quotes, quotes doubled (RFC 4180)."""
    special = pc.match_substring_regex(values, '[",\r\n]')
    if not pc.any(special).as_py():
        return values
    quoted = pc.binary_join_element_wise('"', pc.replace_substring(values, '"', '""'), '"', "")
    return pc.if_else(special, quoted, values)


def _strings(rows: npt.NDArray[np.uint8]) -> pa.Array:
    """A uint8 array [n, width] as n strings of that width."""
    count, width = rows.shape
    offsets = np.arange(count + 1, dtype=np.int32) * width
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(rows)))


def main() -> None:
    """Write the bucket and tell what is in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bucket", type=Path)
    parser.add_argument("--scale", type=float, default=1.0, help="part of GLDv2's size")
    arguments = parser.parse_args()
    begun = time.perf_counter()
    for name, written in write_bucket(arguments.bucket, GLDV2.scaled(arguments.scale)).items():
        print(f"{TABLE_PATHS[name]}: {written / 1e6:,.1f} MB")
    print(f"{time.perf_counter() - begun:.1f} s")


if __name__ == "__main__":
    main()
