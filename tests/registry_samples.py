"""Published inputs of a registration, made without a model: an adapter folder, three reports and their comparison."""

import json
from dataclasses import dataclass

import numpy
from safetensors.numpy import save_file

from softalign.artifacts import (
    Adapter,
    ArmReports,
    ComparisonReport,
    EvalReport,
    GuidedBase,
    TagDifference,
    TagScore,
    digest_of,
)
from softalign.config import PromotionPolicy, RegisterConfig, Runtime
from softalign.registry import register
from softalign.store.files import sha256_of_file

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
NAME = "softalign-test"
BASE = 0.5


@dataclass(frozen=True)
class Inputs:
    adapter: Adapter
    comparison: ComparisonReport
    reports: ArmReports


def comparison_of(
    gain,
    *,
    suite="shapes",
    drop=0.0,
    half_width=0.02,
    over_untrained=None,
    num_images=24,
    guidance_scale=1.0,
    key="k",
    champion="",
    beside=0.0,
    seed=0,
):
    """Return a comparison whose overall gain is ``gain`` and whose last tag falls by ``drop``."""
    tags = tuple(
        TagDifference(tag=tag, difference=-drop if tag == TAGS[-1] else gain, ci_low=gain - 0.1, ci_high=gain + 0.1)
        for tag in TAGS
    )
    over_untrained = gain if over_untrained is None else over_untrained

    def overall(value):
        return TagDifference(tag="overall", difference=value, ci_low=value - half_width, ci_high=value + half_width)

    return ComparisonReport(
        stage_key=key,
        suite=suite,
        overall_base=BASE,
        overall_untrained=BASE + gain - over_untrained,
        overall_adapter=BASE + gain,
        adapter_vs_base=(overall(gain), *tags),
        adapter_vs_untrained=(overall(over_untrained), *tags),
        num_images_per_arm=num_images,
        guidance_scale=guidance_scale,
        denoiser_calls_per_image=15,
        guided_base=GuidedBase(
            guidance_scale=2.0,
            denoiser_calls_per_image=30,
            overall_score=0.75,
            overall_ci_low=0.7,
            overall_ci_high=0.8,
        ),
        champion=champion,
        overall_champion=BASE + gain - beside if champion else None,
        adapter_vs_champion=(overall(beside), *(tag.model_copy(update={"difference": beside}) for tag in tags))
        if champion
        else (),
        confidence=0.95,
        seed=seed,
    )


def pairs(gain):
    """Return verdicts on 24 images of 12 prompts; the adapter has ``gain`` more of them right than the base."""
    rows = [
        {"filename": f"{2 * tag + prompt:05d}/samples/{image:04d}.png", "tag": TAGS[tag], "prompt": "p"}
        for tag in range(6)
        for prompt in range(2)
        for image in range(2)
    ]
    right = {"base": BASE, "untrained": BASE, "adapter": BASE + gain}
    order = [row * 7 % len(rows) for row in range(len(rows))]
    return "".join(
        json.dumps(row | {arm: order[number] < share * len(rows) for arm, share in right.items()}) + "\n"
        for number, row in enumerate(rows)
    )


def publish_inputs(store, gain, *, seed=0, **comparison_fields):
    """Publish what ``register`` reads and return its records."""
    key = digest_of(["sample", gain, seed, comparison_fields])
    folder = store.work_path("train", key)
    (folder / "initial").mkdir(exist_ok=True)
    for place in (folder, folder / "initial"):
        weights = {"soft_tokens.positive": numpy.full((4, 8), gain, numpy.float32)}
        save_file(weights, str(place / "soft_tokens.safetensors"), metadata={"weights": f"{gain} {seed}"})
        config = {"type": "SOFT_TOKENS", "num_soft_tokens": 4, "placement": {"blocks": ["down", "mid"]}}
        (place / "adapter_config.json").write_text(json.dumps(config))
        (place / "README.md").write_text("# softalign-test\n\nA card.\n")
    (folder / "train_config.json").write_text(json.dumps({"batch_size": 4, "optimizer": {"learning_rate": 0.001}}))
    rows = [
        {"split": "train", "step": i, "samples_seen": 4 * i, "loss": 1 / (i + 1), "is_skipped": False}
        for i in range(1, 6)
    ]
    rows.append({"split": "val", "step": 5, "samples_seen": 20, "val_accuracy": 0.75, "val_loss": None})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    adapter = store.publish(
        Adapter(
            stage_key=key,
            parents=(digest_of("encoded"),),
            name="softalign-test",
            base_model="shapes",
            base_model_revision="0" * 40,
            backbone_digest=digest_of("backbone"),
            family="sd21",
            objective="agsm",
            num_parameters=1234,
            num_steps=5,
            samples_seen=20,
            weights_sha256=sha256_of_file(folder / "soft_tokens.safetensors"),
            dataset_digest=digest_of("dataset"),
        ),
        folder,
    )
    comparison = comparison_of(gain, key=key, **comparison_fields)
    overall = {"base": BASE, "untrained": comparison.overall_untrained, "adapter": BASE + gain}
    reports = {
        arm: EvalReport(
            stage_key=digest_of("base" if arm == "base" else [key, arm]),
            arm=arm,
            suite=comparison.suite,
            adapter_digest="" if arm == "base" else adapter.digest,
            overall_score=score,
            overall_ci_low=score - 0.02,
            overall_ci_high=score + 0.02,
            tags=tuple(
                TagScore(tag=tag, score=score, ci_low=score, ci_high=score, num_images=4, num_correct=2) for tag in TAGS
            ),
            num_images=24,
            num_prompts=6,
            num_prompts_any_correct=3,
            guidance_scale=1.0,
        )
        for arm, score in overall.items()
    }
    folder = store.work_path("compare", key)
    (folder / "report.html").write_text(f"<html><body>{gain}</body></html>")
    (folder / "pairs.jsonl").write_text(pairs(gain))
    parents = (*(report.digest for report in reports.values()), adapter.digest)
    comparison = store.publish(comparison.model_copy(update={"parents": parents}), folder)
    return Inputs(adapter, comparison, ArmReports.of(reports))


def register_sample(store, gain, *, seed=0, key=None, policy=None, tracking_uri=None, name=NAME, **comparison_fields):
    """Publish and register a sample; returns the ModelVersion."""
    inputs = publish_inputs(store, gain, seed=seed, **comparison_fields)
    config = RegisterConfig(name=name, policy=policy or PromotionPolicy())
    runtime = Runtime(tracking_uri=tracking_uri)
    key = key or digest_of(["register", inputs.comparison.digest, inputs.adapter.digest])
    return register(inputs.adapter, inputs.comparison, inputs.reports, config, runtime, store, key)
