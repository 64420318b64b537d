"""Request paths: the tables of Kong's behaviour by name; the compiled code held equal to its twin."""

from types import ModuleType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastgw import _uri
from tests.reference import uri as reference

IMPLEMENTATIONS: list[ModuleType] = [_uri, reference]
both = pytest.mark.parametrize("uri", IMPLEMENTATIONS, ids=["compiled", "reference"])

# Built from what the rules look at, so that short examples reach the corners.
PIECES = [b"/", b"//", b".", b"..", b"a", b"b.", b"%2F", b"%2f", b"%2e", b"%2E", b"%61", b"%", b"%4", b"%zz"]
PIECES += [b"%20", b" ", b"%00", b"%C3", b"\xe9", b"%25", b"%5B", b"|", b"~", b"?", b"*"]
targets = st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join)
paths = targets.map(lambda target: b"/" + target)


@both
@pytest.mark.parametrize(
    ("sent", "seen", "upstream"),
    [
        (b"/a%2Fb", b"/a%2Fb", b"/a%2Fb"),
        (b"/a%2fb", b"/a%2Fb", b"/a%2Fb"),
        (b"/%61bc", b"/abc", b"/abc"),
        (b"/caf%C3%A9", b"/caf\xc3\xa9", b"/caf%C3%A9"),
        (b"/a%20b", b"/a b", b"/a%20b"),
        (b"/a//b/./c/../d", b"/a/b/d", b"/a/b/d"),
        (b"/", b"/", b"/"),
        (b"/x/", b"/x/", b"/x/"),
        (b"/x/.", b"/x/", b"/x/"),
        (b"/x/..", b"/", b"/"),
        (b"/x/y/..", b"/x/", b"/x/"),
        (b"/../../x", b"/x", b"/x"),
        (b"/x/%2e%2E/y", b"/y", b"/y"),
        (b"/x//../y", b"/y", b"/y"),
        (b"//", b"/", b"/"),
        (b"/..x/.y/z.", b"/..x/.y/z.", b"/..x/.y/z."),
        (b"/100%", b"/100%", b"/100%"),
        (b"/%zz%4", b"/%zz%4", b"/%zz%4"),
        (b"/%2541", b"/%2541", b"/%2541"),
        (b"/%00%7f", b"/\x00\x7f", b"/%00%7F"),
        (b'/a"<b>\\', b'/a"<b>\\', b"/a%22%3Cb%3E%5C"),
        (b"*", b"*", b"*"),
        (b"", b"", b""),
    ],
)
def test_normal_form_and_what_goes_upstream(uri: Any, sent: bytes, seen: bytes, upstream: bytes) -> None:
    assert uri.normalise(sent) == seen
    assert uri.encode(seen) == upstream


@both
@pytest.mark.parametrize(
    ("service", "route", "strips", "sent", "v0", "v1"),
    [
        (b"/", b"/route", [False], b"/route/", b"/route/", b"/route/"),
        (b"/", b"/route", [True], b"/route", b"/", b"/"),
        (b"/", b"/route", [True], b"/routereq", b"/req", b"/req"),
        (b"/", b"/route/", [True], b"/route/req", b"/req", b"/req"),
        (b"/srv", b"/rou", [False], b"/roureq", b"/srv/roureq", b"/srvroureq"),
        (b"/srv", b"/rou", [True], b"/roureq", b"/srv/req", b"/srvreq"),
        (b"/srv/", b"/rou", [False], b"/rou", b"/srv/rou", b"/srv/rou"),
        (b"/srv/", b"/rou", [True], b"/rou", b"/srv", b"/srv/"),
        (b"/service", b"/", [False, True], b"/", b"/service", b"/service"),
        (b"/service", b"/", [False, True], b"/route", b"/service/route", b"/serviceroute"),
        (b"/service", b"/route", [False], b"/route/", b"/service/route/", b"/serviceroute/"),
        (b"/service", b"/route", [True], b"/route", b"/service", b"/service"),
        (b"/service", b"/route", [True], b"/route/", b"/service/", b"/service/"),
        (b"/service", b"/route", [True], b"/routereq", b"/service/req", b"/servicereq"),
        (b"/service", b"/route/", [True], b"/route/", b"/service/", b"/service"),
        (b"/service", b"/route/", [True], b"/route/req", b"/service/req", b"/servicereq"),
        (b"/service/", b"/", [False, True], b"/route/", b"/service/route/", b"/service/route/"),
        (b"/service/", b"/route", [True], b"/route", b"/service", b"/service/"),
        (b"/service/", b"/route", [True], b"/route/", b"/service/", b"/service/"),
        (b"/service/", b"/route/", [True], b"/route/req", b"/service/req", b"/service/req"),
        (b"/service", None, [False, True], b"/route/", b"/service/route/", b"/serviceroute/"),
        (b"/service/", None, [False, True], b"/", b"/service/", b"/service/"),
        (b"/service", b"/route", [True], b"/route../req", b"/service/req", b"/servicereq"),
        (b"/service", b"/route", [True], b"/route%2e%2E/req", b"/service/req", b"/servicereq"),
        (b"/service", b"/route", [False], b"/route%2E/req", b"/service/route./req", b"/serviceroute./req"),
        (b"/service", b"/route", [True], b"/route..", b"/service", b"/service"),
        (b"/service", b"/route", [True], b"/route.", b"/service", b"/service"),
        (b"/service", b"/route", [True], b"/route./x", b"/service/x", b"/servicex"),
        (b"/service", b"/route", [True], b"/route.../x", b"/service/.../x", b"/service.../x"),
        (None, b"/route", [True], b"/route", b"/", b"/"),
        (None, b"/route", [True], b"/route/x", b"/x", b"/x"),
    ],
)
def test_path_handling(
    uri: Any,
    service: bytes | None,
    route: bytes | None,
    strips: list[bool],
    sent: bytes,
    v0: bytes,
    v1: bytes,
) -> None:
    path = uri.normalise(sent)
    assert path.startswith(route or b"")
    for strip in strips:
        assert uri.upstream_path(service, path, len(route or b""), strip) == v0
        assert uri.upstream_path(service, path, len(route or b""), strip, is_v1=True) == v1


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        (b"/", True),
        (b"/a/b-c_d~e.f/", True),
        (b"/.well-known/x", True),
        (b"/..x/...", True),
        (b"/a@b;c=d,e!(f)", True),
        (b"", False),
        (b"*", False),
        (b"a/b", False),
        (b"/a//b", False),
        (b"/a/.", False),
        (b"/a/./b", False),
        (b"/a/..", False),
        (b"/a/../b", False),
        (b"/%61", False),
        (b"/a b", False),
        (b"/\xc3\xa9", False),
        (b"/a\\b", False),
    ],
)
def test_plain_paths_are_told_apart(path: bytes, plain: bool) -> None:
    assert _uri.is_plain_path(path) is plain
    assert reference.is_plain(path) is plain


def test_a_match_longer_than_the_path_is_refused() -> None:
    for matched_len in (-1, 3):
        with pytest.raises(ValueError, match="matched length"):
            _uri.upstream_path(None, b"/a", matched_len, True)


@given(paths)
@example(b"/a/b//..")
@example(b"/%2e./a/.%2E")
def test_twins_normalise_alike(path: bytes) -> None:
    seen = _uri.normalise(path)
    assert seen == reference.normalise(path)
    assert len(seen) <= len(path)
    assert b"//" not in seen
    assert not {b".", b".."} & set(seen.split(b"/"))


@given(st.binary(max_size=40) | targets)
def test_twins_agree_on_any_bytes(path: bytes) -> None:
    assert _uri.normalise(path) == reference.normalise(path)
    assert _uri.encode(path) == reference.encode(path)
    assert _uri.is_plain_path(path) == reference.is_plain(path)


@given(
    service=st.none() | st.sampled_from([b"/", b"/s", b"/s/", b"/s/t", b"/."]),
    target=paths,
    share=st.integers(0, 20),
    strip=st.booleans(),
    is_v1=st.booleans(),
)
def test_twins_agree_on_the_upstream_path(
    service: bytes | None, target: bytes, share: int, strip: bool, is_v1: bool
) -> None:
    path = reference.normalise(target)
    matched_len = min(share, len(path))
    wanted = reference.upstream_path(service, path, matched_len, strip, is_v1=is_v1)
    assert _uri.upstream_path(service, path, matched_len, strip, is_v1=is_v1) == wanted
