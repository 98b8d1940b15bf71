"""What the stages of a run cost together, and in money where the recipe has prices."""

from __future__ import annotations

from collections.abc import Sequence

from softalign.artifacts import Frozen, Usage, total_usage
from softalign.config.runtime import Runtime
from softalign.stages.run import StageResult

HOUR_S = 3600.0


class StageSpending(Frozen):
    """What one stage cost, whenever it ran; ``usage`` None: not known, ``cost`` None: not known, or without prices."""

    label: str
    is_reused: bool
    usage: Usage | None
    cost: float | None


class Spending(Frozen):
    """What the stages of a run cost.

    Attributes:
        stages: in order.
        run: the sum of those that ran now.
        reused: the sum of those that were already there, from when they ran.
        run_cost: of ``run`` by the recipe's prices; None without a price.
        reused_cost: of ``reused`` likewise.
        currency: of the costs.
    """

    stages: tuple[StageSpending, ...] = ()
    run: Usage = Usage()
    reused: Usage = Usage()
    run_cost: float | None = None
    reused_cost: float | None = None
    currency: str = ""

    def to_text(self) -> list[str]:
        """Return it in lines for people; none where nothing is known."""
        known = [stage.is_reused for stage in self.stages if stage.usage is not None]
        lines = []
        if num_run := known.count(False):
            lines.append(f"Used: {self.run.to_text(num_run)}{self._money(self.run_cost)}.")
        if num_reused := known.count(True):
            had = self.reused.to_text(num_reused)
            lines.append(f"What was already there had used {had}{self._money(self.reused_cost)}.")
        return lines

    def _money(self, cost: float | None) -> str:
        return "" if cost is None else f"; cost {money_text(cost, self.currency)}"


def spending_of(results: Sequence[StageResult], runtime: Runtime) -> Spending:
    """Return what the stages of a run cost."""
    run = total_usage(result.usage for result in results if result.usage is not None and not result.is_reused)
    reused = total_usage(result.usage for result in results if result.usage is not None and result.is_reused)
    return Spending(
        stages=tuple(
            StageSpending(
                label=result.label,
                is_reused=result.is_reused,
                usage=result.usage,
                cost=cost_of(result.usage, runtime),
            )
            for result in results
        ),
        run=run,
        reused=reused,
        run_cost=cost_of(run, runtime),
        reused_cost=cost_of(reused, runtime),
        currency=runtime.currency,
    )


def cost_of(usage: Usage | None, runtime: Runtime) -> float | None:
    """Return what GPU and processor hours cost by the recipe's prices; a price that is not given counts as nothing.

    None where no price is given, or the usage is not known.
    """
    prices = (runtime.price_per_gpu_hour, runtime.price_per_cpu_hour)
    if usage is None or prices == (None, None):
        return None
    gpu_price, cpu_price = (price or 0.0 for price in prices)
    return round((usage.gpu_s * gpu_price + usage.cpu_s * cpu_price) / HOUR_S, 6)


def money_text(cost: float, currency: str) -> str:
    """Return ``0.42 EUR``; small sums keep two digits that say something."""
    return f"{cost:,.2f} {currency}".strip() if cost >= 1 else f"{cost:.2g} {currency}".strip()
