"""From entities to what a data plane serves.

    snapshot document ──compile──> image ──open──> table, route and service records

`compile` turns a canonical document into an image, with `_plain_routes` for what most routes are and `routes`
for all others; `image` is that file's format; `compile_process` runs it in a process of its own so that no
event loop waits for it (`jobs` and `compile_child` are its other end).
"""
