"""After how many rounds an evaluation stopped, as its comparison keeps it."""

from __future__ import annotations

from softalign.artifacts.frozen import Frozen


class Stopping(Frozen):
    """After how many rounds an evaluation stopped (``evaluate.stop``), and what its intervals are for it.

    Attributes:
        rounds: that were drawn, an image of every prompt and arm each.
        of_rounds: that there would have been.
        boundary: standard errors that an interval of a difference reaches to each side after so many rounds.
        widening: by which that is more than without rounds.
    """

    rounds: int
    of_rounds: int
    boundary: float
    widening: float

    @property
    def is_early(self) -> bool:
        """Whether rounds were left out."""
        return self.rounds < self.of_rounds

    @property
    def why(self) -> str:
        """Why no more rounds were drawn."""
        return f"the promotion gate's answer was {'certain then' if self.is_early else 'open until the last'}"

    def to_text(self) -> str:
        """Return in sentences how many rounds were drawn, why no more, and how wide intervals are."""
        drawn = f"Drawn in rounds of one image a prompt: {self.rounds} of {self.of_rounds}"
        return (
            f"{drawn}, as {self.why}. Intervals of differences are those of a look after round {self.rounds}, "
            f"{self.boundary:.2f} standard errors to each side, {self.widening:.2f} times as wide as without rounds."
        )
