"""Certificates in base and overlay: what is found by name and by id, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastgw.errors import CompileError, ImageError
from fastgw.model.snapshot import Snapshot
from fastgw.routing.certificates import CertificateSection, CertificateSet
from fastgw.routing.compile import compile_snapshot
from fastgw.routing.layered import LayeredImage
from fastgw.routing.overlay import Base, compile_overlay
from fastgw.tls.pair import KeyPair
from tests.routing.images import open_image
from tests.routing.snapshots import Row, authority, certificate, make_id, service, snapshot, sni
from tests.tls.authority import Authority

CA = Authority()
PAIRS = [CA.issue(f"{place}.example") for place in range(3)]
RSA_PAIR = CA.issue("rsa.example", key=rsa.generate_private_key(65537, 2048))
NAMES = ["a.example", "A.example", "*.example", "b.example."]

#: One entity by number, or none any more: certificates 1 to 3, authorities 11 and 12, names from 21.
change = (
    st.tuples(st.integers(1, 3), st.none() | st.integers(0, 2))
    | st.tuples(st.integers(11, 12), st.none() | st.integers(0, 1))
    | st.tuples(st.integers(21, 24), st.none() | st.integers(1, 3))
    | st.tuples(st.integers(31, 32), st.none() | st.integers(1, 3))
)


def rows_of(chosen: dict[int, int]) -> list[Row]:
    """Rows of what stands, with names and services only of what is there."""
    rows: list[Row] = []
    for number, value in chosen.items():
        if number <= 3:
            rows.append(certificate(number, PAIRS[value]))
        elif number <= 12:
            rows.append(authority(number, f"PEM text {value}"))
        elif value in chosen and number <= 24:
            rows.append(sni(number, NAMES[number - 21], value))
        elif value in chosen:
            trusted = [make_id(one) for one in (11, 12) if one in chosen] or None
            rows.append(
                service(
                    number,
                    protocol="https",
                    client_certificate={"id": make_id(value)},
                    ca_certificates=trusted,
                )
            )
    return rows


def seen(image: LayeredImage, made: Snapshot) -> dict[str, Any]:
    """What a worker finds: by each name, and for each service."""
    found = image.certificates()
    by_name = {}
    for name in ("a.example", "*.example", "b.example", "c.example"):
        named = found.find(name)
        by_name[name] = None if named is None else (named.digest, found.pairs_of(named.id))
    services = {}
    for number in range(image.base.service_count + (image.overlay.service_count if image.overlay else 0)):
        if number in image.replaced:
            continue
        record = image.service(number)
        if record.id not in made.rows("services"):
            continue
        assert record.client_certificate is not None
        # As the data plane: an entry that lies in the base knows the base alone.
        source = found if number >= image.base.service_count else CertificateSet(image.base.certificates)
        services[record.id] = (
            source.pairs_of(record.client_certificate),
            [source.authority(id_) for id_ in record.ca_certificates or ()],
        )
    return {"names": by_name, "services": services}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(change, max_size=8), st.lists(change, max_size=5))
def test_base_and_overlay_show_what_the_whole_would(
    before: list[tuple[int, int | None]], after: list[tuple[int, int | None]]
) -> None:
    chosen: dict[int, int] = {}
    snapshots = []
    for version, steps in enumerate((before, after), 1):
        for number, value in steps:
            if value is None:
                chosen.pop(number, None)
            else:
                chosen[number] = value
        snapshots.append(snapshot(*rows_of(chosen), version=version))
    base = Base(open_image(compile_snapshot(snapshots[0])), snapshots[0])
    delta = snapshots[0].delta(snapshots[1])
    layered = LayeredImage(base.image, open_image(compile_overlay(base, snapshots[1], delta)))
    whole = LayeredImage(open_image(compile_snapshot(snapshots[1])))
    assert seen(layered, snapshots[1]) == seen(whole, snapshots[1])


def test_a_certificate_that_has_no_name_any_more_is_not_kept() -> None:
    rows = [certificate(1, PAIRS[0]), sni(21, "a.example", 1)]
    base = Base(open_image(compile_snapshot(snapshot(*rows))), snapshot(*rows))
    then = snapshot(rows[0], version=8)
    overlay = open_image(compile_overlay(base, then, base.snapshot.delta(then)))
    assert base.image.certificates is not None
    assert LayeredImage(base.image).certificates().digest_of(make_id(1)) is not None
    assert LayeredImage(base.image, overlay).certificates().digest_of(make_id(1)) is None


def test_a_change_of_routes_alone_carries_no_certificates() -> None:
    rows = [certificate(1, PAIRS[0]), sni(21, "a.example", 1), service(31)]
    base = Base(open_image(compile_snapshot(snapshot(*rows))), snapshot(*rows))
    then = snapshot(*rows[:2], service(31, port=81), version=8)
    overlay = open_image(compile_overlay(base, then, base.snapshot.delta(then)))
    assert overlay.certificates is None
    found = LayeredImage(base.image, overlay).certificates().find("a.example")
    assert found is not None
    assert found.id == make_id(1)


def test_pairs_of_both_types_come_back_whole() -> None:
    rows = [certificate(1, PAIRS[0], RSA_PAIR), sni(21, "a.example", 1)]
    image = LayeredImage(open_image(compile_snapshot(snapshot(*rows))))
    assert image.certificates().pairs_of(make_id(1)) == (PAIRS[0], RSA_PAIR)


def test_without_certificates_there_is_no_section() -> None:
    image = LayeredImage(open_image(compile_snapshot(snapshot(service(1)))))
    assert image.base.certificates is None
    assert image.certificates().find("a.example") is None


PUBLIC = KeyPair(
    PAIRS[0].certificate_pem,
    rsa.generate_private_key(65537, 2048).public_key().public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    ),
    b"", PAIRS[0].not_after, (),
)  # fmt: skip
SMALL = CA.issue("small.example", key=rsa.generate_private_key(65537, 1024))  # noqa: S505 - refused for that


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([certificate(1, PUBLIC)], ("certificates", "cert", "key: holds no private key")),
        ([certificate(1, SMALL)], ("certificates", "cert", "OpenSSL refuses it: ee key too small")),
        (
            [certificate(1, PAIRS[0]) | {"key": PAIRS[1].key_pem.decode()}],
            ("certificates", "cert", "the key does not belong to the certificate"),
        ),
        (
            [certificate(1, PAIRS[0]) | {"cert": "/etc/hostname"}],
            ("certificates", "cert", "holds no certificate in PEM form"),
        ),
        (
            [certificate(1, PAIRS[0]) | {"key": "{vault://env/key}"}],
            ("certificates", "key", "does not resolve references to vaults"),
        ),
        ([sni(21, "a.example", 1)], ("snis", "certificate", f"there is no certificate {make_id(1)}")),
        (
            [service(1, protocol="https", client_certificate={"id": make_id(9)})],
            ("services", "client_certificate", f"there is no certificate {make_id(9)}"),
        ),
        (
            [service(1, protocol="https", ca_certificates=[make_id(9)])],
            ("services", "ca_certificates", f"there is no CA certificate {make_id(9)}"),
        ),
    ],
    ids=["public key", "small key", "another's key", "a path", "vault", "sni", "client", "authority"],
)
def test_what_cannot_be_presented_is_refused_without_a_word_of_the_key(
    rows: list[Row], fault: tuple[str, str, str]
) -> None:
    with pytest.raises(CompileError) as caught:
        compile_snapshot(snapshot(*rows))
    assert len(caught.value.faults) == 1
    told = caught.value.faults[0]
    assert (told["entity"], told["field"]) == fault[:2]
    assert fault[2] in told["reason"]
    for row in rows:
        assert row.get("key") is None or row["key"] not in str(caught.value) + told["reason"]


def test_a_damaged_section_is_no_section() -> None:
    with pytest.raises(ImageError, match="CERTIFICATES section cannot be read"):
        CertificateSection(memoryview(b"\xff\xff\xff\xffnonsense"))
