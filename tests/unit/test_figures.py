"""The README's picture and diagram: verdicts as they were measured, and every stage of the table."""

import importlib
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from softalign.artifacts import DatasetManifest
from softalign.config import EvalConfig, load_recipe
from softalign.shapes.suite import build_suite
from softalign.stages.published import Published
from softalign.stages.table import STAGES
from softalign.store.store import Store
from tests.recorded_arms import publish_arms

INFRA = Path(__file__).parents[2] / "infra"


@pytest.fixture(scope="module")
def figure():
    """Return the figures' modules by name: they lie beside their command, outside of any package."""
    sys.path.insert(0, str(INFRA))
    yield importlib.import_module
    sys.path.remove(str(INFRA))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    store = Store(str(tmp_path_factory.mktemp("figures")))
    config = EvalConfig(suite="shapes", images_per_prompt=4, guidance_scale=1.0, num_bootstrap=100)
    reports, adapter = publish_arms(tuple(build_suite()[::15]), config, store)
    published = Published().plus("train", adapter)
    for report in reports.compared:
        published = published.plus(f"evaluate ({report.arm})", report)
    return store, published


def test_the_picture_frames_each_image_by_its_verdict(figure, run):
    module, (store, published) = figure("figure_picture"), run
    image = module.picture(published, store).convert("RGB")
    arms = [module._arm(report, store) for report in published.arm_reports.compared]
    folders = module._typical_prompts(arms[0], arms[-1])
    assert len({arms[0].results[folder][0].tag for folder in folders}) == len(folders)
    verdicts, frames = [], []
    step = module.IMAGE_PX + module.GAP_PX
    for number, arm in enumerate(arms):
        left = module.MARGIN_PX + module.TEXT_PX + module.ARM_GAP_PX
        left += number * (module.NUM_IMAGES * step - module.GAP_PX + module.ARM_GAP_PX)
        for row, folder in enumerate(folders):
            for place, result in enumerate(arm.results[folder][: module.NUM_IMAGES]):
                top = module.HEADER_PX + row * (module.IMAGE_PX + 2 * module.GAP_PX)
                red, green, _ = image.getpixel((left + place * step - 2, top + 40))
                verdicts.append(result.correct)
                frames.append(green > red)
    assert frames == verdicts
    assert len(set(verdicts)) == 2


def test_the_diagram_has_every_stage_and_what_it_published(figure, run):
    store, published = run
    counts = dict.fromkeys(
        ("num_samples", "num_captions", "num_val_samples", "num_shards", "total_bytes", "num_seen"), 7
    )
    dataset = DatasetManifest(stage_key="k", name="a<b", **counts)
    recipe = load_recipe("shapes-unet")
    some = published.only([label for label in published.labels if label != "train"]).plus("curate", dataset)
    text = figure("figure_diagram").diagram_svg(recipe, some, store)
    shown = " ".join("".join(node.itertext()) for node in ElementTree.fromstring(text).iter() if node.text)
    for row in STAGES:
        assert row.name in shown
        assert row.record.__name__ in shown
    assert "kept 7 of 7 images" in shown
    assert all(f"{report.overall_score * 100:.1f}" in shown for report in published.eval_reports)


def test_the_stored_figures_are_small_and_of_the_present_stages():
    folder = INFRA / "figures"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 300_000
    text = (folder / "stages.svg").read_text(encoding="utf-8")
    assert all(f">{row.name}<" in text and row.record.filename in text for row in STAGES)
