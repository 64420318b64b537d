"""What a running Kong 3.9.1 sent in both roles, as data planes and control planes of tests replay it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, Final

_HERE: Final = Path(__file__).parent / "recorded"

DATA_PLANE: Final[list[dict[str, Any]]] = json.loads((_HERE / "dp-3.9.1.json").read_text("utf-8"))
CONTROL_PLANE: Final[list[dict[str, Any]]] = json.loads((_HERE / "cp-3.9.1.json").read_text("utf-8"))

#: Envelopes that the control plane pushed, in order.
PUSHES: Final = [event["envelope"] for event in CONTROL_PLANE if event["kind"] == "push"]
#: The same as payloads of frames.
PUSHED_FRAMES: Final = [
    base64.b64decode(event["frame_b64"]) for event in CONTROL_PLANE if event["kind"] == "push"
]
#: The first frame of the data plane.
BASIC_INFO: Final = next(event["payload"] for event in DATA_PLANE if event.get("opcode") == 2)
#: Its upgrade request, head and all.
UPGRADE: Final = next(event["head"] for event in DATA_PLANE if event["kind"] == "upgrade")
#: Envelopes that it was sent, in order: good, the same again, changed, an invalid path, an unknown field,
#: empty, and the first one without its hash.
GIVEN: Final = [event["message"] for event in DATA_PLANE if event["kind"].startswith("sent push")]
#: Payloads of its PINGs, in order.
PINGS: Final = [event["payload"] for event in DATA_PLANE if event.get("opcode") == 9]
