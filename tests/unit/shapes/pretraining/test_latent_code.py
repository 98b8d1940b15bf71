"""The latent code says what the scene says, and nothing where nothing is."""

import numpy as np

from softalign.shapes.pretraining.latent_code import GEOMETRY_AMPLITUDE, NUM_CHANNELS, WORD_AMPLITUDE, latent_targets
from softalign.shapes.scenes import COLORS, GRID_SIZE, SHAPES, Scene, SceneObject, sample_scene


def test_cells_without_objects_differ_in_shade_only():
    dark, bright = latent_targets([Scene((), 118), Scene((), 158)])
    assert dark.shape == (NUM_CHANNELS, GRID_SIZE, GRID_SIZE)
    assert np.count_nonzero(np.abs(dark).sum(axis=(1, 2))) == 1
    assert np.allclose(dark, -bright)


def test_words_are_equally_far_apart():
    def cell(shape, color):
        return latent_targets([Scene((SceneObject(shape, color, 1, 3, 0.0, 0.0, 2.95),), 138)])[0, :, 1, 3]

    start = cell(SHAPES[0], COLORS[0])
    other_shapes = [np.linalg.norm(cell(shape, COLORS[0]) - start) for shape in SHAPES[1:]]
    other_colors = [np.linalg.norm(cell(SHAPES[0], color) - start) for color in COLORS[1:]]
    assert np.allclose(other_shapes + other_colors, WORD_AMPLITUDE * np.sqrt(2))


def test_geometry_stays_within_its_amplitude():
    rng = np.random.default_rng(0)
    targets = latent_targets([sample_scene(rng) for _ in range(100)])
    geometry = targets[:, len(SHAPES) + len(COLORS) + 1 : NUM_CHANNELS - 2]
    assert np.abs(geometry).max() <= GEOMETRY_AMPLITUDE + 1e-5
