"""`fastgw rollout`: what is refused before anybody is asked; scenarios show the rest."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from fastgw.cli import main


@pytest.mark.parametrize("verb", ["status", "wait", "promote", "abort"])
@pytest.mark.parametrize("given", ["", "4F31C09A", "../history", "4f31c09a&timeout=0"])
def test_what_is_no_id_is_named(verb: str, given: str) -> None:
    done = CliRunner().invoke(main, ["rollout", verb, "--id", given])
    assert done.exit_code == 2
    assert f"{given!r} is no id, such as 4f31c09a" in done.output
