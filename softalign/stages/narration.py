"""What stages say of themselves: one line when they begin, one of counts and figures when they are done."""

from __future__ import annotations

from collections.abc import Sequence

from softalign.artifacts import (
    Adapter,
    ComparisonReport,
    DatasetManifest,
    EncodedManifest,
    EvalReport,
    ModelVersion,
    ReasonCount,
    Record,
)
from softalign.config.families import judge_of
from softalign.data.captions.edit_shares import edit_shares, edits_in
from softalign.store.metrics_log import LoggedRow, read_metrics
from softalign.store.store import Store

METRICS_FILENAME = "metrics.jsonl"
AVERAGED_SHARE = 0.1
"""Of a run's steps, at its start and at its end, that first and last figures are means of: single steps are noise."""


def headline(label: str, does: str, labels: Sequence[str]) -> str:
    """Return what a stage says when it begins: its place among all stages, and what it does."""
    return f"{place(label, labels)}: {does}"


def place(label: str, labels: Sequence[str]) -> str:
    """Return ``Stage 3 of 8, train``."""
    return f"Stage {labels.index(label) + 1} of {len(labels)}, {label}"


def figures(record: Record, store: Store) -> str:
    """Return counts, losses and scores of a stage's record, in one line; empty where it has none."""
    match record:
        case DatasetManifest():
            text = dataset_figures(record)
        case EncodedManifest():
            text = f"{record.num_latents:,} images and {record.num_texts:,} texts, {record.total_bytes / 1e6:,.1f} MB"
            text += "" if record.text == "stored" else "; the texts are encoded while training"
            if record.num_lost_shards:
                text += (
                    f"; {record.num_lost_samples:,} samples lost: {record.num_lost_shards:,} damaged shards (lost.json)"
                )
        case Adapter():
            path = store.fetch(record, under=METRICS_FILENAME) / METRICS_FILENAME
            text = training_figures(read_metrics(path)) if path.is_file() else f"{record.num_steps:,} steps"
        case EvalReport():
            interval = f"{points(record.overall_ci_low)} to {points(record.overall_ci_high)}"
            judge = judge_of(record.suite, record.detector)
            text = f"{record.num_images:,} images, score {points(record.overall_score)} ({judge}, interval {interval})"
        case ComparisonReport():
            gains = [entry.difference for entry in record.adapter_vs_base if entry.tag == "overall"]
            text = "".join(f"the adapter has {gain * 100:+.1f} points over the base" for gain in gains)
            if record.stopping is not None:
                text += f", after {record.stopping.rounds} of {record.stopping.of_rounds} rounds"
        case ModelVersion():
            text = f"{record.name} version {record.version} is {record.alias}"
        case _:
            text = ""
    return text


def points(ratio: float) -> str:
    """Return a ratio as score points, of a hundred."""
    return f"{ratio * 100:.1f}"


def dataset_figures(record: DatasetManifest) -> str:
    """Return how many images were kept, and what was rejected, by reason."""
    kept = (
        f"kept {record.num_samples:,} of {record.num_seen:,} images with {record.num_captions:,} captions "
        f"({record.num_val_samples:,} image{'' if record.num_val_samples == 1 else 's'} held out)"
    )
    if record.num_merged_captions:
        kept += f"; {record.num_merged_captions:,} captions are of exact duplicates"
    if record.repaired:
        kept += f"; {_by_count(record.repaired)}"
    return f"{kept}; rejected: {_by_count(record.rejected)}" if record.rejected else f"{kept}; nothing rejected"


def _by_count(entries: Sequence[ReasonCount]) -> str:
    return ", ".join(f"{entry.count:,} {entry.reason}" for entry in sorted(entries, key=lambda entry: -entry.count))


def training_figures(rows: Sequence[LoggedRow]) -> str:
    """Return first and last loss, validation loss, win rate and the own caption's weight beside chance.

    Args:
        rows: of ``metrics.jsonl``; training figures are means over a tenth of the steps.
    """
    steps = [row for row in rows if row.split == "train"]
    validations = [row for row in rows if row.split == "val"]
    if not steps:
        return ""
    number = max(1, round(AVERAGED_SHARE * len(steps)))
    first, last = steps[:number], steps[-number:]
    parts = [f"{steps[-1].step:,} steps, loss {_mean(first, 'loss')} -> {_mean(last, 'loss')}"]
    if validations:
        parts.append(f"validation loss {_mean(validations[:1], 'val_loss')} -> {_mean(validations[-1:], 'val_loss')}")
    if "win_rate" in last[-1].values:
        parts.append(f"win rate {_mean(last, 'win_rate', percent=True)}")
        parts.append(f"match weight {_mean(last, 'match_weight')} (chance {_mean(last, 'chance')})")
    if edits := edit_shares(edits_in(rows)):
        parts.append(f"edits {edits}")
    return ", ".join(parts)


def _mean(rows: Sequence[LoggedRow], name: str, *, percent: bool = False) -> str:
    values = [row.values[name] for row in rows if name in row.values]
    if not values:
        return "not finite"
    mean = sum(values) / len(values)
    return f"{mean:.0%}" if percent else f"{mean:.3g}"
