from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glr_assets.images.members import hostile_reason, image_id, is_final, may_succeed, stranger_reason


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("6/e/1/6e158a47eb2ca3f6.jpg", "6e158a47eb2ca3f6"),
        ("6e158a47eb2ca3f6.jpg", "6e158a47eb2ca3f6"),
        ("train/0/0/0/0000000000000001.JPG", "0000000000000001"),
        ("a/1e5.jpeg", "1e5"),
        ("./a/b/c/abc.jpg", "abc"),
        ("deep/" * 40 + "A-_9.jpg", "A-_9"),
        ("x" * 64 + ".jpg", "x" * 64),
        ("a/abc.png", "abc"),
        ("a/abc.WebP", "abc"),
        ("a/abc.tiff", "abc"),
        ("a/abc.heic", "abc"),
        (".cache/train/a/abc.jpg", "abc"),
    ],
)
def test_an_image_name_gives_its_id_in_any_folder(name: str, expected: str) -> None:
    assert image_id(name) == expected
    assert hostile_reason(name) == stranger_reason(name) == ""


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("/etc/6e158a47eb2ca3f6.jpg", "absolute path"),
        ("//host/share/abc.jpg", "absolute path"),
        ("\\\\host\\share\\abc.jpg", "absolute path"),
        ("C:/abc.jpg", "absolute path"),
        ("c:abc.jpg", "absolute path"),
        ("../abc.jpg", "leads out of the shard"),
        ("a/../../abc.jpg", "leads out of the shard"),
        ("a\\..\\abc.jpg", "leads out of the shard"),
        ("a/..", "leads out of the shard"),
        ("a\\abc.jpg", "backslashes"),
        ("a/abc\n.jpg", "control characters"),
        ("a/abc.jpg\n", "control characters"),
        ("a/abc\0.jpg", "control characters"),
        ("a/\x1b[31mabc.jpg", "control characters"),
        ("a/\u202egpj.abc.jpg", "control characters"),
        ("a/\udcffabc.jpg", "control characters"),
    ],
)
def test_a_hostile_name_is_refused_as_such(name: str, problem: str) -> None:
    assert hostile_reason(name).startswith("hostile name: ")
    assert problem in hostile_reason(name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "no image file: its suffix"),
        ("a/b/abc", "no image file: its suffix"),
        ("abc.jpg.exe", "no image file: its suffix"),
        ("abc.json", "no image file: its suffix"),
        ("abc.jpg.part", "no image file: its suffix"),
        ("README.txt", "no image file: its suffix"),
        (".jpg", "no image file: a hidden or system file"),
        ("a/.jpg", "no image file: a hidden or system file"),
        (".DS_Store", "no image file: a hidden or system file"),
        ("a/Thumbs.db", "no image file: a hidden or system file"),
        ("a/Icon\r", "no image file: a hidden or system file"),
        ("a/._abc.jpg", "no image file: AppleDouble metadata"),
        ("__MACOSX/a/b/abc.jpg", "no image file: below __MACOSX"),
        ("a/@eaDir/abc.jpg", "no image file: below @eaDir"),
        ("$RECYCLE.BIN/abc.jpg", "no image file: below $RECYCLE.BIN"),
        ("a/PaxHeaders.4711/abc.jpg", "no image file: a pax header"),
        ("./PaxHeaders/abc.jpg", "no image file: a pax header"),
        ("a/abc .jpg", "no image id in the name"),
        ("a/é.jpg", "no image id in the name"),
        ("a/日本.png", "no image id in the name"),
        ("a/٣.jpg", "no image id in the name"),
        ("a/ab.c.jpg", "no image id in the name"),
        ("x" * 65 + ".jpg", "no image id in the name"),
        ("x" * 100_000 + ".jpg", "no image id in the name"),
    ],
)
def test_a_stranger_is_told_by_its_kind(name: str, reason: str) -> None:
    assert hostile_reason(name) == ""
    assert stranger_reason(name).startswith(reason)


@given(st.text(st.sampled_from("ab0./\\:\n\0C_-é\udc80jpgJPG"), max_size=30) | st.text())
def test_a_name_without_problem_is_a_plain_relative_path_to_an_id(name: str) -> None:
    if hostile_reason(name) or stranger_reason(name):
        return
    assert re.fullmatch(r"[0-9A-Za-z_-]{1,64}", image_id(name) or "")
    assert not name.startswith("/")
    assert ".." not in name.split("/")
    assert "\\" not in name
    assert name.isprintable()


def test_only_failures_that_may_end_otherwise_are_worth_another_try() -> None:
    reasons = {
        "hostile name: absolute path": True,
        "not a file: link": True,
        "too large: 20001 bytes, at most 20000 are read": True,
        "empty: zero bytes": True,
        "no image id in the name: expected letters, digits, _ and -": True,
        "undecodable: MemoryError": False,
        "no image that can be opened: starts with 3c": False,
        "unreadable: the source lists the file, and reading it failed": False,
    }
    assert {reason: is_final(reason) for reason in reasons} == reasons
    counts = {f"failed: {reason.split(':')[0]}": 1 for reason in reasons}
    assert may_succeed({"failed": 8, **counts}) == 3
    assert may_succeed({"failed": 2, "failed: too large": 2}) == 0
    assert may_succeed({}) == 0
