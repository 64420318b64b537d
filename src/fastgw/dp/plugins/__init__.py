"""Plugins: plain Python that requests pass on their way, inside the worker's process.

    rewrite ─> (routing) ─> access ─> upstream ─> header_filter ─> body_filter… ─> client ─> log
                                         └──────> response (instead of both, the answer whole)

A plugin is a class (`base.Plugin`) of which there is one object per configured plugin; it keeps nothing of a
request. The plugins of a route are a `chain.Chain`, put together when the route is first used in a
generation, and `None` for a route without any: such a route pays nothing. `dp/_phases` moves an exchange
through its chain.

What users may rely on stands in docs/plugins.md.
"""
