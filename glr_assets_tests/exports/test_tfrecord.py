"""Records and Examples, byte for byte as TensorFlow writes them."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glr_assets.exports.tfrecord import TfRecordFile, example, image_features, record
from glr_assets_tests.exports.conftest import export_image

features = st.dictionaries(st.text(max_size=20), st.binary(max_size=300) | st.integers(-(2**63), 2**63 - 1), max_size=6)


@pytest.fixture(scope="module")
def tf() -> Any:
    return pytest.importorskip("tensorflow", reason="TensorFlow is not installed: nothing to compare with")


@pytest.mark.parametrize(
    ("data", "crc"),
    [  # RFC 3720, B.4
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_a_record_is_framed_by_masked_crcs(data: bytes, crc: int) -> None:
    framed = record(data)
    assert framed[:8] == b"\x20" + bytes(7)
    assert framed[12:-4] == data
    (masked,) = struct.unpack("<I", framed[-4:])
    turned = (masked - 0xA282EAD8) % 2**32
    assert (turned << 15 | turned >> 17) % 2**32 == crc
    assert framed[8:12] == record(bytes(32))[8:12]


def test_an_example_is_written_as_tensorflow_writes_it(tf: Any) -> None:
    def message(values: dict[str, bytes | int]) -> Any:
        feature = {
            name: tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
            if isinstance(value, int)
            else tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
            for name, value in values.items()
        }
        return tf.train.Example(features=tf.train.Features(feature=feature))

    @given(features)
    def same(values: dict[str, bytes | int]) -> None:
        ours = example(values)
        assert tf.train.Example.FromString(ours) == message(values)
        # Of the same length too: nothing is in it that its reader would skip.
        assert len(ours) == message(values).ByteSize()

    same()
    large = image_features(export_image(), bytes(200_000))
    assert example(large) == message(large).SerializeToString(deterministic=True)


def test_a_number_of_more_than_64_bits_is_refused() -> None:
    for value in (2**63, -(2**63) - 1):
        with pytest.raises(OverflowError, match=str(value)):
            example({"label": value})


def test_a_file_is_the_file_that_tensorflow_writes(tf: Any, tmp_path: Path) -> None:
    images = [(export_image(number), bytes([number]) * 1000 * number) for number in range(3)]
    file = io.BytesIO()
    with TfRecordFile(file) as writing:
        for image, jpeg in images:
            writing.add(image, jpeg)
    path = str(tmp_path / "theirs.tfrecord")
    with tf.io.TFRecordWriter(path) as theirs:
        for image, jpeg in images:
            theirs.write(example(image_features(image, jpeg)))
    assert file.getvalue() == Path(path).read_bytes()


def test_a_flipped_bit_is_seen_by_who_reads(tf: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.tfrecord"
    data = bytearray(record(b"abcdef"))
    path.write_bytes(data)
    assert [one.numpy() for one in tf.data.TFRecordDataset(str(path))] == [b"abcdef"]
    for place in (0, 14):
        flipped = bytearray(data)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(tf.errors.DataLossError):
            list(tf.data.TFRecordDataset(str(path)))
