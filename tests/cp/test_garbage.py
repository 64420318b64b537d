"""Collection is off while anybody asks for that, and on again after the last."""

from __future__ import annotations

import gc

import pytest

from fastgw.cp.garbage import no_collection


def test_it_is_off_until_the_last_one_is_done() -> None:
    assert gc.isenabled()
    first, second = no_collection(), no_collection()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not gc.isenabled()
    second.__exit__(None, None, None)
    assert gc.isenabled()
    with pytest.raises(LookupError), no_collection():
        raise LookupError
    assert gc.isenabled()


def test_a_process_without_collection_stays_so() -> None:
    gc.disable()
    try:
        with no_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
