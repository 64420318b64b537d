"""Every entity through the Admin API: what is particular to it."""

from __future__ import annotations

import datetime
import hashlib
import time
import uuid
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


def make_pair(name: str = "a.example", *, is_authority: bool = False) -> tuple[str, str]:
    """A self-signed certificate and its key, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM).decode(), private.decode()


def post(admin: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    answer = admin.post(path, json=body)
    assert answer.status_code == 201, answer.text
    created: dict[str, Any] = answer.json()
    return created


def test_consumers_are_found_by_custom_id(admin: httpx.Client) -> None:
    bob = post(admin, "/consumers", username="bob", custom_id="b1")
    assert admin.get("/consumers", params={"custom_id": "b1"}).json() == {"data": [bob], "next": None}
    assert admin.get("/consumers", params={"custom_id": "x"}).json() == {"data": [], "next": None}
    answer = admin.get("/consumers?custom_id=")
    assert (answer.status_code, answer.json()["message"]) == (400, "custom_id must be an unempty string")


def test_a_consumer_takes_its_credentials_with_it(admin: httpx.Client) -> None:
    post(admin, "/consumers", username="bob")
    post(admin, "/consumers/bob/key-auth", key="k")
    post(admin, "/consumers/bob/acls", group="g")
    post(admin, "/consumers/bob/jwt")
    assert admin.delete("/consumers/bob").status_code == 204
    for path in ("/key-auths", "/acls", "/jwts"):
        assert admin.get(path).json()["data"] == []
    ops = [(change["entity"], change["op"]) for change in admin.get("/fastgw/history").json()["data"][:4]]
    assert ops[0] == ("consumers", "delete")
    assert sorted(ops[1:]) == [
        ("acls", "delete"),
        ("jwt_secrets", "delete"),
        ("keyauth_credentials", "delete"),
    ]


def test_keys_and_secrets_are_made_at_random(admin: httpx.Client) -> None:
    post(admin, "/consumers", username="bob")
    made = post(admin, "/consumers/bob/key-auth")
    assert len(made["key"]) == 32
    assert made["key"].isalnum()
    assert post(admin, "/consumers/bob/key-auth", key=None)["key"] is None
    jwt = post(admin, "/consumers/bob/jwt")
    assert len(jwt["key"]) == len(jwt["secret"]) == 32
    assert jwt["algorithm"] == "HS256"


def test_a_time_to_live_counts_down_and_ends_the_row(admin: httpx.Client) -> None:
    post(admin, "/consumers", username="bob")
    made = post(admin, "/consumers/bob/key-auth", key="k", ttl=100)
    assert 99 <= made["ttl"] <= 100
    assert admin.patch(f"/key-auths/{made['id']}", json={"ttl": 0}).json()["ttl"] is None
    assert admin.patch(f"/key-auths/{made['id']}", json={"ttl": 1}).json()["ttl"] == 1
    deadline = time.monotonic() + 10
    while admin.get("/key-auths/k").status_code == 200:
        assert time.monotonic() < deadline
    assert admin.get("/key-auths").json()["data"] == []
    # The key is free again at once.
    post(admin, "/consumers/bob/key-auth", key="k")


@pytest.mark.parametrize("ttl", [-1, 100_000_001, "x", 1.5, True])
def test_a_wrong_time_to_live(admin: httpx.Client, ttl: Any) -> None:
    post(admin, "/consumers", username="bob")
    answer = admin.post("/consumers/bob/key-auth", json={"ttl": ttl})
    assert answer.status_code == 400
    assert answer.json() == {
        "code": 11,
        "name": "invalid options",
        "message": "invalid option (ttl: must be an integer between 0 and 100000000)",
        "options": {"ttl": "must be an integer between 0 and 100000000"},
    }


def test_passwords_are_stored_as_kong_stores_them(admin: httpx.Client) -> None:
    bob = post(admin, "/consumers", username="bob")
    made = post(admin, "/consumers/bob/basic-auth", username="bob", password="secret")

    def hashed(password: str) -> str:
        return hashlib.sha1(f"{password}{bob['id']}".encode(), usedforsecurity=False).hexdigest()

    assert made["password"] == hashed("secret")
    changed = admin.patch("/consumers/bob/basic-auth/bob", json={"password": "other"})
    assert changed.json()["password"] == hashed("other")
    kept = admin.patch(f"/basic-auths/{made['id']}", json={"username": "bobby"})
    assert kept.json()["password"] == hashed("other")
    answer = admin.patch(f"/basic-auths/{made['id']}", json={"password": "x"})
    text = "all or none of these fields must be set: 'password', 'consumer.id'"
    assert (answer.status_code, answer.json()["fields"]) == (400, {"@entity": [text]})


def test_acls_are_named_by_their_group_under_the_consumer(admin: httpx.Client) -> None:
    bob = post(admin, "/consumers", username="bob")
    made = post(admin, "/consumers/bob/acls", group="g")
    assert admin.get("/consumers/bob/acls/g").json() == made
    assert admin.put("/consumers/bob/acls/h", json={}).json()["group"] == "h"
    answer = admin.post("/consumers/bob/acls", json={"group": "g"})
    assert answer.status_code == 409
    assert answer.json()["fields"] == {"consumer": {"id": bob["id"]}, "group": "g"}
    assert admin.get("/acls/g").json()["code"] == 1


def test_targets_are_normalised_newest_first_and_unique(admin: httpx.Client) -> None:
    upstream = post(admin, "/upstreams", name="u")
    first = post(admin, "/upstreams/u/targets", target="a.example")
    second = post(admin, "/upstreams/u/targets", target="[::1]:80", weight=0)
    assert first["target"] == "a.example:8000"
    assert second["target"] == "[0000:0000:0000:0000:0000:0000:0000:0001]:80"
    listed = admin.get("/upstreams/u/targets").json()["data"]
    assert [row["id"] for row in listed] == [second["id"], first["id"]]
    assert len(admin.get("/upstreams/u/targets/all").json()["data"]) == 2
    page = admin.get("/upstreams/u/targets?size=1").json()
    assert page["offset"] == "1"
    assert admin.get(page["next"]).json()["data"] == [first]

    answer = admin.post("/upstreams/u/targets", json={"target": "a.example:8000"})
    assert answer.status_code == 409
    assert answer.json()["fields"] == {"target": "a.example:8000", "upstream": {"id": upstream["id"]}}
    assert admin.get("/upstreams/u/targets/a.example:8000").json() == first
    assert admin.put("/upstreams/u/targets/a.example:8000", json={"weight": 7}).json()["weight"] == 7
    assert admin.put("/upstreams/u/targets/b.example:8000", json={"weight": 7}).status_code == 404
    answer = admin.post("/upstreams/u/targets", json={"target": "a b"})
    assert answer.json()["fields"] == {"target": "Invalid target; not a valid hostname or ip address"}
    assert admin.get("/targets").status_code == 404
    health = admin.get("/upstreams/u/health").json()
    assert {row["health"] for row in health["data"]} == {"HEALTHCHECKS_OFF"}
    assert admin.delete("/upstreams/u").status_code == 204


def test_hashing_and_algorithm_change_each_other(admin: httpx.Client) -> None:
    made = post(admin, "/upstreams", name="u", hash_on="ip")
    assert made["algorithm"] == "consistent-hashing"
    changed = admin.patch("/upstreams/u", json={"algorithm": "least-connections"}).json()
    assert (changed["algorithm"], changed["hash_on"]) == ("least-connections", "none")
    changed = admin.patch("/upstreams/u", json={"healthchecks": {"active": {"timeout": 2}}}).json()
    assert changed["healthchecks"]["active"]["timeout"] == 2
    assert changed["healthchecks"]["active"]["concurrency"] == 10
    answer = admin.post("/upstreams", json={"name": "v", "hash_on": "header"})
    assert answer.json()["fields"] == {
        "@entity": ["failed conditional validation given value of field 'hash_on'"],
        "hash_on_header": "required field missing",
    }


def test_certificates_come_with_their_names(admin: httpx.Client) -> None:
    cert, key = make_pair()
    made = post(admin, "/certificates", cert=cert, key=key, snis=["b.example", "a.example"])
    assert made["snis"] == ["a.example", "b.example"]
    assert admin.get("/certificates/a.example").json() == made
    assert len(admin.get("/certificates/a.example/snis").json()["data"]) == 2
    assert admin.patch(f"/certificates/{made['id']}", json={"tags": ["t"]}).json()["snis"] == made["snis"]
    patched = admin.patch(f"/certificates/{made['id']}", json={"snis": ["c.example"]}).json()
    assert patched["snis"] == ["c.example"]
    put = admin.put(f"/certificates/{made['id']}", json={"cert": cert, "key": key}).json()
    assert put["snis"] == []
    by_name = admin.put("/certificates/n.example", json={"cert": cert, "key": key, "snis": []}).json()
    assert by_name["snis"] == ["n.example"]
    answer = admin.post("/certificates", json={"cert": cert, "key": key, "snis": ["n.example"]})
    fault = f"n.example already associated with existing certificate '{by_name['id']}'"
    assert (answer.status_code, answer.json()["fields"]) == (400, {"snis": fault})
    answer = admin.post("/certificates", json={"cert": cert, "key": key, "snis": ["x.example", "x.example"]})
    assert answer.json()["fields"] == {"snis": "x.example is duplicated"}
    answer = admin.get("/certificates/unknown.example")
    assert (answer.status_code, answer.json()) == (404, {"message": "SNI not found"})
    assert admin.delete("/certificates/n.example").status_code == 204
    assert admin.get("/snis").json()["data"] == []


def test_a_certificate_and_its_key_belong_together(admin: httpx.Client) -> None:
    cert, _ = make_pair()
    _, other = make_pair()
    answer = admin.post("/certificates", json={"cert": cert, "key": other})
    assert answer.json()["fields"] == {"@entity": ["certificate does not match key"]}
    answer = admin.post("/certificates", json={"cert": "x", "key": other})
    assert answer.json()["fields"]["cert"].startswith("invalid certificate: ")
    answer = admin.post("/certificates", json={"cert": "{vault://env/cert}", "key": "{vault://env/key}"})
    assert answer.json()["fields"]["key"] == "fastgw does not resolve references to vaults yet"


def test_a_service_names_authorities_that_are_there(admin: httpx.Client) -> None:
    body = {"host": "a.example", "protocol": "https", "ca_certificates": [str(uuid.UUID(int=9))]}
    answer = admin.post("/services", json=body)
    assert answer.status_code == 400
    assert answer.json()["fields"] == {"ca_certificates": f"there is no CA certificate {uuid.UUID(int=9)}"}


def test_keys_are_masked_in_the_history_and_nowhere_else(admin: httpx.Client) -> None:
    cert, key = make_pair()
    made = post(admin, "/certificates", cert=cert, key=key)
    assert made["key"] == key
    (change, *_) = admin.get("/fastgw/history?size=1").json()["data"]
    assert (change["entity"], change["after"]["key"]) == ("certificates", "******")
    assert key not in admin.get("/fastgw/history").text


def test_certificates_of_authorities(admin: httpx.Client) -> None:
    cert, _ = make_pair(is_authority=True)
    made = post(admin, "/ca_certificates", cert=cert)
    assert (
        made["cert_digest"]
        == x509.load_pem_x509_certificate(cert.encode()).fingerprint(hashes.SHA256()).hex()
    )
    answer = admin.post("/ca_certificates", json={"cert": cert})
    assert (answer.status_code, answer.json()["fields"]) == (409, {"cert_digest": made["cert_digest"]})
    leaf, _ = make_pair()
    answer = admin.post("/ca_certificates", json={"cert": leaf})
    assert "basic constraint" in answer.json()["message"]
    assert admin.get("/ca_certificates/foo").json()["code"] == 1


def test_keys_and_key_sets(admin: httpx.Client) -> None:
    made_set = post(admin, "/key-sets", name="set")
    jwk = '{"kty": "oct", "k": "AAAA", "kid": "one"}'
    made = post(admin, "/key-sets/set/keys", kid="one", jwk=jwk, name="k1")
    assert made["set"] == {"id": made_set["id"]}
    assert admin.get("/keys/k1/set").json()["name"] == "set"
    answer = admin.post("/keys", json={"kid": "two", "jwk": jwk})
    assert answer.json()["fields"] == {"@entity": ["kid in jwk.kid must be equal to keys.kid"]}
    answer = admin.post("/key-sets/set/keys", json={"kid": "one", "jwk": jwk})
    assert answer.status_code == 409
    assert admin.delete("/key-sets/set").status_code == 204
    assert admin.get("/keys").json()["data"] == []


def test_vaults(admin: httpx.Client) -> None:
    made = post(admin, "/vaults", prefix="my-vault", name="env")
    assert made["config"] == {"prefix": None}
    answer = admin.post("/vaults", json={"prefix": "other", "name": "hcv"})
    assert answer.json()["fields"] == {"name": "vault 'hcv' is not installed"}
    assert admin.get("/vaults/my-vault").json() == made


def test_plugins_have_the_schema_of_their_name(admin: httpx.Client) -> None:
    service = post(admin, "/services", name="s", host="h")
    form = admin.post("/services/s/plugins", data={"name": "rate-limiting", "config.minute": "5"})
    assert form.status_code == 201
    made = form.json()
    assert (made["config"]["minute"], made["config"]["policy"]) == (5, "local")
    patched = admin.patch(f"/plugins/{made['id']}", data={"config.hour": "100"})
    assert (patched.json()["config"]["minute"], patched.json()["config"]["hour"]) == (5, 100)
    answer = admin.post("/services/s/plugins", json={"name": "rate-limiting", "config": {"second": 1}})
    assert answer.status_code == 409
    assert answer.json()["fields"] == {
        "consumer": None,
        "name": "rate-limiting",
        "route": None,
        "service": {"id": service["id"]},
    }
    post(admin, "/plugins", name="rate-limiting", config={"second": 1}, instance_name="everywhere")
    assert admin.get("/plugins/everywhere").json()["service"] is None
    answer = admin.post("/plugins", json={"name": "key-auth", "consumer": {"id": service["id"]}})
    assert answer.json()["fields"] == {"consumer": "value must be null"}
    assert admin.put(f"/plugins/{made['id']}", json={}).json()["fields"] == {"name": "required field missing"}
    assert admin.get("/").json()["plugins"]["enabled_in_cluster"] == ["rate-limiting"]
    assert admin.delete("/services/s").status_code == 204
    assert admin.get(f"/plugins/{made['id']}").status_code == 404


def test_protocols_of_a_plugin_meet_those_of_its_route(admin: httpx.Client) -> None:
    service = post(admin, "/services", name="s", host="h")
    route = post(admin, "/services/s/routes", paths=["/"], protocols=["http"])
    answer = admin.post(
        "/plugins", json={"name": "cors", "protocols": ["grpc"], "route": {"id": route["id"]}}
    )
    assert answer.json()["fields"] == {"protocols": "must match the associated route's protocols"}
    body = {"name": "cors", "protocols": ["grpc"], "service": {"id": service["id"]}}
    fault = "must match the protocols of at least one route pointing to this Plugin's service"
    assert admin.post("/plugins", json=body).json()["fields"] == {"protocols": fault}


def test_schemas(admin: httpx.Client) -> None:
    fields = {
        name: field
        for entry in admin.get("/schemas/services").json()["fields"]
        for name, field in entry.items()
    }
    assert fields["retries"] == {"type": "integer", "default": 5, "between": [0, 32767]}
    of_routes = {name for entry in admin.get("/schemas/routes").json()["fields"] for name in entry}
    assert {"paths", "expression", "priority"} <= of_routes
    shown = admin.get("/schemas/plugins/rate-limiting").json()["fields"]
    (config,) = [entry["config"] for entry in shown if "config" in entry]
    redis = next(entry["redis"] for entry in config["fields"] if "redis" in entry)
    assert {"port": {"type": "integer", "default": 6379, "between": [0, 65535]}} in redis["fields"]
    assert admin.get("/plugins/schema/rate-limiting").json()["fields"] == config["fields"]
    for path, text in (
        ("/schemas/nope", "No entity named 'nope'"),
        ("/schemas/plugins/nope", "No plugin named 'nope'"),
        ("/schemas/vaults/nope", "No vault named 'nope'"),
    ):
        answer = admin.get(path)
        assert (answer.status_code, answer.json()) == (404, {"message": text})
    assert admin.get("/schemas/plugins").status_code == 200
    answer = admin.post("/schemas/plugins/validate", json={"name": "key-auth"})
    assert (answer.status_code, answer.json()) == (200, {"message": "schema validation successful"})
    assert admin.post("/schemas/routes/validate", json={}).json()["code"] == 2


def test_tags(admin: httpx.Client) -> None:
    service = post(admin, "/services", host="h", tags=["a", "b"])
    assert admin.get("/tags").json()["data"] == [
        {"entity_name": "services", "entity_id": service["id"], "tag": tag} for tag in ("a", "b")
    ]
    assert len(admin.get("/tags/b").json()["data"]) == 1
    assert admin.get("/tags/none").json() == {"data": [], "next": None}
    page = admin.get("/tags?size=1").json()
    assert admin.get(page["next"]).json()["data"][0]["tag"] == "b"
    assert admin.get("/tags/a%2Cb").json()["code"] == 10


def test_what_is_there(admin: httpx.Client) -> None:
    paths = admin.get("/endpoints").json()["data"]
    assert {"/", "/acls", "/acls/{acls}/consumer", "/consumers/{consumers}/key-auth"} <= set(paths)
    assert "/snis/{snis}/certificate" not in paths
    assert "/targets" not in paths
    document = admin.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    route = document["components"]["schemas"]["routes"]
    assert {"expression", "priority"} <= set(route["properties"]) - set(route["required"])
    assert set(document["paths"]) == set(paths)
    assert "key-auth" in admin.get("/plugins/enabled").json()["enabled_plugins"]
    assert admin.get("/status/ready").json() == {"message": "ready"}


def test_tokens_in_headers_and_addresses_of_plugins_are_masked_too(admin: httpx.Client) -> None:
    headers = {"Authorization": "Bearer of-a-token"}
    for plugin in (
        {"name": "http-log", "config": {"http_endpoint": "http://logs.x/of-a-path", "headers": headers}},
        {"name": "opentelemetry", "config": {"traces_endpoint": "http://me:of-me@x/v1", "headers": headers}},
        {"name": "zipkin", "config": {"http_endpoint": "https://a-user@x:9411/api?a=1"}},
    ):
        assert admin.post("/plugins", json=plugin).status_code == 201, plugin
    history = admin.get("/fastgw/history").text
    version = admin.get("/fastgw/history/versions").json()["data"][0]["version"]
    for told in (history, admin.get(f"/fastgw/history/{version}").text):
        assert "of-a-token" not in told
        assert "of-a-path" not in told
        assert "of-me" not in told
        assert "a-user" not in told
        assert '"headers":{"Authorization":"******"}' in told
        assert '"http://******@x/v1"' in told
        assert '"https://******@x:9411/api?a=1"' in told
