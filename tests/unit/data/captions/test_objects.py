"""The table of objects: GenEval's labels in their order, then the world's shapes, each once."""

from collections import Counter

from softalign.data.captions.objects import OBJECTS
from softalign.data.captions.words import objects_like, plural_of
from softalign.geneval.prompts import CLASSES
from softalign.shapes.scenes import SHAPES


def test_the_table_has_every_label_once_and_the_sizes_of_cocos_supercategories():
    assert tuple(word.name for word in OBJECTS) == (*CLASSES, *SHAPES)
    sizes = {"person": 1, "vehicle": 8, "outdoor": 5, "animal": 10, "accessory": 5, "sports": 10, "kitchen": 7}
    sizes |= {"food": 10, "furniture": 6, "electronic": 6, "appliance": 5, "indoor": 7, "shape": 4}
    assert Counter(word.kind for word in OBJECTS) == sizes


def test_what_follows_from_a_row():
    assert objects_like("sink") == ("microwave", "oven", "toaster", "refrigerator")
    assert objects_like("person")[:2] == ("bird", "cat")
    assert "person" not in objects_like("dog")
    assert objects_like("cross") == ("circle", "square", "triangle")
    assert [plural_of(name) for name in ("knife", "wine glass", "skis", "cross")] == [
        "knives",
        "wine glasses",
        "skis",
        "crosses",
    ]
