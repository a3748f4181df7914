"""What a verification finds, as `glr verify` prints it and writes it as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from pydantic import BaseModel

from glr_assets.receipts import receipt_path

Kind = Literal["damaged", "cut", "grown", "missing", "unreadable", "receipt", "record", "left over"]
#: Kinds that are of the content of a file that a receipt names.
OF_CONTENT: Final[frozenset[Kind]] = frozenset({"damaged", "cut", "grown", "missing", "unreadable"})


class Problem(BaseModel):
    """Something that is not whole.

    Attributes:
        kind: `damaged`: other content of the same size; `cut`, `grown`: another size; `missing`; `unreadable`: its disk
            or server fails; `receipt`: a receipt that is not what was written under its name; `record`: what tells of a
            run, of a version of a model, or what the store remembers, cannot be read; `left over`: no receipt names it.
        path: the file.
        receipt: the receipt that names it, or that it is; empty where there is none.
        expected: size or SHA-256 that it should have; empty where that says nothing.
        found: what it has, or what is wrong with it.
        fix: what to do.
        held: a running job is at it, so that a repair leaves it alone.
        repaired: it has been removed, and what needs it counts as not made.
    """

    kind: Kind
    path: str
    receipt: str = ""
    expected: str = ""
    found: str = ""
    fix: str = ""
    held: bool = False
    repaired: bool = False

    def told(self) -> str:
        """The problem as one line."""
        said = f"{self.kind}: {self.path}"
        if self.receipt and receipt_path(self.receipt) != self.path:
            said += f" ({self.receipt})"
        said += f": expected {self.expected}, found {self.found}" if self.expected else f": {self.found}"
        if self.repaired:
            return f"{said}; removed"
        return f"{said}; {'left alone, as a running job is at it' if self.held else self.fix}"


class Report(BaseModel):
    """What was verified, and what is not whole.

    Attributes:
        store: its root URL.
        whole: whether nothing is wrong.
        receipts: receipts, and marks in the place of receipts, that were read.
        files: files that were hashed.
        bytes: their bytes.
        seconds: that it took.
        problems: what is not whole, by path.
        running: names of receipts, or of other locks, that running jobs hold.
        unfinished: names in whose place is the mark of a make that goes on, was killed or failed: not made.
        needed: names that results which are there were made from, and that are not made, as after a repair; none that
            a running job makes, and none where only some names were verified.
        unchecked: files that no receipt names and that are no fault, by what they are.
    """

    store: str
    whole: bool
    receipts: int
    files: int
    bytes: int
    seconds: float
    problems: list[Problem]
    running: list[str]
    unfinished: list[str]
    needed: list[str]
    unchecked: dict[str, int]


@dataclass(frozen=True)
class Progress:
    """How far hashing is: files and bytes, done and in all."""

    files: int
    of_files: int
    bytes: int
    of_bytes: int
