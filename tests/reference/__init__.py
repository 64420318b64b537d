"""Twins of the compiled modules: the same rules as the plainest code, for the tests to compare with."""
