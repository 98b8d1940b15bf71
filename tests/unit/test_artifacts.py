"""Records: content-addressed, checked when read, bounded in size."""

import json

import pytest
from pydantic import ValidationError

from softalign import artifacts
from softalign.artifacts import (
    MAX_RECORD_BYTES,
    SCHEMA_VERSION,
    Adapter,
    ComparisonReport,
    DatasetManifest,
    EncodedManifest,
    EvalReport,
    GuidedBase,
    ModelVersion,
    PairEvidence,
    ReasonCount,
    Record,
    Stopping,
    TagDifference,
    TagScore,
    canonical_json,
    digest_of,
)
from softalign.errors import CompatibilityError, IntegrityError
from softalign.evaluation.suites import MAX_TAG_CHARS, MAX_TAGS
from softalign.version import __version__

EVIDENCE = PairEvidence(p_value=0.01, wins=3, losses=1, detectable=0.05)
SCORE = TagScore(tag="colors", score=0.5, ci_low=0.4, ci_high=0.6, num_images=4, num_correct=2)
DIFFERENCE = TagDifference(tag="colors", difference=0.1, ci_low=0.0, ci_high=0.2)
RECORDS = {
    "dataset": DatasetManifest(
        stage_key="k",
        name="n",
        num_samples=1,
        num_captions=2,
        num_val_samples=0,
        num_shards=1,
        total_bytes=3,
        num_seen=4,
        rejected=(ReasonCount(reason="too_small", count=1),),
    ),
    "encoded": EncodedManifest(
        stage_key="k",
        name="n",
        backbone_digest="b",
        vae_digest="v",
        text_encoder_digest="t",
        latent_shape=(4, 8, 8),
        text_shape=(77, 768),
        pooled_width=0,
        hard_negatives_per_caption=0,
        num_samples=1,
        num_val_samples=0,
        num_latents=1,
        num_texts=2,
        total_bytes=3,
    ),
    "adapter": Adapter(
        stage_key="k",
        name="n",
        base_model="m",
        base_model_revision="r",
        backbone_digest="b",
        family="sd15",
        objective="agsm",
        num_parameters=1,
        num_steps=2,
        samples_seen=3,
        weights_sha256="w",
        dataset_digest="d",
    ),
    "report": EvalReport(
        stage_key="k",
        arm="adapter",
        suite="shapes",
        adapter_digest="a",
        overall_score=0.5,
        overall_ci_low=0.4,
        overall_ci_high=0.6,
        tags=(SCORE,),
        num_images=4,
        num_prompts=1,
        num_prompts_any_correct=1,
        guidance_scale=3.0,
        detector="geneval-hf",
        sampler="DDIMScheduler",
        num_inference_steps=30,
    ),
    "comparison": ComparisonReport(
        stage_key="k",
        suite="shapes",
        overall_base=0.4,
        overall_untrained=0.4,
        overall_adapter=0.5,
        adapter_vs_base=(DIFFERENCE,),
        adapter_vs_untrained=(DIFFERENCE,),
        num_images_per_arm=4,
        guidance_scale=1.0,
        denoiser_calls_per_image=15,
        guided_base=GuidedBase(
            guidance_scale=2.0,
            denoiser_calls_per_image=30,
            overall_score=0.6,
            overall_ci_low=0.5,
            overall_ci_high=0.7,
        ),
        champion="n/1#d",
        overall_champion=0.4,
        adapter_vs_champion=(DIFFERENCE,),
        confidence=0.95,
        seed=1,
        over_base=EVIDENCE,
        over_untrained=EVIDENCE,
        over_champion=EVIDENCE,
        detector="geneval",
        stopping=Stopping(rounds=2, of_rounds=4, boundary=2.963, widening=1.512),
    ),
    "version": ModelVersion(
        stage_key="k",
        name="n",
        version=1,
        alias="champion",
        is_promoted=True,
        reason="better",
        run_id="r",
        tracking_uri="t",
        weights_sha256="w",
    ),
}


def changed(value):
    """Return a value of the same kind that differs."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, tuple) and value:
        return (*value[:-1], changed(value[-1]))
    if isinstance(value, tuple):
        return ("x",)
    return value.model_copy(update={name: changed(getattr(value, name)) for name in list(type(value).model_fields)[:1]})


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_what_is_written_is_read(record):
    placed = record.model_copy(update={"uri": "s3://here"})
    assert type(record).from_json(placed.to_json(), "s3://here") == placed
    assert b"s3://here" not in placed.to_json()


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_every_field_but_the_place_changes_the_digest(record):
    digests = {
        name: record.model_copy(update={name: changed(getattr(record, name))}).digest
        for name in type(record).model_fields
    }
    assert digests.pop("uri") == record.digest
    assert record.digest not in digests.values()
    assert len(set(digests.values())) == len(digests)


def test_a_field_that_came_later_is_no_part_of_a_record_without_it():
    record = RECORDS["comparison"]
    unset = {name: type(record).model_fields[name].default for name in record.later_fields}
    assert not set(record.later_fields) & json.loads(record.model_copy(update=unset).to_json()).keys()
    assert set(record.later_fields) <= json.loads(record.to_json()).keys()


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_a_changed_stored_field_is_noticed(record):
    payload = json.loads(record.to_json())
    for name, value in payload.items():
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            damaged = json.dumps({**payload, name: value + (1 if isinstance(value, int | float) else "x")}).encode()
            with pytest.raises(CompatibilityError if name == "schema_version" else IntegrityError):
                type(record).from_json(damaged, "here")


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"null", b"{}", b"\xff"],
)
def test_what_is_no_record_is_refused_with_its_place(damage):
    with pytest.raises(IntegrityError) as caught:
        DatasetManifest.from_json(damage, "s3://here")
    assert caught.value.where == "s3://here/manifest.json"
    assert caught.value.fix


def test_a_record_of_another_type_is_refused():
    with pytest.raises(IntegrityError):
        EncodedManifest.from_json(RECORDS["dataset"].to_json(), "here")


@pytest.mark.parametrize(("version", "said"), [(SCHEMA_VERSION - 1, "an older"), (SCHEMA_VERSION + 1, "a newer")])
def test_a_record_of_another_format_is_refused_with_both_versions_and_what_to_do(version, said):
    payload = json.loads(RECORDS["dataset"].to_json())
    data = json.dumps({**payload, "schema_version": version, "a field of that version": 1}).encode()
    with pytest.raises(CompatibilityError, match=f"This DatasetManifest is of {said} format") as caught:
        DatasetManifest.from_json(data, "here")
    assert caught.value.found == f"schema_version {version}"
    assert caught.value.expected == f"schema_version {SCHEMA_VERSION}, which softalign {__version__} writes"
    assert caught.value.where == "here/manifest.json"
    asked = "update softalign" if said == "a newer" else "install the softalign that wrote it"
    assert asked in caught.value.fix and "rerun the stage" in caught.value.fix


def test_records_do_not_change_and_take_no_unknown_field():
    with pytest.raises(ValidationError):
        RECORDS["dataset"].name = "other"
    with pytest.raises(ValidationError):
        DatasetManifest.model_validate({**RECORDS["dataset"].model_dump(), "comment": "x"})


def test_a_record_that_grows_too_large_is_refused():
    reasons = tuple(ReasonCount(reason=f"reason-{number}" * 5, count=number) for number in range(100))
    with pytest.raises(IntegrityError, match=str(MAX_RECORD_BYTES)):
        RECORDS["dataset"].model_copy(update={"rejected": reasons}).to_json()


@pytest.mark.parametrize("number", [6, 40])
def test_a_comparison_by_as_many_tags_of_long_names_as_a_suite_may_have_fits(number):
    tags = [f"{place:02d}" + "x" * (MAX_TAG_CHARS - 2) for place in range(number)]
    assert number <= MAX_TAGS
    numbers = {"difference": -0.123456, "ci_low": -0.234567, "ci_high": -0.012345}
    differences = tuple(TagDifference(tag=tag, **numbers) for tag in (*tags, "overall"))
    shown = PairEvidence(p_value=0.000123, wins=12345, losses=12345, detectable=0.123456)
    base = GuidedBase(
        guidance_scale=7.5,
        denoiser_calls_per_image=60,
        overall_score=0.123456,
        overall_ci_low=0.123456,
        overall_ci_high=0.123456,
    )
    whole = RECORDS["comparison"].model_copy(
        update={
            "suite": "geneval+0123456789abcdef",
            "stage_key": "k" * 64,
            "files_digest": "f" * 64,
            "parents": ("p" * 64,) * 6,
            "champion": f"{'n' * 60}/123#{'a' * 64}",
            "guided_base": base,
            **dict.fromkeys(("adapter_vs_base", "adapter_vs_untrained", "adapter_vs_champion"), differences),
            **dict.fromkeys(("over_base", "over_untrained", "over_champion"), shown),
        }
    )
    assert MAX_RECORD_BYTES < len(whole.to_json()) <= whole.max_bytes - 512  # room for rounds, and fields to come
    numbers = dict(score=0.123456, ci_low=0.123456, ci_high=0.123456, num_images=12345, num_correct=12345)
    report = RECORDS["report"].model_copy(update={"tags": tuple(TagScore(tag=tag, **numbers) for tag in tags)})
    assert len(report.to_json()) < report.max_bytes - 512


def test_a_full_curation_fits():
    reasons = tuple(ReasonCount(reason=f"perceptual_duplicate_{number}", count=10**9) for number in range(18))
    assert len(RECORDS["dataset"].model_copy(update={"rejected": reasons}).to_json()) < MAX_RECORD_BYTES


def test_canonical_json_knows_no_order_and_no_nan():
    assert canonical_json({"b": 1, "a": [1.5, "é"]}) == b'{"a":[1.5,"\\u00e9"],"b":1}'
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))


def test_every_record_type_names_its_stage_and_file():
    kinds = [DatasetManifest, EncodedManifest, Adapter, EvalReport, ComparisonReport, ModelVersion]
    assert {kind.stage for kind in kinds} == set(artifacts.Stage.__args__)
    assert {type(record) for record in RECORDS.values()} == set(kinds)
    assert all(issubclass(kind, Record) and kind.filename.endswith(".json") for kind in kinds)
