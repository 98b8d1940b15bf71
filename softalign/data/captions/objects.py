"""The objects that captions name, one row each: COCO's 80 labels, as GenEval has them, and the world's shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from softalign.shapes.captions import plural
from softalign.shapes.scenes import SHAPES


@dataclass(frozen=True, slots=True)
class ObjectWord:
    """An object's name, its English plural (for some the name itself), and its kind, which is COCO's supercategory."""

    name: str
    plural: str
    kind: str


OBJECTS: Final = (
    ObjectWord("person", "people", "person"),
    ObjectWord("bicycle", "bicycles", "vehicle"),
    ObjectWord("car", "cars", "vehicle"),
    ObjectWord("motorcycle", "motorcycles", "vehicle"),
    ObjectWord("airplane", "airplanes", "vehicle"),
    ObjectWord("bus", "buses", "vehicle"),
    ObjectWord("train", "trains", "vehicle"),
    ObjectWord("truck", "trucks", "vehicle"),
    ObjectWord("boat", "boats", "vehicle"),
    ObjectWord("traffic light", "traffic lights", "outdoor"),
    ObjectWord("fire hydrant", "fire hydrants", "outdoor"),
    ObjectWord("stop sign", "stop signs", "outdoor"),
    ObjectWord("parking meter", "parking meters", "outdoor"),
    ObjectWord("bench", "benches", "outdoor"),
    ObjectWord("bird", "birds", "animal"),
    ObjectWord("cat", "cats", "animal"),
    ObjectWord("dog", "dogs", "animal"),
    ObjectWord("horse", "horses", "animal"),
    ObjectWord("sheep", "sheep", "animal"),
    ObjectWord("cow", "cows", "animal"),
    ObjectWord("elephant", "elephants", "animal"),
    ObjectWord("bear", "bears", "animal"),
    ObjectWord("zebra", "zebras", "animal"),
    ObjectWord("giraffe", "giraffes", "animal"),
    ObjectWord("backpack", "backpacks", "accessory"),
    ObjectWord("umbrella", "umbrellas", "accessory"),
    ObjectWord("handbag", "handbags", "accessory"),
    ObjectWord("tie", "ties", "accessory"),
    ObjectWord("suitcase", "suitcases", "accessory"),
    ObjectWord("frisbee", "frisbees", "sports"),
    ObjectWord("skis", "skis", "sports"),
    ObjectWord("snowboard", "snowboards", "sports"),
    ObjectWord("sports ball", "sports balls", "sports"),
    ObjectWord("kite", "kites", "sports"),
    ObjectWord("baseball bat", "baseball bats", "sports"),
    ObjectWord("baseball glove", "baseball gloves", "sports"),
    ObjectWord("skateboard", "skateboards", "sports"),
    ObjectWord("surfboard", "surfboards", "sports"),
    ObjectWord("tennis racket", "tennis rackets", "sports"),
    ObjectWord("bottle", "bottles", "kitchen"),
    ObjectWord("wine glass", "wine glasses", "kitchen"),
    ObjectWord("cup", "cups", "kitchen"),
    ObjectWord("fork", "forks", "kitchen"),
    ObjectWord("knife", "knives", "kitchen"),
    ObjectWord("spoon", "spoons", "kitchen"),
    ObjectWord("bowl", "bowls", "kitchen"),
    ObjectWord("banana", "bananas", "food"),
    ObjectWord("apple", "apples", "food"),
    ObjectWord("sandwich", "sandwiches", "food"),
    ObjectWord("orange", "oranges", "food"),
    ObjectWord("broccoli", "broccoli", "food"),
    ObjectWord("carrot", "carrots", "food"),
    ObjectWord("hot dog", "hot dogs", "food"),
    ObjectWord("pizza", "pizzas", "food"),
    ObjectWord("donut", "donuts", "food"),
    ObjectWord("cake", "cakes", "food"),
    ObjectWord("chair", "chairs", "furniture"),
    ObjectWord("couch", "couches", "furniture"),
    ObjectWord("potted plant", "potted plants", "furniture"),
    ObjectWord("bed", "beds", "furniture"),
    ObjectWord("dining table", "dining tables", "furniture"),
    ObjectWord("toilet", "toilets", "furniture"),
    ObjectWord("tv", "tvs", "electronic"),
    ObjectWord("laptop", "laptops", "electronic"),
    ObjectWord("computer mouse", "computer mice", "electronic"),
    ObjectWord("tv remote", "tv remotes", "electronic"),
    ObjectWord("computer keyboard", "computer keyboards", "electronic"),
    ObjectWord("cell phone", "cell phones", "electronic"),
    ObjectWord("microwave", "microwaves", "appliance"),
    ObjectWord("oven", "ovens", "appliance"),
    ObjectWord("toaster", "toasters", "appliance"),
    ObjectWord("sink", "sinks", "appliance"),
    ObjectWord("refrigerator", "refrigerators", "appliance"),
    ObjectWord("book", "books", "indoor"),
    ObjectWord("clock", "clocks", "indoor"),
    ObjectWord("vase", "vases", "indoor"),
    ObjectWord("scissors", "scissors", "indoor"),
    ObjectWord("teddy bear", "teddy bears", "indoor"),
    ObjectWord("hair drier", "hair driers", "indoor"),
    ObjectWord("toothbrush", "toothbrushes", "indoor"),
    *(ObjectWord(shape, plural(shape), "shape") for shape in SHAPES),
)
OBJECT_BY_NAME: Final = {word.name: word for word in OBJECTS}
