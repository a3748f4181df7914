from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glr_assets.images.stored_tar import StoredTar

names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=100)


@given(st.lists(st.tuples(names, st.binary(max_size=1500)), max_size=6))
def test_the_archive_is_byte_for_byte_tarfiles_own(members: list[tuple[str, bytes]]) -> None:
    ours, theirs = io.BytesIO(), io.BytesIO()
    offsets = []
    with StoredTar(ours) as tar:
        offsets = [tar.add(name, data) for name, data in members]
    # Of that record size its padding is the end mark alone.
    with tarfile.open(fileobj=theirs, mode="w", format=tarfile.USTAR_FORMAT) as expected:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size, header.mode = len(data), 0o644
            expected.addfile(header, io.BytesIO(data))
    size = len(ours.getvalue())
    assert ours.getvalue() == theirs.getvalue()[:size]
    assert not any(theirs.getvalue()[size:])
    for offset, (_, data) in zip(offsets, members, strict=True):
        assert ours.getvalue()[offset : offset + len(data)] == data


def test_what_does_not_fit_a_header_is_refused_and_a_broken_block_has_no_end_mark() -> None:
    file = io.BytesIO()
    with pytest.raises(ValueError, match="does not fit"), StoredTar(file) as tar:
        tar.add("n" * 101, b"")
    assert file.getvalue() == b""
