from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glr_assets.images.members import image_id, name_problem


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
    ],
)
def test_an_image_name_gives_its_id_in_any_folder(name: str, expected: str) -> None:
    assert image_id(name) == expected
    assert name_problem(name) == ""


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
    assert name_problem(name).startswith("hostile name: ")
    assert problem in name_problem(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".jpg",
        "a/.jpg",
        "a/b/abc",
        "abc.png",
        "abc.jpg.exe",
        "a/abc .jpg",
        "a/é.jpg",
        "a/日本.jpg",
        "a/٣.jpg",
        "a/ab.c.jpg",
        "x" * 65 + ".jpg",
        "x" * 100_000 + ".jpg",
        "README.txt",
    ],
)
def test_a_name_without_an_id_is_refused(name: str) -> None:
    assert image_id(name) is None
    assert name_problem(name).startswith("no image id in the name")


@given(st.text(st.sampled_from("ab0./\\:\n\0C_-é\udc80jpgJPG"), max_size=30) | st.text())
def test_a_name_without_problem_is_a_plain_relative_path_to_an_id(name: str) -> None:
    if name_problem(name):
        return
    assert re.fullmatch(r"[0-9A-Za-z_-]{1,64}", image_id(name) or "")
    assert not name.startswith("/")
    assert ".." not in name.split("/")
    assert "\\" not in name
    assert name.isprintable()
