"""Recipes and overrides of earlier versions: understood as data, with one warning, or refused with what to write."""

import logging

import pytest

from softalign.config import Recipe, load_recipe, renamed
from softalign.config.renamed import RENAMED
from softalign.errors import ConfigError
from softalign.problems import field_paths

SOURCE = "{type: shapes, num_scenes: 3}"
CARRIED = {
    "train.select": (["train.select=best"], ["train.export_step=best"]),
    "train.noise_sharing": (["train.noise_sharing=paper"], ["train.noise_sharing=shared"]),
    "train.objective.temperature_mode": (
        ["train.objective.temperature_mode=calibrated"],
        ["train.objective.temperature=calibrated"],
    ),
    "train.objective.temperature_factor": (
        ["train.objective={temperature_mode: calibrated, temperature_factor: 1}"],
        ["train.objective={temperature: calibrated}"],
    ),
    "train.soft_tokens.placement": (["train.soft_tokens={placement: mmdit, num_layers: 2}"],) * 2,
    "train.soft_tokens.position": (["train.soft_tokens.position=append"], []),
    "train.negatives.hard_share": (
        ["train.negatives={num_negatives: 4, hard_share: 0.5}", "encode.hard_negatives_per_caption=2"],
        ["train.negatives={num_negatives: 4, num_hard: 2}"],
    ),
    "encode.hard_negatives_per_caption": (["encode.hard_negatives_per_caption=3"], []),
    "curation.sources.*.table": (
        [f"curation.sources=[{SOURCE[:-1]}, table: parquet}}, {SOURCE[:-1]}, table: coco}}]"],
        [f"curation.sources=[{SOURCE}, {SOURCE}]"],
    ),
    "register.policy.is_gain_significant": (
        ["register.policy.is_gain_significant=false"],
        ["register.policy.requires_significant_gain=false"],
    ),
    "runtime.num_workers": (["runtime.num_workers=3"], ["runtime.num_threads=3"]),
    "runtime.hang_timeout_s": (
        ["runtime={stall_timeout_s: 100, hang_timeout_s: 90}"],
        ["runtime={stall_timeout_s: 100}"],
    ),
}
"""For each old field: overrides as they were written, and as they are written now."""


def test_each_old_field_has_a_case():
    assert set(CARRIED) == set(RENAMED)
    assert set(RENAMED) - set(field_paths(Recipe)) == set(RENAMED) - {"train.noise_sharing"}


@pytest.mark.parametrize("path", CARRIED)
def test_an_old_field_is_carried_over_with_one_warning(path, caplog):
    old, new = CARRIED[path]
    renamed._warn.cache_clear()
    caplog.set_level(logging.WARNING, "softalign")
    found = load_recipe("shapes", old)
    assert load_recipe("shapes", old) == found
    (message,) = {record.message for record in caplog.records if f"{path.replace('.*.', '.0.')}" in record.message}
    assert message.startswith("warning: the recipe has a field of an earlier version: ")
    assert f"is now {RENAMED[path].new}: " in message or "is gone and has no effect; remove it" in message
    expected = load_recipe("shapes", [one for one in new if "placement" not in one])
    assert found == (load_recipe("shapes", ["train.soft_tokens={num_layers: 2}"]) if old == new else expected)


def test_the_warnings_name_old_and_new_each_in_a_line(caplog):
    renamed._warn.cache_clear()
    old = ["train.select=best", "train.noise_sharing=paper", "register.policy.is_gain_significant=true"]
    load_recipe("shapes", [*old, "train.soft_tokens.position=append"])
    assert [record.message.partition("version: ")[2] for record in caplog.records] == [
        'train.select is now train.export_step: "best"',
        'train.noise_sharing: paper is now train.noise_sharing: "shared"',
        "train.soft_tokens.position is gone and has no effect; remove it",
        "register.policy.is_gain_significant is now register.policy.requires_significant_gain: true",
    ]


def test_a_run_that_was_warned_is_not_warned_again(caplog, monkeypatch):
    renamed._warn.cache_clear()
    monkeypatch.setenv(renamed.WARNED_VARIABLE, "1")
    assert load_recipe("shapes", ["train.select=best"]).train.export_step == "best"
    assert caplog.records == []


@pytest.mark.parametrize(
    ("lines", "overrides", "expected"),
    [
        ("train: {select: best}", ["train.export_step=last"], "last"),
        ("train: {select: best}", ["train.select=last"], "last"),
        ("train: {export_step: best}", ["train.select=last"], "last"),
        ("train: {export_step: last}", ["train.select=best", "train.export_step=last"], "last"),
        ("train: {export_step: best}", ["train.export_step=best", "train.select=last"], "last"),
        ("train: {export_step: best, select: best}", [], "best"),
    ],
)
def test_an_override_wins_whichever_spelling_it_and_the_recipe_have(tmp_path, lines, overrides, expected):
    path = tmp_path / "old.yaml"
    path.write_text(f"name: a\ncuration: {{name: a, sources: [{SOURCE}]}}\nregister: {{name: a}}\n{lines}\n")
    assert load_recipe(str(path), overrides).train.export_step == expected


def test_both_spellings_in_one_recipe_that_disagree_are_refused(tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text(
        f"name: a\ncuration: {{name: a, sources: [{SOURCE}]}}\nregister: {{name: a}}\n"
        "train: {select: best, export_step: last}\n"
    )
    with pytest.raises(
        ConfigError, match=r"train\.select is an earlier name of train\.export_step, and both are given"
    ):
        load_recipe(str(path))


def test_a_temperature_that_an_override_sets_beats_the_old_mode_and_the_other_way_round():
    calibrated = ["train.objective.temperature_mode=calibrated"]
    assert load_recipe("shapes", calibrated).train.objective.temperature == "calibrated"
    assert load_recipe("shapes", [*calibrated, "train.objective.temperature=0.2"]).train.objective.temperature == 0.2
    fixed = ["train.objective.temperature=0.2", "train.objective.temperature_mode=fixed"]
    assert load_recipe("shapes", fixed).train.objective.temperature == 0.2
    assert load_recipe("shapes", [fixed[0], *calibrated]).train.objective.temperature == "calibrated"


def test_present_recipes_are_carried_nowhere(caplog):
    renamed._warn.cache_clear()
    caplog.set_level(logging.WARNING, "softalign")
    for name in ("shapes", "shapes-sd3", "shapes-unet"):
        recipe = load_recipe(name)
        assert Recipe.model_validate(recipe.model_dump(mode="json", by_alias=True)) == recipe
    assert caplog.records == []


def test_an_old_override_beats_the_new_field_of_the_recipe():
    assert load_recipe("shapes").runtime.num_threads == 1
    assert load_recipe("shapes", ["runtime.num_workers=4"]).runtime.num_threads == 4


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["train.objective.temperature_factor=2"], "temperature_factor is gone: a calibrated temperature has factor 1"),
        (["train.objective.temperature_mode=warm"], "train.objective.temperature is a number or calibrated"),
        (["train.negatives.hard_share=many"], "train.negatives.num_hard is the number of hard negatives of an image"),
        (
            ["train.negatives.hard_share=0.1"],
            r"\(found 0\.1 of 3 negatives, which is none\)",
        ),
        (
            ["train.negatives.hard_share=0.5", "encode.hard_negatives_per_caption=5"],
            r"which is 2; remove it, or set train\.negatives\.num_hard to 5",
        ),
        (["runtime.hang_timeout_s=20"], r"it is 0\.9 of runtime\.stall_timeout_s"),
        (
            [f"train.soft_tokens.{field}" for field in ("placement=unet", "num_layers=null", "init=null")],
            "those of a U-Net, but the family",
        ),
        (["train.soft_tokens.position=before"], "position is gone; remove it"),
        ([f"curation.sources=[{SOURCE[:-1]}, table: csv}}]"], "the table of rendered scenes is gone"),
        (["encode.other=1"], r"encode\.other: there is no such field"),
    ],
)
def test_what_cannot_be_carried_over_says_what_to_write(overrides, said):
    with pytest.raises(ConfigError, match=said):
        load_recipe("shapes", overrides)


README_BEFORE = (
    *("train.seed=2", "backbone.vae=a/vae", "backbone.has_t5=true", "backbone.max_sequence_length=77"),
    *("train.objective.preset=paper", "train.objective.preset=code", "train.objective.temperature_mode=calibrated"),
    *("train.objective={name: softrepa}", "train.objective={name: score_matching}"),
    *("train.negatives.num_negatives=2", "train.negatives.max_similarity=0.5", "train.negatives.hard_share=0.5"),
    *("encode.hard_negatives_per_caption=2", "runtime.checkpoint_uri=s3://x/y", "runtime.num_processes=2"),
    *("runtime={num_nodes: 2, rendezvous_endpoint: 'a:1'}", "train.batch_size=8", "runtime.compile=true"),
    *("train.sample_every_steps=10", "train.select=best", "train.early_stop_patience=2", "train.init_from=a"),
    *("evaluate.reference_guidance_scale=3", "evaluate.suite=shapes", "train.soft_tokens.num_layers=3"),
)
"""What the README spoke of before the fields were renamed."""


@pytest.mark.parametrize("override", README_BEFORE)
def test_the_fields_of_the_readme_before_are_accepted(override):
    assert load_recipe("shapes", [override])


def test_a_mapping_of_an_earlier_version_is_understood_without_loading():
    data = load_recipe("shapes-unet").model_dump(mode="json", by_alias=True)
    data["train"]["select"] = data["train"].pop("export_step")
    data["train"]["soft_tokens"] |= {"placement": "unet", "position": "after_bos"}
    data["encode"] = {"hard_negatives_per_caption": 0}
    assert Recipe.model_validate(data) == load_recipe("shapes-unet")
