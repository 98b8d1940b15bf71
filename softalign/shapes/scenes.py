"""Scenes of the embedded world and their renderer.

A scene is one to five flat shapes on a 4x4 grid of 8-pixel cells, on a plain grey background of random shade. Geometry
and colours are drawn from an explicit generator, so a scene is a function of its seed and an image is a function of its
scene. World chosen by measurement: larger images, free placement and textures did not learn within two CPU-hours.

Shape legend: N scenes, H = W = 32 pixels, K objects of all scenes together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

SHAPES: Final = ("circle", "square", "triangle", "cross")
PALETTE: Final[dict[str, tuple[int, int, int]]] = {
    "red": (214, 40, 40),
    "yellow": (245, 210, 30),
    "green": (40, 160, 60),
    "blue": (40, 80, 215),
    "white": (250, 250, 250),
    "black": (12, 12, 12),
}
COLORS: Final = tuple(PALETTE)

IMAGE_SIZE_PX: Final = 32
GRID_SIZE: Final = 4
CELL_PX: Final = IMAGE_SIZE_PX // GRID_SIZE
MAX_OBJECTS: Final = 5
JITTER_PX: Final = 0.35
RADIUS_RANGE_PX: Final = (2.7, 3.2)
BACKGROUND_RANGE: Final = (118, 158)
"""Grey levels of the background: far from white and black, so that palette segmentation stays unambiguous."""

_SUPERSAMPLING = 4
_COLOR_TABLE = np.array([PALETTE[color] for color in COLORS], dtype=np.float32)
# Shares of the scene layouts; captions follow from them (counts are what is learned last).
_LAYOUT_SHARES = (("one", 0.22), ("two", 0.33), ("group", 0.37), ("groups", 0.08))


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One shape: its words, its grid cell, and the offset and radius in pixels that make it vary."""

    shape: str
    color: str
    row: int
    column: int
    offset_x_px: float
    offset_y_px: float
    radius_px: float

    @property
    def center_px(self) -> tuple[float, float]:
        """The centre (x, y) in pixels, y growing downwards."""
        half = CELL_PX / 2
        return self.column * CELL_PX + half + self.offset_x_px, self.row * CELL_PX + half + self.offset_y_px

    @property
    def box_px(self) -> tuple[float, float, float, float]:
        """The bounding box (x0, y0, x1, y1) in pixels; every shape fits the square of its radius."""
        x, y = self.center_px
        r = self.radius_px
        return x - r, y - r, x + r, y + r


@dataclass(frozen=True, slots=True)
class Scene:
    """Objects in distinct cells over one grey level."""

    objects: tuple[SceneObject, ...]
    background: int


def inside_shape(shape: str, u: NDArray[np.float32], v: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return whether points (u, v), in units of the radius and v downwards, lie in the named shape.

    Raises:
        KeyError: ``shape`` is not one of SHAPES.
    """
    if shape == "circle":
        return u * u + v * v <= 0.92**2
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) <= 0.95
    if shape == "triangle":
        return (v <= 0.85) & (np.abs(u) <= (v + 1.0) / 1.85)
    if shape == "cross":
        return (np.minimum(np.abs(u), np.abs(v)) <= 0.32) & (np.maximum(np.abs(u), np.abs(v)) <= 1.0)
    raise KeyError(f"expected one of {SHAPES}, found {shape!r}")


def sample_object(rng: np.random.Generator, shape: str, color: str, cell: int) -> SceneObject:
    """Return an object of the given words in grid cell 0..15 (row-major), with random offset and radius."""
    draws = rng.random(3)
    offset_x, offset_y = (draws[:2] * 2 - 1) * JITTER_PX
    low, high = RADIUS_RANGE_PX
    row, column = divmod(cell, GRID_SIZE)
    return SceneObject(
        shape, color, row, column, float(offset_x), float(offset_y), float(low + (high - low) * draws[2])
    )


def _sample_words(rng: np.random.Generator) -> list[tuple[str, str]]:
    """Return the (shape, colour) words of a scene's objects, by layout."""
    draw = float(rng.random())
    layout = _LAYOUT_SHARES[-1][0]
    for name, share in _LAYOUT_SHARES:
        draw -= share
        if draw < 0:
            layout = name
            break
    shape_order = [SHAPES[i] for i in rng.permutation(len(SHAPES))]
    color_order = [COLORS[i] for i in rng.permutation(len(COLORS))]
    if layout == "one":
        return [(shape_order[0], color_order[0])]
    if layout == "two":
        second_color = color_order[1] if rng.random() < 0.9 else color_order[0]
        return [(shape_order[0], color_order[0]), (shape_order[1], second_color)]
    if layout == "group":
        count = int(rng.integers(2, MAX_OBJECTS))
        is_uniform = rng.random() < 0.6
        return [(shape_order[0], color_order[0] if is_uniform else COLORS[rng.integers(6)]) for _ in range(count)]
    first = int(rng.integers(1, 4))
    second = int(rng.integers(1, MAX_OBJECTS + 1 - first)) if first > 1 else int(rng.integers(2, 4))
    return [(shape_order[0], color_order[0])] * first + [(shape_order[1], color_order[1])] * second


def sample_scene(rng: np.random.Generator, num_extra_objects: int = 0) -> Scene:
    """Return a random scene of one to five objects, the last ``num_extra_objects`` unrelated to the others.

    Extra objects have shapes that the scene does not have otherwise, so that a caption of the rest stays true.

    Raises:
        ValueError: there is no room for an object beside the extra ones.
    """
    if not 0 <= num_extra_objects < MAX_OBJECTS:
        raise ValueError(f"expected 0 to {MAX_OBJECTS - 1} extra objects, found {num_extra_objects}")
    words = _sample_words(rng)
    while len(words) + num_extra_objects > MAX_OBJECTS:
        words = _sample_words(rng)
    if num_extra_objects:
        free_shapes = [shape for shape in SHAPES if all(shape != used for used, _ in words)]
        words = words + [
            (free_shapes[rng.integers(len(free_shapes))], COLORS[rng.integers(len(COLORS))])
            for _ in range(num_extra_objects)
        ]
    return scene_of_words(rng, words)


def scene_of_words(rng: np.random.Generator, words: Sequence[tuple[str, str]]) -> Scene:
    """Return a scene with one object per (shape, colour), in distinct random cells.

    Two-object scenes are placed in one row or column half of the time: only these make clear position captions.
    """
    if len(words) == 2 and rng.random() < 0.5:
        line, first, second = int(rng.integers(GRID_SIZE)), *(int(i) for i in rng.permutation(GRID_SIZE)[:2])
        cells = [line * GRID_SIZE + first, line * GRID_SIZE + second]
        if rng.random() < 0.5:
            cells = [first * GRID_SIZE + line, second * GRID_SIZE + line]
    else:
        cells = [int(cell) for cell in rng.permutation(GRID_SIZE**2)[: len(words)]]
    background = int(rng.integers(*BACKGROUND_RANGE, endpoint=True))
    objects = [sample_object(rng, shape, color, cell) for (shape, color), cell in zip(words, cells, strict=True)]
    return Scene(tuple(objects), background)


def sample_dense_scene(rng: np.random.Generator) -> Scene:
    """Return a scene with random objects in 8 to 16 cells: more signal per pixel than ``sample_scene`` gives."""
    count = int(rng.integers(GRID_SIZE**2 // 2, GRID_SIZE**2, endpoint=True))
    shapes, colors = rng.integers(len(SHAPES), size=count), rng.integers(len(COLORS), size=count)
    return scene_of_words(rng, [(SHAPES[s], COLORS[c]) for s, c in zip(shapes, colors, strict=True)])


def render_batch(scenes: Sequence[Scene]) -> NDArray[np.uint8]:
    """Return images (N, 32, 32, 3) of the scenes, antialiased by 4x4 supersampling, each object inside its cell."""
    num_scenes = len(scenes)
    backgrounds = np.array([scene.background for scene in scenes], dtype=np.float32)
    canvas = np.empty((num_scenes, GRID_SIZE, GRID_SIZE, CELL_PX, CELL_PX, 3), dtype=np.float32)
    canvas[:] = backgrounds[:, None, None, None, None, None]
    for shape in SHAPES:
        members = [(n, obj) for n, scene in enumerate(scenes) for obj in scene.objects if obj.shape == shape]
        if not members:
            continue
        index = np.array([(n, o.row, o.column, COLORS.index(o.color)) for n, o in members])
        geometry = np.array([(o.offset_x_px, o.offset_y_px, o.radius_px) for _, o in members], dtype=np.float32)
        coverage = shape_coverage(shape, geometry)[..., None]
        scene_of, row, column, color = index.T
        grey = backgrounds[scene_of][:, None, None, None]
        canvas[scene_of, row, column] = grey + coverage * (_COLOR_TABLE[color][:, None, None] - grey)
    image = canvas.transpose(0, 1, 3, 2, 4, 5).reshape(num_scenes, IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3)
    return np.rint(image).astype(np.uint8)


def shape_coverage(shape: str, geometry_K3: NDArray[np.float32], window_px: int = CELL_PX) -> NDArray[np.float32]:
    """Return the share of each pixel that a shape covers: (K, window, window).

    Rows are (offset x, offset y, radius) in pixels.

    Offsets are from the centre of the window.
    """
    steps = (np.arange(window_px * _SUPERSAMPLING, dtype=np.float32) + 0.5) / _SUPERSAMPLING - window_px / 2
    offset_x, offset_y, radius = (column[:, None] for column in geometry_K3.T)
    u = ((steps[None] - offset_x) / radius)[:, None, :]
    v = ((steps[None] - offset_y) / radius)[:, :, None]
    inside = inside_shape(shape, u, v)
    blocks = inside.reshape(len(geometry_K3), window_px, _SUPERSAMPLING, window_px, _SUPERSAMPLING)
    coverage: NDArray[np.float32] = blocks.mean(axis=(2, 4), dtype=np.float32)
    return coverage


def render(scene: Scene) -> NDArray[np.uint8]:
    """Return the image (32, 32, 3) of one scene."""
    image: NDArray[np.uint8] = render_batch([scene])[0]
    return image
