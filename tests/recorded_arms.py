"""Published arms of the embedded world whose images are drawn, not generated: for tests of what comes after."""

import json
from functools import partial
from pathlib import Path

import numpy as np

from softalign.artifacts import Adapter, ArmReports, EvalReport
from softalign.config import EvalConfig, Runtime
from softalign.evaluation import arms
from softalign.evaluation.arm_report import arm_report
from softalign.evaluation.evaluated_tokens import tokens_digest
from softalign.evaluation.packs import packs_of, write_packs
from softalign.geneval.completeness import Suite
from softalign.geneval.decision import decide
from softalign.geneval.layout import image_filename, write_metadata
from softalign.geneval.prompts import GenevalPrompt
from softalign.sampling.sampling import png_bytes
from softalign.shapes.detector import detect
from softalign.shapes.scenes import COLORS, SHAPES, render, scene_of_words
from softalign.store.store import Store

SHARES_RIGHT = {"base": 0.55, "untrained": 0.55, "adapter": 0.7, "champion": 0.6, "guided_base": 0.75}


def draw_image(prompt: GenevalPrompt, is_right: bool, rng: np.random.Generator) -> np.ndarray:
    """Draw an image that is right or wrong for the prompt, by the rules that will judge it."""
    while True:
        words = [
            (clause.class_name, clause.color or COLORS[rng.integers(len(COLORS))])
            for clause in prompt.include
            for _ in range(clause.count)
        ]
        if not is_right and rng.random() < 0.8:
            index = int(rng.integers(len(words)))
            words[index] = (SHAPES[rng.integers(len(SHAPES))], COLORS[rng.integers(len(COLORS))])
        image = render(scene_of_words(rng, words))
        if decide(prompt, detect(image)).is_correct == is_right:
            return image


def publish_adapter(store: Store, num_steps: int = 60) -> Adapter:
    """Publish an adapter record with training metrics and nothing to load."""
    work = store.work_path("train", "adapter-key")
    rng = np.random.default_rng(0)
    rows = []
    for step in range(1, num_steps + 1):
        progress = step / num_steps
        row = {"split": "train", "step": step, "samples_seen": 4 * step, "chance": 0.25, "win_rate": None}
        row["loss"] = 0.3 + 0.5 * np.exp(-3 * progress) + 0.05 * rng.standard_normal()
        row["match_weight"] = 0.25 + 0.1 * progress + 0.01 * rng.standard_normal()
        row["win_rate"] = float(np.clip(0.4 + 0.4 * progress + 0.2 * rng.standard_normal(), 0, 1))
        row["margin"] = 0.05 * progress + 0.01 * rng.standard_normal()
        rows.append(row)
        if step % 10 == 0:
            val = {"split": "val", "step": step, "samples_seen": 4 * step, "val_accuracy": 0.5, "val_chance": 0.25}
            rows.append(val)
    (work / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (work / "adapter_config.json").write_text('{"type": "SOFT_TOKENS"}\n', encoding="utf-8")
    (work / "initial").mkdir(exist_ok=True)
    (work / "initial" / "adapter_config.json").write_text('{"placement": {"blocks": ["down"]}}\n', encoding="utf-8")
    (work / "initial" / "soft_tokens.safetensors").write_bytes(b"step 0")
    return store.publish(
        Adapter(
            stage_key="adapter-key",
            name="shapes",
            base_model="shapes",
            base_model_revision="",
            backbone_digest="b" * 64,
            family="sd21",
            objective="agsm",
            num_parameters=13_824,
            num_steps=num_steps,
            samples_seen=4 * num_steps,
            weights_sha256="c" * 64,
            dataset_digest="d" * 64,
        ),
        work,
    )


def publish_arm(
    arm: str, adapter: Adapter | None, prompts: tuple[GenevalPrompt, ...], config: EvalConfig, store: Store
) -> EvalReport:
    """Draw, detect, score and publish one arm the way an evaluation does."""
    work = store.work_path("evaluate", f"{arm}-key")
    write_metadata(work / arms.IMAGES_FOLDER, prompts)
    rng = np.random.default_rng(list(arm.encode()))
    for prompt_index, prompt in enumerate(prompts):
        for image_index in range(config.images_per_prompt):
            is_right = bool(rng.random() < SHARES_RIGHT[arm])
            path: Path = work / arms.IMAGES_FOLDER / image_filename(prompt_index, image_index)
            path.write_bytes(png_bytes(draw_image(prompt, is_right, rng)))
    suite = Suite(prompts, config.images_per_prompt)
    detect_all = partial(map, arms.file_detector(config, Runtime()))
    out = work / "published"
    results = arms.detect_and_score(work / arms.IMAGES_FOLDER, suite, detect_all, out)
    write_packs(work / arms.IMAGES_FOLDER, packs_of(len(prompts), config.images_per_prompt), out)
    digest = tokens_digest(arm, adapter, store, config.pinned_champion)
    return store.publish(
        arm_report(arm, digest, config.of_arm(arm), results, len(prompts), f"{arm}-key", "DDIMScheduler"), out
    )


def publish_arms(prompts: tuple[GenevalPrompt, ...], config: EvalConfig, store: Store) -> tuple[ArmReports, Adapter]:
    """Publish an adapter, its three arms and the base with guidance."""
    adapter = publish_adapter(store)
    reports = ArmReports(
        base=publish_arm("base", None, prompts, config, store),
        untrained=publish_arm("untrained", adapter, prompts, config, store),
        adapter=publish_arm("adapter", adapter, prompts, config, store),
        guided_base=publish_arm("guided_base", None, prompts, config, store),
    )
    return reports, adapter
