"""Evaluation sets stay out of datasets: prompts by their words, images by their looks."""

import json
import shutil

import pytest

from softalign.config import FilterConfig, load_recipe
from softalign.data.curation.decontamination import PromptIndex, evaluation_prompts
from softalign.data.curation.filters import filter_captions
from softalign.data.curation.image_folder import ImageFolder
from softalign.data.curation.pipeline import curate
from softalign.data.curation.samples import ListedSample
from softalign.errors import DataError, MissingInputError
from softalign.geneval.prompts import official_prompts, to_json_line
from softalign.stages.requests import StageInputs, curate_request
from softalign.store.store import Store


@pytest.fixture(autouse=True)
def read_anew():
    evaluation_prompts.cache_clear()


def reasons(*captions, **options):
    listed = ListedSample("s", "a.png", ImageFolder("/images"), captions)
    found = filter_captions(listed, FilterConfig(captions=options))
    return {entry.caption_index: entry.reason for entry in found.rejections if entry.caption_index >= 0}


def test_genevals_prompts_are_found_as_a_whole_and_within():
    captions = ("A photo of a bench.", "in the park, a photo of the bench stands", "a bench in a park", "photo, bench")
    found = reasons(*captions, exclude_prompts=["geneval"])
    assert found == {0: "caption_of_evaluation", 1: "caption_of_evaluation"}
    assert reasons(*captions) == {}


def test_every_prompt_of_geneval_is_found():
    index = evaluation_prompts(("geneval",))
    assert all(index.found_in(prompt.prompt) for prompt in official_prompts())


def test_short_prompts_are_found_only_alone():
    index = PromptIndex(["a dog", "a dog on a mat", "???"])
    assert [index.found_in(text) for text in ("The dog!", "a brown dog", "see a dog on the mat", "!!!")] == [
        "dog",
        "",
        "dog on mat",
        "",
    ]


def test_files_of_prompts_hold_text_or_objects(tmp_path):
    (tmp_path / "p.txt").write_text("\ufeffa red bus in town\n\n", encoding="utf-8")
    (tmp_path / "p.jsonl").write_text("".join(to_json_line(prompt) + "\n" for prompt in official_prompts()[:3]))
    names = [str(tmp_path / "p.txt"), str(tmp_path / "p.jsonl")]
    first = official_prompts()[0].prompt
    assert reasons("A red bus, in town", first, "a blue bus", exclude_prompts=names) == {
        0: "caption_of_evaluation",
        1: "caption_of_evaluation",
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\n", "is empty"), (b"\xff", "no text"), (b'{"text": 1}', "no prompt"), (b'{"prompt": 1}', "is no text")],
)
def test_a_file_without_prompts_ends_the_stage(tmp_path, content, message):
    (tmp_path / "p").write_bytes(content)
    with pytest.raises(DataError, match=message):
        evaluation_prompts((str(tmp_path / "p"),))


def test_evaluation_images_and_near_copies_are_left_out(handover, make_picture, store, configure, tmp_path):
    handover.add_pictures(3)
    folder = tmp_path / "evaluation" / "deep"
    folder.mkdir(parents=True)
    make_picture(1).save(folder / "copy.WebP", lossless=True)
    (folder / "metadata.jsonl").write_text("{}")
    manifest = curate(configure(handover.coco(), exclude_images=[str(tmp_path / "evaluation")]), store, "k")
    assert [(entry.reason, entry.count) for entry in manifest.rejected] == [("image_of_evaluation", 1)]


def test_a_folder_without_images_ends_the_stage(handover, store, configure, tmp_path):
    handover.add_pictures(1)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="evaluation images is empty"):
        curate(configure(handover.coco(), exclude_images=[str(tmp_path / "none")]), store, "k")
    (tmp_path / "none" / "half.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match="cannot be decoded"):
        curate(configure(handover.coco(), exclude_images=[str(tmp_path / "none")]), store, "k2")


def test_an_evaluation_set_that_changes_is_another_request(tmp_path, handover, make_picture):
    (tmp_path / "p.txt").write_text("a red bus")
    images = handover.add("a.png", [], make_picture(1)).parent
    sets = {"exclude_images": [str(images)], "captions": {"exclude_prompts": ["geneval", str(tmp_path / "p.txt")]}}
    recipe = load_recipe("shapes", [f"curation.filters={json.dumps(sets)}"])

    def key():
        return curate_request(StageInputs(recipe, Store(str(tmp_path / "store")))).key

    keys = [key()]
    (tmp_path / "p.txt").write_text("a blue bus")
    keys.append(key())
    shutil.copy(images / "a.png", images / "b.png")
    keys.append(key())
    assert len(set(keys)) == 3
    (tmp_path / "p.txt").unlink()
    with pytest.raises(MissingInputError):
        key()
