"""The states of both kinds of connection, and the moves between them: the one table.

The compiled classes fill their move tables from here and have one setter each; a move that is not listed
raises and changes nothing.

Downstream (the client's connection)::

                  ┌──────────────── answered, kept alive ────────────────┐
                  v                                                      │
    CLEAN ──> READ_HEAD ──> READ_BODY ──request whole──> ANSWERING ──────┤
      │           │             │                            ├─101─> TUNNEL
      │           │             └─answered early─> DRAINING ─┼─body over─┘
      │           └──refused──> LINGER <─────────────────────┤
      └─────────────────────────> DEAD <─────────────────────┘   (from every state)

Upstream (ours to a target)::

    CLEAN ──request──> WAITING ──answer's head──> BODY ──whole, in frame, nothing left──> CLEAN
                          ├──101 that was asked for──> TUNNEL ──> DEAD
                          └───────────────────────┴──anything else──> DEAD

A connection is reused only from CLEAN. Source: http-security checklist §4.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final


class DownstreamState(IntEnum):
    CLEAN = 0  #: between requests, nothing read
    READ_HEAD = 1  #: a head has begun
    READ_BODY = 2  #: an exchange is in progress, its request body still comes
    ANSWERING = 3  #: an exchange is in progress, its request is whole
    DRAINING = 4  #: the answer has gone before the request was whole: the rest is dropped, to a bound
    LINGER = 5  #: our side is closed, the client may still read the answer
    TUNNEL = 6  #: the upstream has answered 101: bytes, no messages any more
    DEAD = 7


class UpstreamState(IntEnum):
    CLEAN = 0  #: idle in its pool, nothing owed and nothing left over
    WAITING = 1  #: a request goes out, the answer's head has not come
    BODY = 2  #: the answer's body comes
    TUNNEL = 3
    DEAD = 4


_D, _U = DownstreamState, UpstreamState

DOWNSTREAM_MOVES: Final[Mapping[DownstreamState, frozenset[DownstreamState]]] = {
    _D.CLEAN: frozenset({_D.READ_HEAD, _D.READ_BODY, _D.ANSWERING, _D.LINGER, _D.DEAD}),
    _D.READ_HEAD: frozenset({_D.READ_BODY, _D.ANSWERING, _D.LINGER, _D.DEAD}),
    _D.READ_BODY: frozenset({_D.ANSWERING, _D.DRAINING, _D.LINGER, _D.DEAD}),
    _D.ANSWERING: frozenset({_D.CLEAN, _D.LINGER, _D.TUNNEL, _D.DEAD}),
    _D.DRAINING: frozenset({_D.CLEAN, _D.LINGER, _D.DEAD}),
    _D.LINGER: frozenset({_D.DEAD}),
    _D.TUNNEL: frozenset({_D.LINGER, _D.DEAD}),
    _D.DEAD: frozenset({_D.DEAD}),
}

UPSTREAM_MOVES: Final[Mapping[UpstreamState, frozenset[UpstreamState]]] = {
    _U.CLEAN: frozenset({_U.WAITING, _U.DEAD}),
    _U.WAITING: frozenset({_U.BODY, _U.TUNNEL, _U.DEAD}),
    _U.BODY: frozenset({_U.CLEAN, _U.DEAD}),
    _U.TUNNEL: frozenset({_U.DEAD}),
    _U.DEAD: frozenset({_U.DEAD}),
}
