"""What is measured of a subject, against the denoiser called by hand, for every family."""

import json

import pytest
import torch

from softalign.config import TrainConfig
from softalign.config.objective import SoftREPAConfig
from softalign.diagnosis.diagnose import DIAGNOSIS_FILENAME, PAGE_FILENAME, write
from softalign.diagnosis.findings import _answer, findings_of
from softalign.diagnosis.measuring import measure
from softalign.diagnosis.records import Diagnosis, Estimate, GuidanceLikeness
from softalign.method.forward_process import NoiseDraw, keyed_generator
from tests.tiny_families import FAMILIES
from tests.unit.diagnosis.tiny_subject import IMAGES, states_of, tiny_subject

AT = 300


def by_hand(name, subject, texts, tokens):
    """Predictions and target of the images with some texts, noise and times drawn here."""
    family, images = FAMILIES[name], range(len(IMAGES))
    noise = torch.stack([torch.randn(4, 8, 8, generator=keyed_generator("diagnosis", 7, index)) for index in images])
    time = AT / 1000 / (3 - 2 * AT / 1000) if family.layers else (AT + 0.5) / 1000
    draw = NoiseDraw(torch.full((2,), time, dtype=torch.float64), noise)
    noisy = family.process.diffuse(torch.stack([image.latents_CHW for image in IMAGES]), draw)
    assert all(abs(float(timestep) - AT) < 1e-6 for timestep in noisy.timesteps_B)
    module = family.make_module(dtype=torch.float64) if tokens is None else None
    denoiser = subject.denoiser if tokens is not None else family.denoiser(family.tokens(1, 0), module=module)
    if tokens is None:
        denoiser.close()  # no hook is left: the family's own module
    with torch.no_grad():
        args = noisy.noisy_latents_BCHW, noisy.timesteps_B, states_of(family, texts)
        return denoiser.predict(*args, tokens or family.tokens(1, 0), torch.zeros(2, dtype=torch.int64)), noisy


def measured(name, **changes):
    subject = tiny_subject(name, **changes)
    return subject, measure(subject, IMAGES, seed=7, rows_per_call=3, timesteps=(AT,))


@pytest.mark.parametrize("name", FAMILIES)
def test_changes_and_guidance_are_those_of_the_predictions(name):
    subject, found = measured(name)
    captions = [image.caption for image in IMAGES]
    base, noisy = by_hand(name, subject, captions, None)
    live, _ = by_hand(name, subject, captions, subject.tokens["adapter"])
    empty, _ = by_hand(name, subject, ["", ""], None)
    (change,), (likeness, _) = found.changes, found.likeness

    def norms(values):
        return values.flatten(1).norm(dim=1)

    assert change.adapter.mean == pytest.approx(float((norms(live - base) / norms(base)).mean()))
    assert change.guidance.mean == pytest.approx(float((norms(base - empty) / norms(base)).mean()))
    cosines = torch.cosine_similarity((live - base).flatten(1), (base - empty).flatten(1))
    assert likeness.cosine.mean == pytest.approx(float(cosines.mean()))
    assert likeness.explained.mean == pytest.approx(float(cosines.square().mean()))
    assert change.training.mean == 0.0  # trained and untrained tokens are the same here
    errors = [float((prediction - noisy.target_BCHW).square().mean()) for prediction in (base, live)]
    assert [found.own_errors[0].base.mean, found.own_errors[0].adapter.mean] == pytest.approx(errors)


@pytest.mark.parametrize("name", ["sd15", "sd3"])
def test_ranks_are_those_of_the_errors(name):
    subject, found = measured(name)
    ranks = {rank.kind: rank for rank in found.ranks}
    assert set(ranks) == {"count", "object"}
    for place, kind in enumerate(("count", "object")):
        for tokens, estimate in ((None, ranks[kind].base), (subject.tokens["adapter"], ranks[kind].adapter)):
            own, noisy = by_hand(name, subject, [image.caption for image in IMAGES], tokens)
            edited, _ = by_hand(name, subject, [image.edits[place].text for image in IMAGES], tokens)
            errors = [(values - noisy.target_BCHW).square().mean(dim=(1, 2, 3)) for values in (own, edited)]
            assert estimate.mean == float((errors[0] < errors[1]).double().mean())
        assert (ranks[kind].chance, ranks[kind].base.number) == (0.5, 2)


def test_the_weights_alarm_is_training_s_own():
    _, found = measured("sd15")
    (weight,) = found.weights
    assert weight.chance == pytest.approx(1 / 3)
    assert weight.is_at_chance == (abs(weight.weight.mean - 1 / 3) <= 0.05 / 3)
    _, other = measured("sd15", training=TrainConfig(batch_size=2, objective=SoftREPAConfig()))
    assert other.weights == []


@pytest.mark.parametrize("name", ["sdxl", "sd35"])
def test_a_diagnosis_is_written_as_page_and_json(name, tmp_path):
    _, found = measured(name)
    assert {(one.loss_part, one.parameter) for one in found.gradients} == {
        *(("positive", part) for part in ("psi+", "timestep table")),
        *(("negative", part) for part in ("psi-", "timestep table")),
    }
    whole = Diagnosis(
        library_version="0",
        name="<tiny>",
        weights_sha256="0" * 64,
        base_model="tiny",
        family=name,
        objective="agsm",
        device="cpu",
        dtype="float64",
        seed=7,
        images="drawn",
        num_images=len(IMAGES),
        missing=("nothing at all",),
        **{field: tuple(values) for field, values in vars(found).items()},
    )
    whole = whole.model_copy(update={"findings": findings_of(whole)})
    write(whole, tmp_path / "out")
    assert Diagnosis.model_validate_json((tmp_path / "out" / DIAGNOSIS_FILENAME).read_text()) == whole
    page = (tmp_path / "out" / PAGE_FILENAME).read_text()
    assert all(text in page for text in ("&lt;tiny&gt;", "Is it only more guidance?", "nothing at all", "L+ on psi+"))
    assert "<tiny>" not in page
    assert "http" not in page.replace("http-equiv", "")
    asked = json.loads((tmp_path / "out" / DIAGNOSIS_FILENAME).read_text())["changes"][0]["adapter"]["mean"]
    assert f"{asked:.3g}" in page


@pytest.mark.parametrize(
    ("cosine", "answer"),
    [
        (0.9, "mostly more guidance"),
        (0.4, "not only more guidance"),
        (0.0, "not more guidance"),
        (-0.9, "mostly less guidance"),
    ],
)
def test_only_what_lies_along_guidance_is_called_it(cosine, answer):
    along, squared = (Estimate(mean=at, low=at - 0.1, high=at + 0.1, number=9) for at in (cosine, cosine**2))
    levels = [
        GuidanceLikeness(arm="adapter", timestep=at, cosine=along, explained=squared, extra_guidance=along)
        for at in (100, 900)
    ]
    assert _answer(levels) == answer
