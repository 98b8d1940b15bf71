"""How a run of the chain ends, for people: what came out, how sure that is, what was decided, and what to do next."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from softalign.artifacts import Frozen, GuidedBase, PairEvidence, Stopping, TagDifference, TaskStatistics
from softalign.artifacts.fronts import GuidanceFronts
from softalign.config.families import is_embedded, judge_of
from softalign.errors import SoftAlignError
from softalign.registry.gate import Check
from softalign.stages import ending_evidence
from softalign.stages.ending_evidence import OVERALL, evidence, shown_columns, standing_of
from softalign.stages.spending import Spending
from softalign.store.files import link_of, local_path_of

MINUTE_S = 60.0


def ending_text(summary: ChainSummary) -> str:
    """Return the whole ending: one paragraph each of what was done, scores, meaning, decision, places and commands."""
    paragraphs = (
        [finished(summary), *summary.spending.to_text()],
        score_table(summary),
        meaning(summary),
        [decision(summary)],
        places(summary),
        next_commands(summary),
    )
    return "\n\n".join("\n".join(lines) for lines in paragraphs)


def finished(summary: ChainSummary) -> str:
    """Return how many stages ran, in what time, and how many were already there."""
    num_run, num_reused = summary.num_stages_run, summary.num_stages_reused
    if not num_run:
        return f"Finished: nothing to do, all of it was already there ({num_reused} stages)."
    reused = f"; {num_reused} were already there and are reused" if num_reused else ""
    return f"Finished: {num_run} stages in {time_text(summary.seconds)}{reused}."


def time_text(seconds: float) -> str:
    """Return a time as a person says it."""
    if seconds < MINUTE_S:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(round(seconds / MINUTE_S), 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{int(seconds // MINUTE_S)} min {int(seconds % MINUTE_S)} s"


def score_table(summary: ChainSummary) -> list[str]:
    """Return the scores of the arms and the gain over the base with its interval, a line for each tag."""
    gains = {gain.tag: gain for gain in summary.adapter_vs_base}
    shown = {one.tag: one for one in summary.statistics}
    overall = (OVERALL, summary.overall_base, summary.overall_untrained, summary.overall_adapter)
    first = f"{judge_of(summary.suite, summary.detector)}, of 100"
    width = max(14, *(len(name) for name in (first, *(tag for tag, *_ in summary.tags))))
    head = f"{first:<{width}} {'base':>9} {'untrained':>9} {'adapter':>9}   {'gain':>5}  {_confidence(summary):<14}"
    lines = [f"{head}  {'p':>6}  won:lost" if shown else head.rstrip()]
    for tag, *scores in (*summary.tags, overall):
        row = f"{tag:<{width}} " + " ".join(f"{score * 100:9.1f}" for score in scores)
        gain = gains.get(tag)
        if gain is not None:
            row += f"   {gain.difference * 100:+5.1f}  {_interval(gain):<14}{shown_columns(shown.get(tag))}"
        lines.append(row.rstrip())
    return lines


def meaning(summary: ChainSummary) -> list[str]:
    """Return whether the adapter helped, how much and how surely, which tags gained or lost, at which guidance."""
    base, untrained = _overall(summary.adapter_vs_base), _overall(summary.adapter_vs_untrained)
    scores = f"it scores {summary.overall_adapter * 100:.1f} against {summary.overall_base * 100:.1f} of the base"
    measured = f"{base.difference * 100:+.1f} points, {_confidence(summary)} {_interval(base)}"
    said = {
        "better": f"The adapter helped: {scores}, {measured}.",
        "worse": f"The adapter did harm: {scores}, {measured}.",
        "unclear": f"No difference to the base can be told: {scores}, {measured}{ending_evidence.why_unclear(base)}.",
    }[standing_of(base, summary.over_base, summary.confidence)]
    again = f"{untrained.difference * 100:+.1f} points, {_interval(untrained)}"
    beside = {
        "better": f"Against untrained tokens it gains {again}.",
        "worse": f"Against untrained tokens it loses: {again}.",
        "unclear": f"No difference to untrained tokens can be told: {again}.",
    }[standing_of(untrained, summary.over_untrained, summary.confidence)]
    tags = ending_evidence.tags(summary.adapter_vs_base, summary.statistics, summary.confidence, summary.fronts)
    rounds = [] if summary.stopping is None else [summary.stopping.to_text()]
    return [said, *evidence(summary.over_base), *rounds, beside, *_beside_champion(summary), *tags, guidance(summary)]


def _beside_champion(summary: ChainSummary) -> list[str]:
    """Return how the adapter stands beside the champion, where that was drawn."""
    if not summary.champion:
        return []
    gain = _overall(summary.adapter_vs_champion)
    measured = f"{gain.difference * 100:+.1f} points, {_confidence(summary)} {_interval(gain)}"
    name = summary.champion.partition("#")[0]
    return [
        {
            "better": f"It is better than the champion, {name}: {measured}.",
            "worse": f"It is worse than the champion, {name}: {measured}.",
            "unclear": f"No difference to the champion, {name}, can be told: {measured}.",
        }[standing_of(gain, summary.over_champion, summary.confidence)]
    ]


def guidance(summary: ChainSummary) -> str:
    """Return at which guidance the arms were compared, what an image cost, and what the base scores with guidance."""
    how = "without guidance" if summary.guidance_scale == 1.0 else f"at guidance {summary.guidance_scale:g}"
    said = f"All three were compared {how}, with {summary.denoiser_calls_per_image} calls of the denoiser an image."
    base = summary.guided_base
    if base is None:
        return said
    interval = f"{base.overall_ci_low * 100:.1f} to {base.overall_ci_high * 100:.1f}"
    return (
        f"{said} For reference, the base at guidance {base.guidance_scale:g} scores {base.overall_score * 100:.1f} "
        f"({interval}), with {base.denoiser_calls_per_image} calls an image."
    )


def decision(summary: ChainSummary) -> str:
    """Return whether the version was promoted, and why."""
    named = f"{summary.model} version {summary.version}"
    failed = [str(check) for check in summary.checks if not check.is_passed]
    if summary.is_promoted:
        number = len(summary.checks)
        return f"Promoted: {named} is champion; it passed the gate ({number} check{'s' if number > 1 else ''})."
    at = f"{summary.model}@challenger, or {summary.model}/{summary.version} for good"
    return f"Not promoted: {'; '.join(failed)}. {named} is registered as challenger, and can be used: {at}."


def places(summary: ChainSummary) -> list[str]:
    """Return where report, adapter and registry are; at a registry with pages also where any browser finds them."""
    pages = (("report", summary.registered_report_url), ("run", summary.registered_run_url))
    return [
        f"report    {link_of(summary.report_uri)}",
        f"adapter   {summary.adapter_uri}",
        f"registry  {summary.tracking_uri}",
        *(f"{name:<9} {url}" for name, url in pages if url),
    ]


def next_commands(summary: ChainSummary) -> list[str]:
    """Return commands for this run's store and version that can be pasted as they are."""
    # by its number where this run did not make the alias: it may have moved since
    at = f"@{summary.alias}" if summary.num_stages_run else f"/{summary.version}"
    softalign, name = program("softalign"), f"{summary.model}-{summary.version}"
    pulled = ["pull", f"{summary.model}{at}", "--to", name, *_registry_options(summary)]
    images = ["generate", f"models:/{summary.model}{at}", _prompt(summary), "--out"]
    images += [f"{name}-images", "--num-images", "4", *_sampling_options(summary)]
    steps = (
        _ui(summary),
        ("fetch the adapter", f"{softalign} {shlex.join(pulled)}"),
        ("make images with it", f"{_registry_variable(summary)}{softalign} {shlex.join(images)}"),
        ("begin with images of your own (a folder, or a table)", f"{softalign} init FOLDER"),
    )
    return ["What you can do next:", *(f"  {what}:\n    {command}" for what, command in steps)]


def program(name: str) -> str:
    """Return how a shell calls a program of this environment: by name where that finds this very one, else by path."""
    own = Path(sys.executable).parent / name
    found = shutil.which(name)
    if found is not None and (not own.exists() or Path(found).resolve() == own.resolve()):
        return name
    near = nearby(own)
    return name if not own.exists() else shlex.quote(near if "/" in near else f"./{near}")


def nearby(path: Path) -> str:
    """Return a path as short as it can be from the working folder."""
    absolute = Path(os.path.abspath(path))
    here = Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)


def _ui(summary: ChainSummary) -> tuple[str, str]:
    """Return how to look at the registry: a server's own pages, or MLflow's started on the database."""
    if summary.tracking_uri.startswith(("http://", "https://")):
        return "see the runs and versions, with the page switched to model training", summary.tracking_uri
    command = f"{program('mlflow')} ui --backend-store-uri {shlex.quote(summary.tracking_uri)}"
    return "see the runs and versions at http://127.0.0.1:5000, with the page switched to model training", command


def _registry_options(summary: ChainSummary) -> list[str]:
    if summary.is_registry_of_store:
        return ["--store", nearby(local_path_of(summary.store))]
    return ["--tracking-uri", summary.tracking_uri]


def _registry_variable(summary: ChainSummary) -> str:
    """Return what ``generate`` needs in front to find the registry; nothing where it is the one it asks anyway."""
    from softalign.credentials import without_credentials
    from softalign.registry import consumer_uri

    try:
        if without_credentials(consumer_uri(None)) == summary.tracking_uri:
            return ""
    except SoftAlignError:  # the environment names no registry at all
        pass
    return f"MLFLOW_TRACKING_URI={shlex.quote(summary.tracking_uri)} "


def _sampling_options(summary: ChainSummary) -> list[str]:
    """Return the options that make images as the compared ones were made."""
    return [
        *("--num-inference-steps", str(summary.num_inference_steps)),
        *("--guidance-scale", f"{summary.guidance_scale:g}"),
    ]


def _prompt(summary: ChainSummary) -> str:
    return "a photo of three circles" if is_embedded(summary.suite.partition("+")[0]) else "a photo of three apples"


def _overall(differences: tuple[TagDifference, ...]) -> TagDifference:
    return next(entry for entry in differences if entry.tag == OVERALL)


def _interval(gain: TagDifference) -> str:
    return f"{gain.ci_low * 100:.1f} to {gain.ci_high * 100:.1f}"


def _confidence(summary: ChainSummary) -> str:
    return f"{summary.confidence * 100:g} % interval"


class ChainSummary(Frozen):
    """What a run of the whole chain came to; scores, gains and intervals are ratios (0..1).

    Attributes:
        tags: for each tag the scores of base, untrained tokens and adapter.
        adapter_vs_base: paired gains by tag and overall, with intervals at ``confidence``.
        adapter_vs_untrained: the same over untrained tokens.
        champion: the registered version that was drawn beside the arms, ``NAME/VERSION#sha256``; empty: none.
        adapter_vs_champion: paired gains over it.
        over_base: what the overall gain over the base shows; None in comparisons of earlier versions.
        over_untrained: likewise, as ``over_champion``, which is None without a champion.
        statistics: what each tag's gain over the base shows; empty likewise.
        fronts: of the sweep, where ``evaluate.guidance_sweep`` asked for it.
        stopping: after how many rounds the evaluation stopped, and why; None without rounds.
        detector: what the scores are called by who judged the images, as the comparison has it.
        checks: the conditions of the promotion gate, with what was measured.
        denoiser_calls_per_image: of each arm.
        guided_base: the base with guidance, where ``evaluate.reference_guidance_scale`` asked for it.
        is_registry_of_store: the registry is the SQLite database inside the store.
        num_inference_steps: of the images that were compared, as is ``guidance_scale``.
        seconds: what the stages took, those that were already there included.
        registered_run_url: the version's run at the registry; empty where that is no server.
        registered_report_url: the report there.
        spending: what each stage cost, those that were already there as well, and the sums.
    """

    name: str
    store: str
    num_stages_run: int
    num_stages_reused: int
    overall_base: float
    overall_untrained: float
    overall_adapter: float
    denoiser_calls_per_image: int | None
    guided_base: GuidedBase | None
    tags: tuple[tuple[str, float, float, float], ...]
    model: str
    version: int
    alias: str
    reason: str
    adapter_uri: str
    report_uri: str
    tracking_uri: str
    suite: str
    confidence: float
    adapter_vs_base: tuple[TagDifference, ...]
    adapter_vs_untrained: tuple[TagDifference, ...]
    checks: tuple[Check, ...]
    is_promoted: bool
    is_registry_of_store: bool
    num_inference_steps: int
    guidance_scale: float
    seconds: float
    registered_run_url: str = ""
    registered_report_url: str = ""
    spending: Spending = Spending()
    champion: str = ""
    adapter_vs_champion: tuple[TagDifference, ...] = ()
    over_base: PairEvidence | None = None
    over_untrained: PairEvidence | None = None
    over_champion: PairEvidence | None = None
    statistics: tuple[TaskStatistics, ...] = ()
    fronts: GuidanceFronts | None = None
    stopping: Stopping | None = None
    detector: str = ""

    def to_text(self) -> str:
        """Return the summary for people, in sentences (``softalign.stages.ending``)."""
        return ending_text(self)
