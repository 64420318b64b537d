"""The corpus as it stands, and a few thousand mutations of a fixed seed; `make fuzz` runs for longer."""

from __future__ import annotations

import pytest

from tests.dp.recorder import recording
from tests.fuzz.driver import CORPUS, ROUTES, Fuzzer, judge_request, judge_response


def test_the_corpus() -> None:
    with recording(routes=ROUTES) as gateway:
        fuzzer = Fuzzer(0, gateway)
        assert len(fuzzer.seeds) > 50
        for path in sorted(CORPUS.glob("*.bin")):
            data = path.read_bytes()
            for judge in (judge_request, judge_response, fuzzer.judge_body, fuzzer.judge_stream):
                try:
                    judge(data)
                except AssertionError as error:
                    pytest.fail(f"{path.name}: {judge.__name__}: {error}")


@pytest.mark.parametrize("seed", range(3))
def test_mutations(seed: int) -> None:
    with recording(routes=ROUTES) as gateway:
        fuzzer = Fuzzer(seed, gateway)
        for _ in range(40_000):
            fuzzer.step()
