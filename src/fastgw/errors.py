"""The exception tree: every class has a stable code, the same in log, metric, Nack and Admin body.

FastgwError
├── SettingsError            settings       a property is wrong: which, where it came from, what to do
├── ListenError              listen         a port is taken, or an address cannot be listened on
├── CertificateError         certificate    a key or certificate file cannot serve: which and why
├── ValidationError          schema         an entity breaks its rules: all faults at once
├── OptionsError             options        an option beside an entity's fields is wrong
├── StorageError             storage
│   ├── StorageUnavailable   storage_unavailable
│   ├── NeedsBootstrap       needs_bootstrap
│   ├── PendingMigrations    pending_migrations
│   ├── UniqueViolation      unique         another row holds this value
│   ├── ForeignViolation     foreign        a reference points nowhere
│   └── ReferencedViolation  referenced     the row is still in use
├── SignatureError           signature      a configuration is not signed by a key that is believed
├── SnapshotError            snapshot       bytes are not a snapshot, or the digest differs
│   └── DeltaError           delta          changes lead elsewhere, or nobody knows from where: take the whole
├── CompileError             compile        a snapshot cannot become an image: all reasons
├── ImageError               image          an image is damaged or of another format
├── RolloutError             rollout        what is asked of a rollout cannot be done: why
├── DeclarativeError         declarative    a declarative file is wrong: all faults with their paths
└── LinkError                link
    ├── LocalLinkError       link_local     we broke the protocol: a bug here
    ├── RemoteLinkError      link_remote    the peer broke the protocol or refused us
    └── ForeignClusterError  foreign_cluster  a control plane and a data plane of different clusters
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final


class FastgwError(Exception):
    """Base of all errors that a user may meet; `str()` is one clear line."""

    code: ClassVar[str] = "fastgw"


class SettingsError(FastgwError):
    code = "settings"


class ListenError(FastgwError):
    code = "listen"


class CertificateError(FastgwError):
    code = "certificate"


class ValidationError(FastgwError):
    """An entity breaks its rules.

    `fields` maps a field name to a message, a nested mapping, or a list with one place per element;
    `@entity` holds the list of messages that concern the whole.
    """

    code = "schema"

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.fields = dict(fields)
        super().__init__(f"{len(self.fields)} schema violation(s): {self.fields}")


class OptionsError(FastgwError):
    """`options` maps the name of an option to what is wrong with it."""

    code = "options"

    def __init__(self, options: Mapping[str, str]) -> None:
        self.options = dict(options)
        super().__init__(f"wrong option(s): {self.options}")


class StorageError(FastgwError):
    code = "storage"


class StorageUnavailable(StorageError):
    code = "storage_unavailable"


class NeedsBootstrap(StorageError):
    code = "needs_bootstrap"


class PendingMigrations(StorageError):
    code = "pending_migrations"


class UniqueViolation(StorageError):
    """`fields` maps each field of the violated key to the value that another row holds."""

    code = "unique"

    def __init__(self, entity: str, fields: Mapping[str, Any]) -> None:
        self.entity = entity
        self.fields = dict(fields)
        super().__init__(f"{entity}: {self.fields} is already taken")


class ForeignViolation(StorageError):
    """`field` of `entity` points to a row of `reference` that does not exist."""

    code = "foreign"

    def __init__(self, entity: str, field: str, reference: str, value: str) -> None:
        self.entity = entity
        self.field = field
        self.reference = reference
        self.value = value
        super().__init__(f"{entity}.{field}: no {reference} with id {value}")


class ReferencedViolation(StorageError):
    """A row of `entity` cannot go while rows of `referenced_by` point to it."""

    code = "referenced"

    def __init__(self, entity: str, referenced_by: str) -> None:
        self.entity = entity
        self.referenced_by = referenced_by
        super().__init__(f"{entity}: an existing '{referenced_by}' entity references this row")


class SignatureError(FastgwError):
    code = "signature"


class SnapshotError(FastgwError):
    code = "snapshot"


class DeltaError(SnapshotError):
    code = "delta"


class CompileError(FastgwError):
    code = "compile"

    def __init__(self, faults: Sequence[Mapping[str, str]], *, is_passing: bool = False) -> None:
        """*is_passing*: there was no time for it; the same may compile later."""
        self.faults = [dict(fault) for fault in faults]
        self.is_passing = is_passing
        first = self.faults[0].get("reason", "") if self.faults else ""
        super().__init__(f"{len(self.faults)} reason(s) against this configuration, the first: {first}")


class ImageError(FastgwError):
    code = "image"


class RolloutError(FastgwError):
    code = "rollout"


TOLD_FAULTS: Final = 100
"""So many a message of one line tells."""


class DeclarativeError(FastgwError):
    """`faults` holds (path in the file, message) pairs; `fields` is the same as Kong's tree of messages.

    As text it is one line, of the first `TOLD_FAULTS` of them.

    `flattened` is the same again entity by entity, as Kong's `flattened_errors`.
    """

    code = "declarative"

    def __init__(
        self,
        source: str,
        faults: Sequence[tuple[str, str]],
        fields: Mapping[str, Any] | None = None,
        flattened: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.source = source
        self.faults = list(faults)
        self.flattened = [dict(entry) for entry in flattened]
        self.fields = dict(fields) if fields is not None else {"error": "; ".join(text for _, text in faults)}
        lines = [f"{path}: {message}" for path, message in self.faults[:TOLD_FAULTS]]
        if len(self.faults) > TOLD_FAULTS:
            lines.append(f"and {len(self.faults) - TOLD_FAULTS} more")
        super().__init__(f"{source}: {'; '.join(lines)}")


class LinkError(FastgwError):
    code = "link"


class LocalLinkError(LinkError):
    code = "link_local"


class RemoteLinkError(LinkError):
    code = "link_remote"


class ForeignClusterError(LinkError):
    code = "foreign_cluster"
