"""The protocol between control plane and data plane, without any I/O.

1. `messages`: what travels, and its bounds. 2. `states`: which end may do what, and when. 3. `link`: the two
ends; `offering` is a snapshot ready to be sent, shared by all links. 4. `pump`: the websocket around a link's
messages. 5. `pacing`: when to dial again.

A link lives like this::

    data plane                                      control plane
      Hello{who, what is applied} ───────────────────> joins the hub
      <──────────────────────────── Welcome{heartbeat, spread}
      <──────── Same{version}  or  SnapshotBegin, SnapshotChunk...
      Ack{version, digest, ms} or Nack{version, faults} ───────>
      Ping{version, digest} ─ every heartbeat ─> <──────── Pong
"""
