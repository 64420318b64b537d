"""Benchmarks: `load/` compares whole processes under load, `micro/` times single functions. See README.md."""
