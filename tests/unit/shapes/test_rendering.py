"""Rendered scenes are ordinary files and tables, the same for the same seed."""

import json

from PIL import Image

from softalign.config import ShapesSource
from softalign.data.curation.sources import list_samples
from softalign.shapes.rendering import captioned_scene, render_source
from softalign.store.files import list_files


def test_scenes_are_read_as_any_other_source(tmp_path):
    source = ShapesSource(num_scenes=7, captions_per_scene=3, seed=5)
    samples = list(list_samples(source, "0", tmp_path))
    assert len(samples) == 7
    assert [s.captions for s in samples] == [captioned_scene(source, index)[1] for index in range(7)]
    assert all(Image.open(f"{s.images.uri}/{s.filename}").size == (32, 32) for s in samples)


def test_rendering_is_deterministic_and_done_once(tmp_path):
    source = ShapesSource(num_scenes=300, seed=1)
    render_source(source, tmp_path / "a")
    before = list_files(tmp_path / "a")
    (tmp_path / "a" / "images" / "000000.png").unlink()
    render_source(source, tmp_path / "a")
    assert len(list_files(tmp_path / "a")) == len(before) - 1, "a finished folder is not rendered again"
    render_source(source, tmp_path / "b")
    assert list_files(tmp_path / "b") == before


def test_a_killed_rendering_is_redone(tmp_path):
    source = ShapesSource(num_scenes=5)
    render_source(source, tmp_path / "a")
    before = list_files(tmp_path / "a")
    (tmp_path / "a" / "captions.json").unlink()
    (tmp_path / "a" / "images" / "000003.png").write_bytes(b"half")
    render_source(source, tmp_path / "a")
    assert list_files(tmp_path / "a") == before


def test_a_scene_depends_on_seed_and_index_only(tmp_path):
    short, long = ShapesSource(num_scenes=3, seed=2), ShapesSource(num_scenes=30, seed=2)
    assert captioned_scene(short, 2) == captioned_scene(long, 2)
    assert captioned_scene(short, 2) != captioned_scene(short.model_copy(update={"seed": 3}), 2)


def test_the_shares_of_wrong_and_incomplete_captions(tmp_path):
    from softalign.shapes.captions import COUNT_WORDS

    counts = {word: number for number, word in COUNT_WORDS.items()}

    def num_named(caption):
        text = caption.removeprefix("a photo of ")
        for relation in (" left of ", " right of ", " above ", " below "):
            text = text.replace(relation, " and ")
        return sum(counts.get(part.split()[0], 1) for part in text.split(" and "))

    def share_incomplete(source):
        scenes = [captioned_scene(source, index) for index in range(400)]
        pairs = [(scene, caption) for scene, captions in scenes for caption in captions]
        return sum(num_named(caption) < len(scene.objects) for scene, caption in pairs) / len(pairs)

    assert share_incomplete(ShapesSource(incomplete_share=0.0, wrong_share=0.0)) == 0.0
    assert share_incomplete(ShapesSource(incomplete_share=1.0, wrong_share=0.0)) == 1.0
    assert 0.2 < share_incomplete(ShapesSource(incomplete_share=0.3, wrong_share=0.0)) < 0.4
    wrong, right = ShapesSource(wrong_share=1.0, incomplete_share=0.0), ShapesSource(wrong_share=0, incomplete_share=0)
    assert all(captioned_scene(wrong, index)[1] != captioned_scene(right, index)[1] for index in range(50))


def test_the_coco_table_is_what_cocos_tools_read(tmp_path):
    source = ShapesSource(num_scenes=2, captions_per_scene=2)
    render_source(source, tmp_path)
    table = json.loads((tmp_path / "captions.json").read_bytes())
    assert [image["file_name"] for image in table["images"]] == ["000000.png", "000001.png"]
    assert [annotation["image_id"] for annotation in table["annotations"]] == [0, 0, 1, 1]
    assert len({annotation["id"] for annotation in table["annotations"]}) == 4
