"""A name server on loopback that says what the test tells it to, and counts the questions."""

from __future__ import annotations

import ipaddress
import socket
import struct
import threading
from dataclasses import dataclass, field

NO_ERROR, SERVER_FAILURE, NAME_ERROR = 0, 2, 3
A, AAAA = 1, 28


@dataclass
class Zone:
    """What is said about one name."""

    addresses: list[str] = field(default_factory=list)
    ttl_s: int = 60
    code: int = NO_ERROR
    is_silent: bool = False


class NameServer:
    """Answers over UDP in a thread of its own."""

    def __init__(self) -> None:
        self.zones: dict[str, Zone] = {}
        self.questions: list[tuple[str, int]] = []
        """(name, type), in the order in which they came."""
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._sock.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def asked(self, name: str, kind: int = A) -> int:
        """How often *name* was asked for."""
        return self.questions.count((name, kind))

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", self._sock.getsockname())
        self._thread.join(5)
        self._sock.close()

    def _run(self) -> None:
        while True:
            question, asker = self._sock.recvfrom(4096)
            if not question:
                return
            answer = self._answer(question)
            if answer:
                self._sock.sendto(answer, asker)

    def _answer(self, question: bytes) -> bytes | None:
        labels, at = [], 12
        while size := question[at]:
            labels.append(question[at + 1 : at + 1 + size].decode())
            at += size + 1
        (kind,) = struct.unpack_from("!H", question, at + 1)
        name = ".".join(labels).lower()  # c-ares mixes the case of what it asks
        self.questions.append((name, kind))
        zone = self.zones.get(name, Zone(code=NAME_ERROR))
        if zone.is_silent:
            return None
        packed = [ipaddress.ip_address(address).packed for address in zone.addresses]
        records = [one for one in packed if len(one) == (4 if kind == A else 16)] if kind in (A, AAAA) else []
        header = question[:2] + struct.pack("!HHHHH", 0x8180 | zone.code, 1, len(records), 0, 0)
        body = b"".join(struct.pack("!HHHIH", 0xC00C, kind, 1, zone.ttl_s, len(one)) + one for one in records)
        return header + question[12 : at + 5] + body
