"""Kong's own protocol between control plane and data plane (hybrid mode, version 1): both roles, no I/O.

    data plane                                             control plane
      GET /v1/outlet?node_id=..&node_hostname=..&node_version=..  ->  101
      BINARY  {"type": "basic_info", ...}                         ->  version check, once
      PING    hash of what runs, 32 characters                    ->  PONG, empty
      <-  BINARY  gzip of {"type": "reconfigure", ...}                the whole configuration
      PING    its hash, within a second of applying it            ->  PONG, empty
      PING    every 30 s                                          ->  PONG, empty

Nothing of ours is ever sent on such a link: no subprotocol, no extension, no message that Kong lacks. There
is no acknowledgement: a hash that comes back in a PING is the only sign that a push was applied, and a push
that was refused is answered by nothing at all.

`messages` and `frames` are the bytes, `hashes` Kong's hashes of a configuration, `versions` who may join
whom; `export` and `downgrade` make the table that is pushed, `importing` reads it; `states` and `link` are
both ends.

Source: Kong 2.8.1 to 3.9.1 (kong/clustering), and what a running 3.9.1 sent in both roles.
"""
