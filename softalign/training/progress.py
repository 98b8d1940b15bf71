"""What a training run reports while it runs: its steps, and the figures that people watch."""

from __future__ import annotations

from softalign.processes.progress import Figure
from softalign.training.metrics import TrainRow


def watched_figures(row: TrainRow) -> tuple[Figure, ...]:
    """Return loss, win rate, and the own caption's weight against chance; the latter two where there are rewards."""
    loss = Figure(name="loss", value=row.loss)
    if row.win_rate is None:
        return (loss,)
    weight = Figure(name="match weight", value=row.match_weight, chance=row.chance)
    return loss, Figure(name="win rate", value=row.win_rate), weight
