"""What every section is made of: frozen models with a digest, and numbers with their ranges."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from softalign.artifacts import Frozen, digest_of

MAX_NAME_CHARS = 100
"""Names go into records, which stay below 4 kB."""
Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Beta = Annotated[float, Field(ge=0.0, lt=1.0)]
"""How much of a running mean stays at each update."""
MAX_COUNT = 10**12
"""No number of steps or samples is above it; far above it, arithmetic in floats would fail."""
MAX_SCALE = 1000.0
"""No strength of soft tokens is above it; far above it, a half-precision denoiser's images are not numbers."""
MAX_GUIDANCE = 1000.0
"""No guidance that a command is given is above it; far above it, images are not numbers."""
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=MAX_NAME_CHARS)]
"""Lower-case letters, digits and dashes."""
Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""What a random generator takes."""


class StageConfig(Frozen):
    """Base of the models whose every field is part of the request."""

    @property
    def digest(self) -> str:
        """The sha256 hex digest of all fields."""
        return digest_of([type(self).__name__, self.model_dump(mode="json")])
