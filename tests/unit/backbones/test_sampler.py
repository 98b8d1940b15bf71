"""The sampler that a record names is the one that draws."""

import pytest
import torch

from softalign.backbones.loading import load_backbone
from softalign.backbones.sampler import sampler_of
from softalign.config import BackboneConfig
from softalign.errors import MissingInputError


@pytest.mark.parametrize(("family", "sampler"), [("sd21", "DDIMScheduler"), ("sd3", "FlowMatchEulerDiscreteScheduler")])
def test_the_sampler_that_is_named_is_the_one_that_draws(family, sampler):
    text = {"has_t5": False, "max_sequence_length": 8} if family == "sd3" else {}
    config = BackboneConfig(family=family, model="shapes", resolution_px=32, **text)
    backbone = load_backbone(config, device=torch.device("cpu"), dtype=torch.float32)
    backbone.use_papers_sampler()
    assert type(backbone.pipeline.scheduler).__name__ == sampler_of(config) == sampler


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(MissingInputError, match="nowhere"):
        sampler_of(BackboneConfig(family="sd3", model=str(tmp_path / "nowhere")))
