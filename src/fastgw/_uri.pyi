"""Request paths on bytes, as the proxy and the Admin API's validation see them.

Source: Kong's kong/tools/uri.lua and its v0 path handling, as behaviour.
"""

def is_plain_path(path: bytes) -> bool:
    """True only if `normalise` and `encode` would both leave *path* as it is.

    May be False for such a path too (one that holds `%`): it is the fast test, not the exact one.
    """

def normalise(path: bytes) -> bytes:
    """The form of *path* (the request target up to its query) that routes are matched against.

    Decodes each `%XX` but those of reserved bytes, which keep upper-case hex; then removes `.` and
    `..` segments, never above the root, with runs of `/` read as one. A trailing slash stays.
    What does not begin with `/` (the target `*`) is decoded and has no segments.
    """

def encode(path: bytes) -> bytes:
    """*path* with every byte that may not stand in a request target written as `%XX`; `%` stays."""

def upstream_path(
    service_path: bytes | None, path: bytes, matched_len: int, strip: bool, *, is_v1: bool = False
) -> bytes:
    """The path to ask the upstream for, not yet re-encoded.

    Args:
        service_path: the service's path; None stands for `/`.
        path: the request path in normal form.
        matched_len: bytes of it that the route's path matched; 0 if the route has no path.
        strip: whether the matched bytes are taken away.
        is_v1: join the parts as Kong's path_handling v1 does, else v0.
    Raises:
        ValueError: *matched_len* is not within *path*.
    """
