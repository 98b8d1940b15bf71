"""A study whose stages publish at once: real keys, records and files, and verdicts drawn with planted scores."""

import json

import numpy as np

from softalign.artifacts import Adapter, DatasetManifest, EncodedManifest, EvalReport
from softalign.evaluation.arm_report import arm_report
from softalign.evaluation.evaluated_tokens import tokens_digest
from softalign.evaluation.suites import suite_prompts
from softalign.geneval.layout import image_filename
from softalign.geneval.prompts import to_metadata
from softalign.geneval.scoring import ImageResult, write_results
from softalign.stages.run import StageResult
from softalign.stages.table import Step
from tests.sample_records import ADAPTER, ENCODED

ADHERENCE = ["two_object", "colors", "position", "color_attr"]
STUDY = {
    "name": "tiny",
    "recipes": {
        "mmdit": {
            "recipe": "shapes",
            "fields": {"evaluate.num_bootstrap": 100, "train.soft_tokens": {"num_layers": 4}},
            "seconds_per_step": 0.2,
            "seconds_per_image_call": 0.002,
            "seconds_per_stage": 5,
            "measured": "nowhere",
        }
    },
    "matrix": {
        "objectives": {
            "agsm": {"train.objective": {"name": "agsm"}},
            "positive": {"train.objective": {"name": "score_matching"}},
        },
        "seeds": [0, 1],
        "num_steps": [10, 20],
        "guidance": [1.0, 2.0],
    },
    "selection": {"seed": 1, "images_per_prompt": 2, "guidance": [1.0]},
    "report": {"seed": 2, "images_per_prompt": 4},
    "positive_only": "positive",
    "hypotheses": [
        {
            "name": "H1",
            "statement": "agsm adheres better",
            "left": ["agsm"],
            "right": ["untrained", "base"],
            "tags": ADHERENCE,
            "guidance": [1.0, 2.0],
        }
    ],
}
"""Two objectives, two seeds, two lengths: 8 trainings."""


def planted_score(recipe, arm: str, tag: str) -> float:
    """Return how likely an image is right: agsm adheres better by 30 points and counts as all others do."""
    is_helped = arm == "adapter" and recipe.train.objective.name == "agsm" and tag != "counting"
    best = 0.02 if arm == "adapter" and recipe.train.num_steps == 20 else 0.0
    return 0.5 + (0.3 if is_helped else 0.0) + best


def fake_step(step: Step, published, store, _on_line) -> StageResult:
    """Publish what a step would, unless it is there."""
    given = step.inputs(published, store)
    key = step.row.request(given).key
    found = step.row.published(key, store)
    if found is not None:
        return StageResult(step.label, found, is_reused=True, seconds=0.0)
    folder = store.work_path(step.row.name, key) / "out"
    folder.mkdir(parents=True, exist_ok=True)
    record = _MAKERS[step.row.name](given, key, folder)
    return StageResult(step.label, store.publish(record, folder), is_reused=False, seconds=0.0)


def _dataset(given, key, folder) -> DatasetManifest:
    (folder / "shard").write_bytes(b"images")
    counts = {name: 1 for name in ("num_samples", "num_captions", "num_val_samples", "num_shards", "num_seen")}
    return DatasetManifest(stage_key=key, name="tiny", total_bytes=6, **counts)


def _encoded(given, key, folder) -> EncodedManifest:
    (folder / "shard").write_bytes(b"latents")
    return ENCODED.model_copy(update={"stage_key": key})


def _adapter(given, key, folder) -> Adapter:
    (folder / "initial").mkdir(exist_ok=True)
    (folder / "initial" / "adapter_config.json").write_text('{"placement": {}}\n', encoding="utf-8")
    train = given.recipe.train
    start = "padding" if train.soft_tokens.init == "padding" else str(train.seed)
    (folder / "initial" / "soft_tokens.safetensors").write_bytes(start.encode())
    return ADAPTER.model_copy(update={"stage_key": key})


def _report(given, key, folder) -> EvalReport:
    arm, config, recipe = given.evaluated_arm, given.recipe.evaluate.of_arm(given.evaluated_arm), given.recipe
    rng = np.random.default_rng(int(key[:8], 16))
    prompts = suite_prompts(config)
    results = tuple(
        ImageResult(
            filename=image_filename(prompt_index, image_index),
            tag=prompt.tag,
            prompt=prompt.prompt,
            correct=bool(rng.random() < planted_score(recipe, arm, prompt.tag)),
            reason="",
            metadata=json.dumps(to_metadata(prompt)),
            details="{}",
        )
        for prompt_index, prompt in enumerate(prompts)
        for image_index in range(config.images_per_prompt)
    )
    write_results(folder / "results.jsonl", results)
    digest = tokens_digest(arm, given.inputs.find(Adapter), given.store, "")
    return arm_report(arm, digest, config, results, len(prompts), key, "DDIMScheduler")


_MAKERS = {"curate": _dataset, "encode": _encoded, "train": _adapter, "evaluate": _report}
