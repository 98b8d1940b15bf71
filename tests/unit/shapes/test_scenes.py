"""Rendering is a function of the scene, sampling a function of the generator."""

import numpy as np
import pytest

from softalign.shapes.scenes import (
    CELL_PX,
    COLORS,
    GRID_SIZE,
    IMAGE_SIZE_PX,
    MAX_OBJECTS,
    PALETTE,
    SHAPES,
    Scene,
    SceneObject,
    inside_shape,
    render,
    render_batch,
    sample_dense_scene,
    sample_scene,
)


def test_same_seed_gives_the_same_scenes_and_pixels():
    first = [sample_scene(np.random.default_rng(3)) for _ in range(5)]
    second = [sample_scene(np.random.default_rng(3)) for _ in range(5)]
    assert first == second
    assert np.array_equal(render_batch(first), render_batch(second))


def test_batch_and_single_rendering_agree():
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng) for _ in range(50)]
    assert np.array_equal(render_batch(scenes), np.stack([render(scene) for scene in scenes]))


def test_image_format_and_background():
    image = render(Scene((), 130))
    assert image.shape == (IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3)
    assert image.dtype == np.uint8
    assert (image == 130).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("color", COLORS)
def test_centre_has_the_colour_and_the_cell_corner_does_not(shape, color):
    image = render(Scene((SceneObject(shape, color, 1, 2, 0.0, 0.0, 3.0),), 140))
    assert tuple(image[CELL_PX + 4, 2 * CELL_PX + 4]) == PALETTE[color]
    assert (image[CELL_PX, 2 * CELL_PX] == 140).all()


def test_sampled_scenes_are_inside_the_world():
    rng = np.random.default_rng(1)
    for _ in range(500):
        scene = sample_scene(rng)
        assert 1 <= len(scene.objects) <= MAX_OBJECTS
        assert len({(o.row, o.column) for o in scene.objects}) == len(scene.objects)
        for obj in scene.objects:
            x0, y0, x1, y1 = obj.box_px
            assert min(x0, y0) >= 0
            assert max(x1, y1) <= IMAGE_SIZE_PX


@pytest.mark.parametrize("extra", [1, 2])
def test_extra_objects_have_shapes_of_their_own(extra):
    rng = np.random.default_rng(extra)
    for _ in range(200):
        objects = sample_scene(rng, extra).objects
        assert len(objects) <= MAX_OBJECTS
        assert not {o.shape for o in objects[:-extra]} & {o.shape for o in objects[-extra:]}


def test_too_many_extra_objects_are_refused():
    with pytest.raises(ValueError, match="extra objects"):
        sample_scene(np.random.default_rng(0), MAX_OBJECTS)


def test_dense_scenes_fill_half_the_grid_or_more():
    scene = sample_dense_scene(np.random.default_rng(0))
    assert GRID_SIZE**2 // 2 <= len(scene.objects) <= GRID_SIZE**2


def test_unknown_shape_is_refused():
    with pytest.raises(KeyError, match="hexagon"):
        inside_shape("hexagon", np.zeros(1, np.float32), np.zeros(1, np.float32))
