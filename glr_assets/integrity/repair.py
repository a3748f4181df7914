"""Repairs of a store: what is damaged or left over is removed, and what needs it counts as not made.

The next run makes it again, with the same bytes. Nothing is removed that another receipt names as it lies there, that a
running job holds, or that is of a later release. Files of models that are whole stay, with what is known of them: they
cost hours, and a training that finds them takes them over.
"""

from __future__ import annotations

from collections.abc import Sequence

from glr_assets.integrity.contents import MODELS, owner_of
from glr_assets.integrity.report import OF_CONTENT, Problem
from glr_assets.integrity.scrub import OTHER_RELEASE, Verification
from glr_assets.receipts import LOCKS, Receipt, Unfinished, receipt_path
from glr_assets.store import is_part
from glr_assets.store_settings import PATH as SETTINGS


def repaired(found: Verification) -> list[Problem]:
    """Repair what a verification found; the problems, each with whether it is repaired.

    Raises:
        StoreError: the store cannot be written.
    """
    store = found.store
    by_receipt: dict[str, list[Problem]] = {}
    for problem in found.problems:
        by_receipt.setdefault(problem.receipt, []).append(problem)
    held = found.held(wait=True)
    for name in found.dead:  # which `locked_if_free` would take for held
        store.remove(f"{LOCKS}/{name}.lock")
    done = [_removed(found, problem) for problem in by_receipt.pop("", [])]
    for name, problems in sorted(by_receipt.items()):
        if any(problem.fix == OTHER_RELEASE for problem in problems):
            done += problems
            continue
        with store.locked_if_free(f"{LOCKS}/{owner_of(name)}") as free:
            if owner_of(name) in held or not free:
                done += [problem.model_copy(update={"held": True}) for problem in problems]
            elif found.document(name) == found.documents.get(name):  # else it was made again since
                done += _taken_back(found, name, problems)
    if any(problem.repaired and problem.kind == "receipt" for problem in done):
        _remove_files_of_lost_receipts(found)
    return done


def _removed(found: Verification, problem: Problem) -> Problem:
    """Remove a file that belongs to no receipt."""
    store = found.store
    if problem.path == SETTINGS or (is_part(problem.path) and store.is_being_written(problem.path)):
        return problem
    if (
        problem.path.startswith(MODELS) and problem.kind != "left over"
    ):  # of a version that somebody may be able to use all the same
        return problem
    stamp = store.stamp(problem.path)
    if found.stamps.get(problem.path, stamp) != stamp:
        return problem.model_copy(update={"held": True})
    store.remove(problem.path)
    return problem.model_copy(update={"repaired": True})


def _taken_back(found: Verification, name: str, problems: Sequence[Problem]) -> list[Problem]:
    """Remove a receipt, or a mark, and its files, but for those that are to stay."""
    store = found.store
    receipt, mark = found.receipts.pop(name, None), found.marks.pop(name, None)
    earlier = receipt if mark is None else mark.earlier
    files = {*(receipt.outputs if receipt is not None else ()), *(mark.files if mark is not None else ())}
    bad = {problem.path for problem in problems if problem.kind in OF_CONTENT}
    stay = {path for path in files - bad if path.startswith(MODELS) or name.startswith("archive/")}
    gone = sorted(files - stay - found.named())
    path = receipt_path(name)
    store.remove(path)
    store.sync([path])
    for file in gone:
        store.remove(file)
    store.sync(gone)
    if earlier is not None and not any(problem.path == path for problem in problems):
        _keep(found, name, earlier, mark, stay, problems)
    return [problem.model_copy(update={"repaired": True}) for problem in problems]


def _keep(
    found: Verification,
    name: str,
    earlier: Receipt,
    mark: Unfinished | None,
    stay: set[str],
    problems: Sequence[Problem],
) -> None:
    """Leave what is known of the files that stay: in the archive, or in a mark in the receipt's place."""
    kept = {path: written for path, written in earlier.outputs.items() if path in stay}
    if not kept:
        return
    of_kept = earlier.model_copy(update={"outputs": kept})
    if name.startswith("archive/"):
        path = receipt_path(f"archive/{owner_of(name)}/{of_kept.digest[:12]}")
        found.store.write(path, of_kept.to_bytes())
        return
    wrong = [problem for problem in problems if problem.kind in OF_CONTENT]
    reason = f"{wrong[0].path} was {wrong[0].kind} and has been removed" if wrong else ""
    paths = tuple(path for path in (mark.paths if mark is not None else ()) if path in stay)
    left = Unfinished(name=name, earlier=of_kept, paths=paths, reason=reason)
    found.store.write(receipt_path(name), left.to_bytes())
    found.marks[name] = left


def _remove_files_of_lost_receipts(found: Verification) -> None:
    """Remove what nothing names any more since receipts were removed that could not be read."""
    again = Verification(found.store)
    again.read_receipts()
    again.find_left_over()
    known = {problem.path for problem in found.problems}
    for problem in again.problems:
        if problem.kind == "left over" and not problem.receipt and problem.path not in known:
            _removed(again, problem)
