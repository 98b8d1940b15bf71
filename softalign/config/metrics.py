"""Scores of an image and its prompt that stand beside a suite's verdicts, each by a model that is named."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from softalign.config.base import StageConfig

MetricName = Literal["clip_score", "pick_score"]


class MetricConfig(StageConfig):
    """A score of every image beside its verdict, outside of the gate: `metrics.json` has means and paired differences.

    Its model is a local folder in transformers' layout or a hub id, with weights as safetensors. Another list of
    metrics draws the arms anew.
    """

    name: MetricName = Field(
        description="clip_score: 2.5 * max(cosine, 0) of a CLIP (Hessel et al. 2021); pick_score: logit scale * cosine "
        "of PickScore's CLIP (Kirstain et al. 2023)"
    )
    model: Annotated[str, Field(min_length=1)] = Field(description="a CLIP: a folder or a hub id")
    revision: str | None = Field(None, description="revision of a hub id; null: the newest")
    tokenizer: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="another folder or hub id with CLIP's tokenizer, where the model has none; null: the model's own",
    )


class DistanceConfig(StageConfig):
    """How far each compared arm's images are from a reference, at every guidance that is drawn; outside of the gate.

    `metrics.json` has the distances, and with `guidance_sweep` the fronts have them as an axis. Another distance draws
    the arms anew.
    """

    reference: Annotated[str, Field(min_length=1)] = Field(
        description="statistics of the reference's images (`.npz`): pytorch-fid's, or what `softalign geneval distance "
        "DIR --save-statistics FILE` writes"
    )
    features: Annotated[str, Field(min_length=1)] = Field(
        description="the weights' file of FID's Inception network, or a vision model's folder or hub id"
    )
