"""Bearer tokens: what is one, whatever bytes were sent."""

from __future__ import annotations

from hashlib import sha256

import pytest
from django.test import RequestFactory, override_settings
from hypothesis import given
from hypothesis import strategies as st

from django_dbpool.conf import project_config
from django_dbpool.core.tokens import LONGEST, matches
from django_dbpool.views.access import has_token, sends_token


def digest(token: bytes) -> str:
    return sha256(token).hexdigest()


@given(token=st.binary(min_size=1, max_size=LONGEST), other=st.binary(max_size=64))
def test_a_token_is_known_by_its_digest(token: bytes, other: bytes) -> None:
    digests = [digest(b"first"), digest(token), digest(b"last")]
    assert matches(token, digests)
    assert matches(b"first", digests) and matches(b"last", digests)
    assert matches(other, digests) is (other in (token, b"first", b"last"))
    assert not matches(token, [])


@pytest.mark.parametrize("token", [b"", b"x" * (LONGEST + 1)], ids=["empty", "too long"])
def test_what_is_never_a_token(token: bytes) -> None:
    assert not matches(token, [digest(token)])


headers = st.builds(
    "{}{}{}".format,
    st.sampled_from(["Bearer", "BEARER", "Basic", ""]),
    st.sampled_from(["", " ", "  ", "\t"]),
    st.just("a token") | st.just("a token ") | st.text(max_size=50),
)


@given(headers)
def test_whatever_the_header_is(header: str) -> None:
    """A header is somebody's text: it is compared, it never fails."""
    request = RequestFactory().get("/", HTTP_AUTHORIZATION=header)
    with override_settings(DBPOOL={"TOKENS": [digest(b"a token")]}):
        assert has_token(request) is (sends_token(request) and header.partition(" ")[2].strip(" ") == "a token")


def test_digests_are_read_in_capitals_and_are_not_in_the_repr() -> None:
    with override_settings(DBPOOL={"TOKENS": (f" {digest(b'a token').upper()}\n",)}):
        assert project_config().tokens == (digest(b"a token"),)
        assert digest(b"a token") not in repr(project_config())
