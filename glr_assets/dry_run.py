"""Dry runs: an asset's own code runs up to the comparison with its receipt, makes nothing and answers why it would.

Within `dry_run` every `receipts.make` of the thread raises an `Answer` in place of making or returning, so nothing
after it runs. The answer comes from the comparison of a real run: the same inputs, parameters and code version,
computed by the same code. Files are compared by their sizes; with `check_bytes` small ones also by the digests that a
real run computes.
"""

from __future__ import annotations

import contextvars
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from glr_assets.errors import MissingInputError, describe
from glr_assets.ranges import ordered

#: Partitions of an asset that are compared at once; a remote store or source answers each request in tens of
#: milliseconds.
WORKERS: Final = 16
#: Characters of a parameter's value that are shown.
_SHOWN: Final = 60

Kind = Literal["never made", "unfinished", "input", "parameter", "code", "files", "forced"]


@dataclass(frozen=True)
class Change:
    """One reason why a receipt does not hold any more.

    Attributes:
        kind: `never made` and `unfinished`: there is no receipt; `input`, `parameter` and `code`: it tells of another
            one; `files`: its files are gone or changed; `forced`: the run would make it whether or not it is done.
        name: of the input, as in `Receipt.inputs`; of the parameter, nested names joined by dots; empty otherwise.
        old: what the receipt has; None where it has none.
        new: what a run would have; None where it would have none.
        detail: what is to be said beside: the damaged file, or what an unfinished make was.
    """

    kind: Kind
    name: str = ""
    old: str | None = None
    new: str | None = None
    detail: str = ""

    @property
    def text(self) -> str:
        """The change in words."""
        if self.kind == "input":
            return f"{self.name} {'is new' if self.old is None else 'is gone' if self.new is None else 'changed'}"
        if self.kind == "parameter":
            return f"{self.name}: {_shown(self.old)} → {_shown(self.new)}"
        if self.kind == "code":
            return f"code version {self.old} → {self.new}"
        return f"{self.kind}: {self.detail}" if self.detail else self.kind


def _shown(value: str | None) -> str:
    if value is None:
        return "absent"
    return value if len(value) <= _SHOWN else value[: _SHOWN - 1] + "…"


@dataclass(frozen=True)
class Verdict:
    """What a run of an asset, or of one partition of it, would find.

    Attributes:
        name: `asset` or `asset/partition`.
        changes: why a run would make it; empty where it is done.
        error: why a run would fail before it could tell, in words; empty where it can tell.
        inputs: names of what a run would make it from, as in `Receipt.inputs`; empty where it cannot tell.
    """

    name: str
    changes: tuple[Change, ...] = ()
    error: str = ""
    inputs: tuple[str, ...] = field(default=(), compare=False)

    @property
    def is_done(self) -> bool:
        """Whether a run would find it done."""
        return not self.changes and not self.error


class Answer(BaseException):
    """Ends a dry run of an asset's code with its verdict.

    It is no `Exception`, so that code which notes failures does not take it for one.
    """

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.name)
        self.verdict = verdict


class DryRun:
    """The answers of a dry run.

    Attributes:
        verdicts: by name, in the order in which they were asked for.
        check_bytes: whether small files of finished work are read and hashed, as a real run does.
    """

    def __init__(self, *, check_bytes: bool = False) -> None:
        self.verdicts: dict[str, Verdict] = {}
        self.check_bytes = check_bytes

    def ask(self, name: str, run: Callable[[], object]) -> Verdict:
        """Run an asset's code until it answers, and keep the verdict."""
        verdict = _verdict(name, run)
        self.verdicts[verdict.name] = verdict
        return verdict

    def ask_each(self, runs: Mapping[str, Callable[[], object]]) -> None:
        """As `ask` for several names, some of them at once."""

        def asked(item: tuple[contextvars.Context, str, Callable[[], object]]) -> Verdict:
            context, name, run = item
            return context.run(_verdict, name, run)

        items = ((contextvars.copy_context(), name, run) for name, run in runs.items())
        for verdict in ordered(asked, items, workers=WORKERS):
            self.verdicts[verdict.name] = verdict


def _verdict(name: str, run: Callable[[], object]) -> Verdict:
    try:
        run()
    except Answer as answer:
        return answer.verdict
    except Exception as error:  # noqa: BLE001 - whatever it is, a real run would fail by it
        return Verdict(name, error=describe(error))
    return Verdict(name, error="its code ended without asking for its receipt; report this as a fault")


_current: contextvars.ContextVar[DryRun | None] = contextvars.ContextVar("dry_run", default=None)


def current() -> DryRun | None:
    """The dry run that the caller's thread is in; None outside of one."""
    return _current.get()


@contextmanager
def dry_run(*, check_bytes: bool = False) -> Iterator[DryRun]:
    """Within the block `receipts.make` makes nothing, writes nothing and takes no lock: it raises an `Answer`."""
    run = DryRun(check_bytes=check_bytes)
    token = _current.set(run)
    try:
        yield run
    finally:
        _current.reset(token)


def need_done(what: str, run: Callable[[], object]) -> None:
    """Within a dry run: require that a run of that code would find its work done.

    Args:
        what: its name for messages.
        run: the code, which asks for its receipt.

    Raises:
        MissingInputError: a run would make it.
    """
    verdict = _verdict(what, run)
    if not verdict.is_done:
        reasons = "; ".join(change.text for change in verdict.changes) or verdict.error
        raise MissingInputError(f"{what} is not there as a run would have it ({reasons}); the next run writes it")


def changes_between(
    old: Mapping[str, Any], new: Mapping[str, Any], kind: Literal["input", "parameter"]
) -> list[Change]:
    """What differs between two documents of inputs or parameters, sorted by name; nested names are joined by dots."""
    before, after = (dict(_flat(document)) for document in (old, new))
    return [
        Change(kind, name, _told(before, name), _told(after, name))
        for name in sorted(before.keys() | after.keys())
        if before.get(name, _ABSENT) != after.get(name, _ABSENT)
    ]


_ABSENT: Final = object()


def _told(values: Mapping[str, Any], name: str) -> str | None:
    if name not in values:
        return None
    value = values[name]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
