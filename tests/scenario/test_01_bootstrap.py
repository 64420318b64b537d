"""The database before the first start: bootstrapped by the command, or by itself."""

from __future__ import annotations

from tests.postgres import PgDatabase
from tests.scenario.harness import Pair, Stage, fastgw


def test_postgres_is_bootstrapped_by_the_command(pg_database: PgDatabase, stage: Stage, pair: Pair) -> None:
    assert stage.ended("migrations list", pg_database.properties).exit_code() == 3

    told = stage.ended("cp", {**pg_database.properties, **pair.settings, "prefix": str(stage.directory / "cp"),
                              "admin_error_log": "/dev/stderr"})  # fmt: skip
    assert told.exit_code() == 1
    assert told.log.count("\n") == 1
    assert "run 'fastgw migrations bootstrap'" in told.log

    # Two at once, as the two containers of a new installation may do it.
    both = [
        stage.run(f"bootstrap-{number}", *fastgw("migrations bootstrap", pg_database.properties))
        for number in range(2)
    ]
    assert [process.exit_code() for process in both] == [0, 0]
    assert sorted("already bootstrapped" in process.output for process in both) == [False, True]

    assert stage.ended("migrations list", pg_database.properties).exit_code() == 0
    control_plane = stage.control_plane(pair, pg_database.properties)
    assert "control plane on postgres, is ready" in control_plane.log


def test_sqlite_bootstraps_itself(stage: Stage, pair: Pair) -> None:
    control_plane = stage.control_plane(pair)
    assert "control plane on sqlite, is ready" in control_plane.log
    assert not control_plane.warnings
    settings = {"prefix": str(stage.directory / "cp")}
    control_plane.stop()
    assert stage.ended("migrations list", settings).exit_code() == 0


def test_what_was_written_is_there_after_a_crash(storage: dict[str, str], stage: Stage, pair: Pair) -> None:
    control_plane = stage.control_plane(pair, storage)
    control_plane.add_service("kept", "http://127.0.0.1:1/")
    control_plane.kill()
    control_plane.start()
    control_plane.wait_ready()
    assert control_plane.expect(200, control_plane.admin.get("/services/kept"))["name"] == "kept"
