"""What every stage hands to the next, as it is stored and read again."""

from __future__ import annotations

import json
from typing import Any, ClassVar, Final, Literal, Self

from pydantic import ValidationError

from softalign.artifacts.frozen import Frozen, digest_of, require_format
from softalign.errors import IntegrityError
from softalign.problems import problems

SCHEMA_VERSION: Final = 1
"""Of all records: a digest is one of all fields, so one field more is another version."""
_RERUN = "remove this prefix and rerun the stage (request.json there names the softalign that wrote it)"
MAX_RECORD_BYTES = 4096
"""Records travel through orchestration databases; bulk belongs into files beside them."""
GENEVAL_TAGS = frozenset({"single_object", "two_object", "counting", "colors", "position", "color_attr"})
BYTES_PER_TAG = 720
"""What a report may be larger by for each tag of its suite that is none of GenEval's: a name and three differences."""
Stage = Literal["curate", "encode", "train", "evaluate", "compare", "register"]


class Record(Frozen):
    """What every stage hands to the next.

    Attributes:
        stage_key: digest of what was asked for.
        parents: digests of the records this one was made from.
        files_digest: sha256 of the canonical JSON of the published prefix's file list.
        uri: where the prefix lies; not part of the digest.
    """

    stage: ClassVar[Stage]
    filename: ClassVar[str]
    later_fields: ClassVar[tuple[str, ...]] = ()
    """Fields that the format was given later: unset, they are no part of the content, so older digests stay right."""

    schema_version: Literal[1] = SCHEMA_VERSION
    stage_key: str
    parents: tuple[str, ...] = ()
    files_digest: str = ""
    uri: str = ""

    @property
    def digest(self) -> str:
        """The sha256 hex digest of the content."""
        return digest_of(self._content())

    def _content(self) -> dict[str, Any]:
        unset = {name for name in self.later_fields if getattr(self, name) == type(self).model_fields[name].default}
        return self.model_dump(mode="json", exclude={"uri"} | unset)

    @property
    def tag_names(self) -> tuple[str, ...]:
        """The suite's tags, where the record has numbers of each."""
        return ()

    @property
    def max_bytes(self) -> int:
        """How large the stored form may be."""
        return MAX_RECORD_BYTES + BYTES_PER_TAG * len({*self.tag_names} - GENEVAL_TAGS)

    def to_json(self) -> bytes:
        """Return the stored form, the digest included.

        Raises:
            IntegrityError: the record is larger than ``max_bytes``.
        """
        payload = {"digest": self.digest, **self._content()}
        data = json.dumps(payload, indent=1).encode() + b"\n"
        if len(data) > self.max_bytes:
            raise IntegrityError(
                f"The {type(self).__name__} record is too large.",
                expected=f"at most {self.max_bytes} bytes",
                found=f"{len(data)} bytes",
                fix="keep lists in a file of the stage and its digest in the record",
            )
        return data

    @classmethod
    def from_json(cls, data: bytes, uri: str) -> Self:
        """Read a stored record and check its digest.

        Raises:
            IntegrityError: not a record of this type, or its content is not what its digest says.
            CompatibilityError: it is of another format version.
        """
        where = f"{uri}/{cls.filename}"
        try:
            payload = json.loads(data)
            require_format(payload, SCHEMA_VERSION, f"This {cls.__name__}", where=where, fix=_RERUN)
            stored_digest = payload.pop("digest")
            record = cls.model_validate({**payload, "uri": uri})
        except (ValueError, KeyError, TypeError, AttributeError, ValidationError, RecursionError) as error:
            raise IntegrityError(
                f"{cls.filename} is not a {cls.__name__} of schema version {SCHEMA_VERSION}.",
                found=problems(error, cls)[0] if isinstance(error, ValidationError) else str(error),
                where=where,
                fix="it was written by another version or damaged; remove this prefix and rerun the stage",
            ) from error
        if record.digest != stored_digest:
            raise IntegrityError(
                f"{cls.filename} was changed after it was written.",
                expected=f"digest {stored_digest}",
                found=f"digest {record.digest}",
                where=where,
                fix="restore the file, or remove this prefix and rerun the stage",
            )
        return record
