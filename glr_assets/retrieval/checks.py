"""What must hold of a retrieval submission; each function gives what breaks it, in words, or nothing."""

from __future__ import annotations

import csv
from collections.abc import Container, Iterable, Sequence
from itertools import zip_longest


def misanswered(lines: Iterable[str], queries: Sequence[str], index: Iterable[str], most: int) -> str:
    """A submission has one row for each query, in their order, with images of the index, none of them twice.

    Args:
        lines: of the CSV `id,images`, its header first.
        queries: ids of the test images.
        index: ids of the index images.
        most: images a query may be answered with.
    """
    known = frozenset(index)
    rows = csv.reader(lines)
    header = next(rows, [])
    if header != ["id", "images"]:
        return f"the header is {','.join(header)}, expected id,images"
    for number, (row, query) in enumerate(zip_longest(rows, queries), 1):
        problem = _wrong(row, query, known, most)
        if problem:
            return f"row {number}: {problem}"
    return ""


def _wrong(row: list[str] | None, query: str | None, known: Container[str], most: int) -> str:
    if row is None:
        return f"query {query} has no row"
    if query is None or len(row) != 2 or row[0] != query:
        return f"{','.join(row)[:40]} where {query or 'no further row'} is expected"
    images = row[1].split()
    if len(images) > most:
        return f"{len(images)} images, at most {most} are wanted"
    if len(set(images)) < len(images):
        return "an image is given twice"
    strange = next((image for image in images if image not in known), None)
    return f"{strange} is no image of the index" if strange is not None else ""
