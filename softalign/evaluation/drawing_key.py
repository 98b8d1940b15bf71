"""What an arm's images lie under while they are made: a digest of what decides their pixels, and of no more.

So another detector or metric, or another number of resamplings, goes on from the images that are there.
"""

from __future__ import annotations

from softalign.artifacts import digest_of
from softalign.backbones.locating import model_fingerprint
from softalign.config.backbone import BackboneConfig
from softalign.config.evaluation import EvalConfig
from softalign.evaluation.suites import suite_prompts
from softalign.geneval.prompts import to_json_line
from softalign.version import __version__

OF_SCORING = ("detector", "distance", "metrics", "num_bootstrap", "confidence")
"""Fields of an evaluation that change no image."""


def comes_with_its_scorer(config: EvalConfig) -> bool:
    """Return whether all that looks at the images is part of the library: such arms are made under their stage keys."""
    return config.is_embedded and not config.metrics and config.distance is None


def drawing_key(tokens_digest: str, backbone: BackboneConfig, config: EvalConfig) -> str:
    """Return the name of the work folder of an arm's images.

    Args:
        tokens_digest: of the arm's tokens; empty without any.
        backbone: the frozen model.
        config: how the arm is evaluated (``EvalConfig.of_arm``).
    """
    asked = {name: value for name, value in config.asked().items() if name not in OF_SCORING}
    prompts = [to_json_line(prompt) for prompt in suite_prompts(config)]
    model = [backbone.model_dump(mode="json"), model_fingerprint(backbone)]
    return digest_of([__version__, tokens_digest, *model, asked, prompts])
