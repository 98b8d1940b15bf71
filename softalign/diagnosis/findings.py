"""A diagnosis in sentences, no stronger than its numbers; means over noise levels unless a level is named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from softalign.config.training import EDIT_KINDS
from softalign.diagnosis.records import Diagnosis, Estimate, GuidanceLikeness, RankAccuracy
from softalign.training.validation_history import chance_alarm

MOSTLY = 0.5
"""A change with more than this share of its squared norm along guidance is called mostly guidance."""
KIND_NAMES = {"count": "counts", "color": "colours", "position": "positions", "object": "objects"}


def findings_of(diagnosis: Diagnosis) -> tuple[str, ...]:
    """Return what a diagnosis found, the most general first."""
    return (
        *_change(diagnosis),
        *_likeness(diagnosis),
        *_attention(diagnosis),
        *_ranks(diagnosis),
        *_weights(diagnosis),
        *_gradients(diagnosis),
    )


def _change(diagnosis: Diagnosis) -> Iterator[str]:
    changes = diagnosis.changes
    yield (
        f"The tokens change the prediction by {_percent(_mean(change.adapter for change in changes))} of its norm; "
        f"guidance's direction is {_percent(_mean(change.guidance for change in changes))} of it"
        + _edit_text([change.edit for change in changes if change.edit is not None])
    )
    untrained = [change.untrained for change in changes if change.untrained is not None]
    training = [change.training for change in changes if change.training is not None]
    if untrained and training:
        yield (
            f"Untrained tokens change it by {_percent(_mean(untrained))}; between untrained and trained tokens lies "
            f"{_percent(_mean(training))}: that is what training did."
        )
    largest = max(changes, key=lambda change: change.adapter.mean)
    yield f"The change is largest at noise level {largest.timestep}: {_percent(largest.adapter.mean)}."


def _edit_text(edits: Sequence[Estimate]) -> str:
    return f", an edited caption changes it by {_percent(_mean(edits))}." if edits else "."


def _likeness(diagnosis: Diagnosis) -> Iterator[str]:
    found = [one for one in diagnosis.likeness if one.arm == "adapter"]
    explained = _mean(one.explained for one in found)
    cosines = ", ".join(f"{one.cosine.mean:+.2f} at {one.timestep}" for one in found)
    extra = ", ".join(f"{one.extra_guidance.mean:+.2f} at {one.timestep}" for one in found)
    yield (
        f"Is it only more guidance? {_percent(explained)} of the change's squared norm lies along guidance's direction "
        f"(cosine {cosines}): it is {_answer(found)}. The guidance that comes nearest: {extra} on top."
    )


def _answer(found: Sequence[GuidanceLikeness]) -> str:
    if _mean(one.explained for one in found) > MOSTLY:
        return f"mostly {'more' if _mean(one.cosine for one in found) > 0.0 else 'less'} guidance"
    return "not only more guidance" if any(one.cosine.low > 0.0 for one in found) else "not more guidance"


def _attention(diagnosis: Diagnosis) -> Iterator[str]:
    found = [one for one in diagnosis.attention if one.arm == "adapter"]
    shares = [one.tokens.mean for one in found]
    even = [one.even for one in found]
    first = [one.first_position.mean for one in found]
    yield (
        f"The soft tokens draw {_percent(sum(shares) / len(shares))} of the attention of the blocks that see them "
        f"({_percent(min(shares))} to {_percent(max(shares))}); {_percent(sum(even) / len(even))} if all keys drew "
        f"alike. The text's first position draws {_percent(sum(first) / len(first))}."
    )


def _ranks(diagnosis: Diagnosis) -> Iterator[str]:
    for kind in EDIT_KINDS:
        ranks = [rank for rank in diagnosis.ranks if rank.kind == kind]
        if not ranks:
            continue
        base, adapter, chance = _mean(r.base for r in ranks), _mean(r.adapter for r in ranks), _chance(ranks)
        above = [rank.timestep for rank in ranks if rank.base.low > rank.chance]
        told = (
            f"above chance with 95 % confidence at {', '.join(map(str, above))}"
            if above
            else "at no noise level above chance with 95 % confidence"
        )
        yield (
            f"Edited {KIND_NAMES[kind]} are told from the true caption in {_percent(base)} of {ranks[0].base.number} "
            f"images by the frozen model ({told}), in {_percent(adapter)} with the tokens; chance is "
            f"{_percent(chance)}."
        )


def _chance(ranks: Sequence[RankAccuracy]) -> float:
    return sum(rank.chance for rank in ranks) / len(ranks)


def _weights(diagnosis: Diagnosis) -> Iterator[str]:
    at_chance = [one for one in diagnosis.weights if one.is_at_chance]
    if at_chance:
        weight = sum(one.weight.mean for one in at_chance) / len(at_chance)
        chance = sum(one.chance for one in at_chance) / len(at_chance)
        levels = ", ".join(str(one.timestep) for one in at_chance)
        alarm = chance_alarm(weight, chance, f"noise levels {levels}", at_chance[0].temperature)
        yield alarm[0].upper() + alarm[1:] + "."


def _gradients(diagnosis: Diagnosis) -> Iterator[str]:
    found = [one for one in diagnosis.gradients if one.arm == "adapter" and one.parameter == "psi+"]
    for part in dict.fromkeys(one.loss_part for one in found):
        own = [one for one in found if one.loss_part == part]
        agreement = sum(one.agreement for one in own) / len(own)
        name = "L+" if part == "positive" else "L-"
        yield (
            f"The gradient of {name} on psi+ has the norm {_mean(one.norm for one in own):.2g}; steps agree to "
            f"{agreement:.2f}, where random directions would to {own[0].chance_agreement:.2f}."
        )


def _mean(estimates: Iterable[Estimate]) -> float:
    values = [estimate.mean for estimate in estimates]
    return sum(values) / len(values)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
