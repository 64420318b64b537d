"""What `fastgw._uri` must answer, written straight from the rules; they are Kong's, as behaviour."""

import re

RESERVED = b"!*'();:@&=+$,/?%#[]"
PASSES = RESERVED + b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"


def normalise(path: bytes) -> bytes:
    def decode(match: re.Match[bytes]) -> bytes:
        byte = bytes([int(match[1], 16)])
        return match[0].upper() if byte in RESERVED else byte

    path = re.sub(rb"%([0-9A-Fa-f]{2})", decode, path)
    if not path.startswith(b"/"):
        return path
    kept: list[bytes] = []
    segments = re.sub(rb"/+", b"/", path).split(b"/")[1:]
    for segment in segments:
        if segment == b"..":
            del kept[-1:]
        elif segment not in (b".", b""):
            kept.append(segment)
    open_ended = segments[-1] in (b"", b".", b"..") and bool(kept)
    return b"/" + b"/".join(kept) + (b"/" if open_ended else b"")


def encode(path: bytes) -> bytes:
    return b"".join(bytes([byte]) if byte in PASSES else b"%%%02X" % byte for byte in path)


def is_plain(path: bytes) -> bool:
    return path.startswith(b"/") and b"%" not in path and normalise(path) == path and encode(path) == path


def upstream_path(
    service_path: bytes | None, path: bytes, matched_len: int, strip: bool, *, is_v1: bool = False
) -> bytes:
    service = service_path or b"/"
    if is_v1:
        if not strip:
            return service + path.removeprefix(b"/")
        rest = _rest(path, matched_len)
        return service + (rest.removeprefix(b"/") if service.endswith(b"/") else rest)
    if strip:
        return _stripped(service, path, matched_len)
    if service.endswith(b"/"):
        return service + path.removeprefix(b"/")
    return service if path == b"/" else service + path


def _rest(path: bytes, matched_len: int) -> bytes:
    """What follows the match, without what could climb out of the service's path."""
    rest = path[matched_len:] if matched_len else path.removeprefix(b"/")
    if rest in (b".", b".."):
        rest = b""
    for dots in (b"./", b"../"):
        if rest.startswith(dots):
            return rest[len(dots) :]
    return rest


def _stripped(service: bytes, path: bytes, matched_len: int) -> bytes:
    rest = _rest(path, matched_len)
    if service.endswith(b"/"):
        if rest == b"":
            return service if service == b"/" or path.endswith(b"/") else service[:-1]
        return service[:-1] + rest if rest.startswith(b"/") else service + rest
    if rest == b"":
        return service + b"/" if len(path) > 1 and path.endswith(b"/") else service
    return service + rest if rest.startswith(b"/") else service + b"/" + rest
