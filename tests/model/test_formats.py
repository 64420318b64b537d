"""Formats of strings: what passes, and Kong's words for what does not."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw._uri import normalise
from fastgw.model.formats import FORMATS, is_uuid

GOOD = [
    ("utf8_name", "my-service_1.~"),
    ("utf8_name", "größe"),
    ("host", "example.com"),
    ("host", "example.com."),
    ("host", "under_score"),
    ("host", "127.0.0.1"),
    ("host", "::1"),
    ("host", "[::1]"),
    ("host_with_optional_port", "a.com:80"),
    ("host_with_optional_port", "[::1]:80"),
    ("host_with_optional_port", "1.2.3.4:65535"),
    ("route_host", "*.example.com"),
    ("route_host", "example.*"),
    ("route_host", "example.com:8000"),
    ("wildcard_host", "*.a.com"),
    ("wildcard_host", "a.*"),
    ("wildcard_host", "a.com"),
    ("path", "/a/b%20c;d=1"),
    ("route_path", "/a"),
    ("route_path", "/a b"),
    ("route_path", "/a%2Fb"),
    ("route_path", "/café"),
    ("route_path", "~/a/[0-9]+$"),
    ("tag", "a b"),
    ("tag", 'é!"#~'),
    ("header_name", "X-Team_1"),
    ("ip_or_cidr", "10.0.0.0/8"),
    ("ip_or_cidr", "10.1.2.3"),
    ("ip_or_cidr", "2001:db8::/32"),
]

BAD = [
    (
        "utf8_name",
        "a b",
        "invalid value 'a b': the only accepted ascii characters are alphanumerics or ., -, _, and ~",
    ),
    ("host", "a b", "invalid value: a b"),
    ("host", "a..b", "invalid value: a..b"),
    ("host", "-a-", "invalid value: -a-"),
    ("host", "a.com\n", "invalid value: a.com\n"),
    ("host", "1.2.3.256", "invalid value: 1.2.3.256"),
    ("host", "1.2.3", "invalid value: 1.2.3"),
    ("host", "fe80::1%eth0", "invalid value: fe80::1%eth0"),
    ("host", "example.com:80", "must not have a port"),
    ("host", "1.2.3.4:80", "must not have a port"),
    ("host", "example.com:99999", "must not have a port"),
    ("host_with_optional_port", "a b", "invalid hostname: a b"),
    ("host_with_optional_port", "a:99999", "invalid port number"),
    ("host_with_optional_port", "a:" + "9" * 5000, "invalid port number"),
    ("host_with_optional_port", "1.2.3", "invalid ipv4 address: 1.2.3"),
    ("host_with_optional_port", "1::2::3", "invalid ipv6 address: 1::2::3"),
    ("route_host", "*.a b", "invalid hostname: *.a b"),
    ("route_host", "a:70000", "invalid port number"),
    ("wildcard_host", "a.*.b", "wildcard must be leftmost or rightmost character"),
    ("wildcard_host", "*.*", "only one wildcard must be specified"),
    ("wildcard_host", "*.a b", "invalid value: *.a b"),
    ("wildcard_host", "1.2.3.4", "must not be an IP"),
    ("wildcard_host", "a:80", "must not have a port"),
    ("path", "/a b", "invalid path: '/a b' (characters outside of the reserved list of RFC 3986 found)"),
    ("path", "/a%2x", "invalid url-encoded value: '%2x'"),
    ("path", "/a%", "invalid url-encoded value: '%'"),
    ("route_path", "/a%zz", "invalid url-encoded value: '%zz'"),
    ("route_path", "/a/./b", "non-normalized path, consider use '/a/b' instead"),
    ("route_path", "/%61", "non-normalized path, consider use '/a' instead"),
    ("route_path", "/a%2fb", "non-normalized path, consider use '/a%2Fb' instead"),
    ("route_path", "/caf%C3%A9", "non-normalized path, consider use '/café' instead"),
    (
        "tag",
        "a,b",
        "invalid tag 'a,b': expected printable ascii (except `,` and `/`) or valid utf-8 sequences",
    ),
    (
        "tag",
        "a/b",
        "invalid tag 'a/b': expected printable ascii (except `,` and `/`) or valid utf-8 sequences",
    ),
    ("header_name", "a b", "bad header name 'a b', allowed characters are A-Z, a-z, 0-9, '_', and '-'"),
    ("ip_or_cidr", "10.0.0.0/33", "invalid ip or cidr range: '10.0.0.0/33'"),
    ("ip_or_cidr", "10.0.0.0/", "invalid ip or cidr range: '10.0.0.0/'"),
    ("ip_or_cidr", "a", "invalid ip or cidr range: 'a'"),
]


@pytest.mark.parametrize(("name", "value"), GOOD)
def test_good_values_pass(name: str, value: str) -> None:
    assert FORMATS[name](value) is None


@pytest.mark.parametrize(("name", "value", "message"), BAD)
def test_bad_values_are_told_in_kongs_words(name: str, value: str, message: str) -> None:
    assert FORMATS[name](value) == message


@given(st.sampled_from(sorted(FORMATS)), st.text())
def test_no_text_makes_a_format_raise(name: str, value: str) -> None:
    message = FORMATS[name](value)
    assert message is None or message


@given(st.text(st.sampled_from("/.%2Ffa6é "), max_size=12).map("/{}".format))
def test_a_route_path_passes_exactly_when_it_is_normal(path: str) -> None:
    message = FORMATS["route_path"](path)
    if re.search("%(?![0-9A-Fa-f]{2})", path):
        assert message is not None
        assert message.startswith("invalid url-encoded value: '%")
    else:
        assert (message is None) == (normalise(path.encode()) == path.encode())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7fca84d6-7d37-4a74-a7b0-93e576089a41", True),
        ("7FCA84D6-7d37-0000-0000-93e576089a41", True),
        ("7fca84d6-7d37-4a74-a7b0-93e576089a41\n", False),
        ("7fca84d67d374a74a7b093e576089a41", False),
        ("g" * 36, False),
    ],
)
def test_uuid_shape(text: str, expected: bool) -> None:
    assert is_uuid(text) is expected
