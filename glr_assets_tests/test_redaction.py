"""No secret passes: what was registered, what the environment holds, and what looks like one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glr_assets import redaction
from glr_assets.errors import GlrError, StoreError, describe, trace
from glr_assets.redaction import has_credentials, redact, redacted, register, safe_cause


@pytest.fixture(autouse=True)
def _none_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_registered", set())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ftp://ann:pass%20word@host/x: refused", "ftp://***@host/x: refused"),
        ("https://ghp_token@host/x", "https://***@host/x"),
        ("s3://KEY:SE/CR/ET@bucket/x", "s3://***@bucket/x"),
        ("http://127.0.0.1:9000/bucket/a@b", "http://127.0.0.1:9000/bucket/a@b"),
        ("see redis://:pw@127.0.0.1:6379/0 and http://a:b@c", "see redis://***@127.0.0.1:6379/0 and http://***@c"),
        ("abfs://container@account.dfs.core.windows.net/x", "abfs://container@account.dfs.core.windows.net/x"),
        ("sftp://ann@host/x", "sftp://ann@host/x"),
        ("sftp://ann:pw@host/x", "sftp://***@host/x"),
        ("https://h/x?a=1&X-Amz-Signature=abc&b=2", "https://h/x?a=1&X-Amz-Signature=***&b=2"),
        ("https://h/x?sig=abc%3D", "https://h/x?sig=***"),
        ("Authorization: Bearer abc.def-123", "Authorization: Bearer ***"),
        ("s3://bucket/folder@2024/a", "s3://bucket/folder@2024/a"),
        ("mail ann@host.org", "mail ann@host.org"),
        ("C&A: the Bearer of news", "C&A: the Bearer of news"),
    ],
)
def test_what_looks_like_credentials(text: str, expected: str) -> None:
    assert redact(text) == expected
    assert redact(redact(text)) == expected


def test_values_of_options_but_for_those_that_name_places() -> None:
    register(
        {
            "key": "AKIAEXAMPLE",
            "secret": "wJalr/XUt+nFEMI==",
            "endpoint_url": "http://127.0.0.1:9000",
            "client_kwargs": {"region_name": "eu-west-1", "aws_session_token": "token-of-session"},
            "headers": [{"X-Custom": "custom-secret"}],
            "pem": "-----BEGIN-----\nabcdefgh\n-----END-----",
            "anon": False,
            "short": "test",
        }
    )
    text = "AKIAEXAMPLE wJalr/XUt+nFEMI== http://127.0.0.1:9000 eu-west-1 token-of-session custom-secret abcdefgh test"
    assert redact(text) == "*** *** http://127.0.0.1:9000 eu-west-1 *** *** *** test"
    assert redact("AKIAEXAMPLES is another word") == "AKIAEXAMPLES is another word"
    assert redacted({"a": ["custom-secret", 3, {"b": "x custom-secret"}]}) == {"a": ["***", 3, {"b": "x ***"}]}


def test_the_longer_of_two_secrets_goes_first() -> None:
    register(["abcdef", "abcdef/ghi"])
    assert redact("abcdef/ghi") == "***"


def test_credentials_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-environment")
    monkeypatch.setenv("GLR_ALERT_WEBHOOK", "https://hooks.example.org/services/T0/B0/xyz")
    assert redact("a secret-of-environment b") == "a *** b"
    assert redact("posted to https://hooks.example.org/services/T0/B0/xyz") == "posted to ***"


def test_errors_hold_no_secret_nor_do_their_causes() -> None:
    register({"secret": "hunter22"})
    inner = ValueError("no such thing as hunter22")
    assert str(GlrError("found hunter22")) == "found ***"
    assert GlrError("a", 3).args == ("a", 3)
    assert describe(inner) == "ValueError: no such thing as ***"
    assert safe_cause(inner) is None
    clean = ValueError("clean")
    assert safe_cause(clean) is clean
    clean.__cause__ = inner
    assert safe_cause(clean) is None
    outer = RuntimeError("above")
    outer.__cause__ = inner
    assert "hunter22" not in trace(outer)
    assert "ValueError: no such thing as ***" in trace(outer)
    assert trace(StoreError("for users")) == ""


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://KEY:SECRET@bucket/x", True),
        ("s3://KEY:SE/CRET@bucket/x", True),
        ("http://127.0.0.1:9000/bucket/a@b", False),
        ("ftp://ann:pw@host", True),
        ("https://token@host/x", True),
        ("abfs://container@account/x", False),
        ("sftp://ann@host/x", False),
        ("s3://bucket/a@b", False),
        ("/folder/a:b@c", False),
        ("a:b@c/d", False),
    ],
)
def test_urls_with_credentials(url: str, expected: bool) -> None:
    assert has_credentials(url) is expected


@given(st.text(min_size=6, max_size=20).filter(str.strip), st.text(), st.text())
def test_a_registered_secret_is_in_no_text(secret: str, before: str, after: str) -> None:
    redaction._registered.clear()
    register([secret])
    assert f" {secret} " not in redact(f"{before} {secret} {after}").replace("***", "")
