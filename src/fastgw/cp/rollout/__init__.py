"""Rollouts: a version goes first to some data planes, and to the others once it has proved itself there.

1. `states` has the states of a rollout and every move between them.
2. `selection` says which data planes are chosen; `record` is what is known of a rollout, `records` keeps it
   in the database.
3. `pinning` has the hub offer the base version to those that are not chosen.
4. `judging` looks at what data planes report and says which move is due; it writes nothing.
5. `conductor` makes the moves, each in one transaction that holds the version row: so whichever control plane
   of a cluster is first decides, and no other decides too.
"""
