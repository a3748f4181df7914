"""Rights from lists, folders and files, as they are; what nobody knows stays unknown."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from PIL import Image

from glr_assets.errors import SourceError
from glr_assets.packing.pack import pack
from glr_assets.packing.rights import Credit, embedded_credit, read_credits
from glr_assets.store import Store

XMP = """<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:xmpRights="http://ns.adobe.com/xap/1.0/rights/" xmpRights:WebStatement="https://creativecommons.org/licenses/by/4.0/">
 <dc:creator><rdf:Seq><rdf:li>Zoë Müller</rdf:li><rdf:li>Ann Example</rdf:li></rdf:Seq></dc:creator>
 <dc:title><rdf:Alt><rdf:li xml:lang="x-default">The gate</rdf:li></rdf:Alt></dc:title>
</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""


def picture(value: int = 0, **options: object) -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (40, 30), (value % 256, 7, 90)).save(target, "JPEG", **options)  # type: ignore[arg-type]
    return target.getvalue()


def with_exif(author: str, terms: str) -> bytes:
    exif = Image.Exif()
    # As writers do it: UTF-8 in a field that the standard has as ASCII.
    exif[0x013B] = author.encode()
    exif[0x8298] = terms.encode()
    return picture(exif=exif)


def test_exif_and_xmp_are_read_as_written() -> None:
    assert embedded_credit(with_exif("Jürgen Groß", "© 2019 Stadtmuseum")) == Credit(
        "Jürgen Groß", "© 2019 Stadtmuseum"
    )
    assert embedded_credit(picture(xmp=XMP.encode())) == Credit(
        "Zoë Müller; Ann Example", "https://creativecommons.org/licenses/by/4.0/", "The gate"
    )


def test_iptc_is_read() -> None:
    def record(number: int, text: bytes) -> bytes:
        return b"\x1c\x02" + bytes([number]) + len(text).to_bytes(2, "big") + text

    block = record(80, "José Ñuñez".encode()) + record(116, b"CC0")
    block += bytes(len(block) % 2)
    resource = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + len(block).to_bytes(4, "big") + block
    data = picture()
    segment = b"\xff\xed" + (len(resource) + 2).to_bytes(2, "big") + resource
    assert embedded_credit(data[:2] + segment + data[2:]) == Credit("José Ñuñez", "CC0")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no picture",
        picture(),
        with_exif("unknown", " \0"),
        picture(xmp=b"<x:xmpmeta"),
        picture(xmp=b'<!DOCTYPE a [<!ENTITY b "bbbb">]><a>&b;</a>'),
        picture(exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"),
    ],
)
def test_nothing_is_invented(data: bytes) -> None:
    assert embedded_credit(data) == Credit()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_lists_as_spreadsheets_save_them(tmp_path: Path, encoding: str, delimiter: str) -> None:
    lines = ["Path;Author;Licence;URL", "gate;Zoë;CC BY 4.0;", "gate\\in 1.jpg;Ann;;https://example.org/1", ";Museum;;"]
    path = tmp_path / "list.csv"
    path.write_bytes("\r\n".join(lines).replace(";", delimiter).encode(encoding))
    found = read_credits(path)
    assert found.of("gate/in 1.jpg") == Credit("Ann", "CC BY 4.0", "", "https://example.org/1")
    assert found.of("gate/2.jpg") == Credit("Zoë", "CC BY 4.0")
    assert found.of("gates/2.jpg") == Credit("Museum")
    assert found.unused == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("file,author\na,b\n", "line 1 has the columns file, author; expected path"),
        ("path,author\na,b\na/,c\n", "line 3: path 'a' stands twice"),
        ('path,author\na,"b\nc,d\n', "line 2: not CSV"),
        (
            'path,author,license\na.jpg,"b,c\nd.jpg,e,f\ng.jpg,h",i\n',
            "line 2: author holds what looks like another row",
        ),
        ("path,author\na.jpg,b,c\n", "line 2: 3 values, expected at most 2"),
        ("path,author,author\na,b,c\n", "line 1 has the column author twice"),
        ("path,author\na,b\0\n", "line 2: holds a NUL"),
        ("", "empty; expected a header with path and some of author, license, title, url"),
        ("\ufeff\n\n", "empty; expected a header with path and some of"),
    ],
)
def test_a_wrong_list_is_named_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(SourceError, match=r"list\.csv") as raised:
        read_credits(tmp_path / "list.csv")
    assert told in str(raised.value)


def test_a_bucket_has_the_rights_and_counts_those_without(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for folder in ("gate", "tower/old"):
        (photos / folder).mkdir(parents=True)
    (photos / "gate" / "1.jpg").write_bytes(with_exif("Ann", "© Ann"))
    (photos / "gate" / "2.jpg").write_bytes(picture(2))
    (photos / "tower" / "old" / "3.jpg").write_bytes(picture(3))
    (photos / "tower" / "old" / "4.jpg").write_bytes(picture(4))
    (photos / "tower" / "credits.csv").write_text("path,author,license\nold/3.jpg,Bob,CC0\n")
    given = tmp_path / "given.csv"
    given.write_text("path,license,url\ngate/1.jpg,CC BY 4.0,https://example.org/gate\nnowhere.jpg,CC0,\n")
    warnings: list[str] = []
    summary = pack(photos, Store(str(tmp_path / "b")), credits_file=given, test_fraction=0, warn=warnings.append)
    with (tmp_path / "b/metadata/train_attribution.csv").open(newline="", encoding="utf-8") as file:
        rows = {row.pop("title"): row for row in csv.DictReader(file)}
    for row in rows.values():
        row.pop("id")
    assert rows == {
        "1.jpg": {"url": "https://example.org/gate", "author": "Ann", "license": "CC BY 4.0"},
        "2.jpg": {"url": "", "author": "", "license": ""},
        "3.jpg": {"url": "", "author": "Bob", "license": "CC0"},
        "4.jpg": {"url": "", "author": "", "license": ""},
    }
    assert (summary.without_rights, summary.files, summary.left_out) == (2, 4, {})
    assert [line for line in warnings if "given.csv" in line] == [
        f"{given}: 1 rows name no photograph, the first 'nowhere.jpg'"
    ]
    text = "".join(path.read_text(errors="replace") for path in (tmp_path / "b").rglob("*.csv"))
    assert "wikimedia" not in text
