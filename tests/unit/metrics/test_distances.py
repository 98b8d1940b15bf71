"""Distances of sets: known answers, restatements, and the network that FID is defined by."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from softalign.errors import CompatibilityError, DataError, MissingInputError
from softalign.metrics.distances import frechet_distance, kernel_distance, read_statistics, statistics_of
from softalign.metrics.inception import NUM_FEATURES, Inception, resized
from tests.random_inception import random_state

RNG = np.random.default_rng(0)


def normal(number, mean=0.0, std=1.0, width=6):
    return RNG.normal(mean, std, (number, width)).astype(np.float32)


def test_the_frechet_distance_is_the_textbooks():
    one, other = statistics_of(normal(50) @ normal(6), "x"), statistics_of(normal(60, 0.5) @ normal(6), "x")
    root = sqrtm(one.sigma @ other.sigma).real
    offset = ((one.mu - other.mu) ** 2).sum()
    assert frechet_distance(one, other) == pytest.approx(offset + np.trace(one.sigma + other.sigma - 2 * root))
    assert frechet_distance(one, one) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(one, other) == pytest.approx(frechet_distance(other, one))


def test_the_frechet_distance_of_shifted_and_stretched_sets_is_known():
    base = normal(4000)
    plain = statistics_of(base, "x")
    assert frechet_distance(plain, statistics_of(base + 2, "x")) == pytest.approx(6 * 4, rel=1e-6)
    assert frechet_distance(plain, statistics_of(3 * base, "x")) == pytest.approx(
        4 * (np.trace(plain.sigma) + plain.mu @ plain.mu), rel=1e-6
    )


def test_features_that_are_no_numbers_are_refused():
    broken = normal(5)
    broken[3, 1] = np.nan
    with pytest.raises(CompatibilityError, match="1 of 5 images"):
        statistics_of(broken, "x")


def test_fewer_images_than_features_have_a_distance_all_the_same():
    few, other = statistics_of(normal(4), "x"), statistics_of(normal(5, 1.0), "x")
    assert 0 < frechet_distance(few, other) < 100


def test_the_kernel_distance_is_the_papers():
    """Restated as sums over pairs."""
    x, y = normal(7), normal(9, 0.7)

    def kernel(a, b):
        return (float(a.astype(float) @ b.astype(float)) / 6 + 1) ** 3

    within = [
        sum(kernel(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if i != j) / (len(s) * (len(s) - 1))
        for s in (x, y)
    ]
    between = np.mean([kernel(a, b) for a in x for b in y])
    found = kernel_distance(x, y)
    assert found.value == pytest.approx(sum(within) - 2 * between)
    assert found.std is None


def test_subsets_estimate_what_the_whole_has():
    x, y = normal(80), normal(90, 0.5)
    subsets, whole = kernel_distance(x, y, subset_size=40), kernel_distance(x, y)
    assert subsets.value == pytest.approx(whole.value, abs=3 * subsets.std / 10)
    assert 0 < subsets.std < subsets.value
    assert kernel_distance(x, y, subset_size=40) == subsets
    assert kernel_distance(normal(400), normal(400)).value == pytest.approx(0.0, abs=0.05)  # unbiased


def test_statistics_come_back_as_they_were_and_from_other_tools(tmp_path):
    made = statistics_of(normal(9), "maker")
    made.save(tmp_path / "own.npz")
    read = read_statistics(tmp_path / "own.npz")
    assert (read.maker, read.num_images) == ("maker", 9)
    assert all(np.array_equal(getattr(read, name), getattr(made, name)) for name in ("mu", "sigma", "features"))
    np.savez(tmp_path / "others.npz", mu=made.mu, sigma=made.sigma)
    others = read_statistics(tmp_path / "others.npz")
    assert (others.maker, others.num_images, others.features) == ("", None, None)
    assert frechet_distance(made, others) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    "stored",
    [
        {"mu": np.zeros(3)},
        {"mu": np.zeros(3), "sigma": np.zeros((2, 2))},
        {"mu": np.array([{}]), "sigma": np.zeros((1, 1))},
        {"mu": np.array([np.nan]), "sigma": np.ones((1, 1))},
        {"mu": np.zeros(1), "sigma": np.array([[np.inf]])},
        {"mu": np.zeros(1), "sigma": -np.ones((1, 1))},
        {"mu": np.zeros(2), "sigma": np.eye(2), "features": np.zeros((1, 2))},
        {"mu": np.zeros(2), "sigma": np.eye(2), "features": np.zeros((4, 3))},
        {"mu": np.zeros(2), "sigma": np.eye(2), "features": np.zeros(4)},
    ],
    ids=["no sigma", "other sizes", "a pickle", "nan", "inf", "negative", "one image", "other width", "no images"],
)
def test_what_is_no_statistics_is_refused(tmp_path, stored):
    path = tmp_path / "wrong.npz"
    np.savez(path, **stored)
    with pytest.raises(DataError, match="statistics cannot be read"):
        read_statistics(path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match="statistics cannot be read"):
        read_statistics(path)
    with pytest.raises(MissingInputError):
        read_statistics(tmp_path / "nowhere.npz")
    with pytest.raises(DataError, match="too small"):
        statistics_of(normal(1), "x")


def test_the_network_is_that_of_the_published_weights():
    """Features of torch-fidelity 0.4.0's network for these weights and this image; largest difference then: 3e-6."""
    network = Inception().eval()
    network.load_state_dict(random_state())
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), dtype=np.uint8)
    with torch.inference_mode():
        found = network(torch.from_numpy(images[:1]))[0]
    assert found.shape == (NUM_FEATURES,)
    assert found[:4].tolist() == pytest.approx([0.9952408, 0.0, 0.2628159, 0.6959580], abs=1e-4)
    assert sum(value.numel() for value in network.parameters()) == 23_850_960


def test_resizing_is_tensorflows_of_old():
    """Restated pixel by pixel: a place is its index times the ratio of sizes, and the last row has no neighbour."""
    image = RNG.uniform(0, 255, (4, 7)).astype(np.float32)
    found = resized(torch.from_numpy(image)[None, None])[0, 0].numpy()
    for row, column in ((0, 0), (298, 298), (150, 75), (37, 290), (224, 43)):
        y, x = row * 4 / 299, column * 7 / 299
        top, left = int(y), int(x)
        bottom, right = min(top + 1, 3), min(left + 1, 6)
        upper = image[top, left] * (1 - (x - left)) + image[top, right] * (x - left)
        lower = image[bottom, left] * (1 - (x - left)) + image[bottom, right] * (x - left)
        assert found[row, column] == pytest.approx(upper * (1 - (y - top)) + lower * (y - top), abs=1e-3)
