"""Single functions, timed with pytest-benchmark: `python -m pytest bench/micro`.

Each timed call does its work 1,000 times where not said otherwise: microseconds in the table read as
nanoseconds per item. Loops that are to be free of Python's call overhead are in `_loops.pyx`, which
`conftest.py` builds into `build/`.
"""
