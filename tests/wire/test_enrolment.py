"""Tokens and the messages around certificates: what is read back, and that anything else is one clear error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.errors import RemoteLinkError, SettingsError
from fastgw.wire import enrolment as e


@given(st.binary(min_size=32, max_size=32))
def test_a_token_is_read_back(pin: bytes) -> None:
    token = e.Token.make(pin)
    assert e.Token.parse(f" {token}\n") == token


def test_a_token_does_not_show_its_secret_by_accident() -> None:
    token = e.Token.make(bytes(32))
    assert str(token).split(".")[2] not in repr(token)
    assert token.secret.hex() not in repr(token)


@given(st.text(max_size=120))
def test_any_other_text_is_no_token_and_is_not_repeated(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        e.Token.parse(f"fgw1.{text}")
    assert str(caught.value) == "this is no token of 'fastgw pki token': one line that begins with 'fgw1.'"


@given(st.binary(max_size=200))
def test_any_other_bytes_are_no_message(data: bytes) -> None:
    for decode in (e.decode_to_office, e.decode_from_office):
        with pytest.raises(RemoteLinkError):
            decode(data)


def test_a_message_has_a_bound() -> None:
    with pytest.raises(RemoteLinkError, match="more than"):
        e.decode_to_office(bytes(e.ENROL_LIMIT_BYTES + 1))
