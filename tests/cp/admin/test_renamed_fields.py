"""Plugin fields that Kong has renamed: both names are taken."""

from __future__ import annotations

from typing import Any

import httpx
import pytest


def config_of(answer: httpx.Response) -> dict[str, Any]:
    assert answer.is_success, answer.text
    config: dict[str, Any] = answer.json()["config"]
    return config


@pytest.mark.parametrize("is_form", [False, True])
def test_old_names_are_taken_in_place_of_the_new_ones(admin: httpx.Client, is_form: bool) -> None:
    if is_form:
        sent = {
            "name": "rate-limiting",
            "config.minute": "5",
            "config.redis_host": "r",
            "config.redis_port": "7",
        }
        answer = admin.post("/plugins", data=sent)
    else:
        config = {"minute": 5, "redis_host": "r", "redis_port": 7}
        answer = admin.post("/plugins", json={"name": "rate-limiting", "config": config})
    made = config_of(answer)
    assert (made["redis"]["host"], made["redis"]["port"], made["redis"]["timeout"]) == ("r", 7, 2000)
    assert not [name for name in made if name.startswith("redis_")]
    path = f"/plugins/{answer.json()['id']}"
    # What was read may be sent back as it is, and with what older clients add.
    sent_back = {"name": "rate-limiting", "config": {**made, "redis_host": None, "redis_port": 7}}
    assert config_of(admin.put(path, json=sent_back)) == made

    changed = config_of(admin.patch(path, json={"config": {"redis_host": "s"}}))
    assert (changed["redis"]["host"], changed["redis"]["port"]) == ("s", 7)
    changed = config_of(admin.patch(path, json={"config": {"redis_port": 8, "redis": {"host": None}}}))
    assert (changed["redis"]["host"], changed["redis"]["port"]) == (None, 8)


def test_names_that_contradict_each_other_are_refused(admin: httpx.Client) -> None:
    config = {"minute": 5, "redis_ssl": True, "redis": {"ssl": False}}
    answer = admin.post("/plugins", json={"name": "rate-limiting", "config": config})
    text = "both deprecated and new field are used but their values mismatch: redis_ssl = true vs redis.ssl = false"
    assert answer.status_code == 400
    assert answer.json()["fields"] == {"config": {"redis_ssl": text}}
    wrong = admin.post(
        "/plugins", json={"name": "rate-limiting", "config": {"minute": 5, "redis_port": "x", "redis": 1}}
    )
    assert wrong.json()["fields"]["config"] == {"redis": "expected a record"}


def test_schemas_tell_old_names_and_what_replaces_them(admin: httpx.Client) -> None:
    fields = admin.get("/schemas/plugins/rate-limiting").json()["fields"]
    (config,) = (field["config"] for field in fields if "config" in field)
    old = {name: shown for field in config["shorthand_fields"] for name, shown in field.items()}
    assert old["redis_port"]["type"] == "integer"
    assert "default" not in old["redis_port"]
    assert old["redis_port"]["deprecation"]["replaced_with"] == [{"path": ["redis", "port"]}]


def test_a_field_renamed_in_place(admin: httpx.Client) -> None:
    answer = admin.post(
        "/plugins",
        json={"name": "opentelemetry", "config": {"endpoint": "http://otel.example:4318/v1/traces"}},
    )
    assert config_of(answer)["traces_endpoint"] == "http://otel.example:4318/v1/traces"
