"""What a recipe may say: one file for each section, ``recipe`` for what one section says of another.

A stage's ``digest`` covers every field of its section, so a changed field is a changed request. Fields that only say
how fast something runs live in ``runtime`` and are in no digest. Numbers of the papers: ``families`` and ``presets``.
"""

from __future__ import annotations

from softalign.config.backbone import BackboneConfig
from softalign.config.base import (
    MAX_COUNT,
    MAX_GUIDANCE,
    MAX_NAME_CHARS,
    MAX_SCALE,
    Count,
    Positive,
    Ratio,
    Seed,
    StageConfig,
)
from softalign.config.curation import (
    CocoSource,
    CurationConfig,
    FilterConfig,
    FolderSource,
    HFSource,
    HttpConfig,
    ParquetSource,
    ShapesSource,
    Source,
    TableSource,
    WebDatasetSource,
)
from softalign.config.encoding import EncodeConfig
from softalign.config.evaluation import DetectorConfig, EvalConfig, UnconditionalBank
from softalign.config.loading import load_recipe, recipe_names, yaml_problem
from softalign.config.objective import AGSMConfig, ObjectiveConfig, ScoreMatchingConfig, SoftREPAConfig
from softalign.config.optimizer import ConstantConfig, CosineConfig, CosineRestartsConfig, OptimizerConfig
from softalign.config.recipe import Recipe
from softalign.config.registration import PromotionPolicy, RegisterConfig
from softalign.config.runtime import Runtime
from softalign.config.soft_tokens import LayersEnd, MMDiTTokensConfig, SoftTokensConfig, UNetTokensConfig
from softalign.config.training import NegativesConfig, TrainConfig

__all__ = [
    "AGSMConfig",
    "BackboneConfig",
    "CocoSource",
    "ConstantConfig",
    "CosineConfig",
    "CosineRestartsConfig",
    "Count",
    "CurationConfig",
    "DetectorConfig",
    "EncodeConfig",
    "EvalConfig",
    "FilterConfig",
    "FolderSource",
    "HFSource",
    "HttpConfig",
    "LayersEnd",
    "MAX_COUNT",
    "MAX_GUIDANCE",
    "MAX_NAME_CHARS",
    "MAX_SCALE",
    "MMDiTTokensConfig",
    "NegativesConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "ParquetSource",
    "Positive",
    "PromotionPolicy",
    "Ratio",
    "Recipe",
    "RegisterConfig",
    "Runtime",
    "ScoreMatchingConfig",
    "Seed",
    "ShapesSource",
    "SoftREPAConfig",
    "SoftTokensConfig",
    "Source",
    "StageConfig",
    "TableSource",
    "TrainConfig",
    "UNetTokensConfig",
    "UnconditionalBank",
    "WebDatasetSource",
    "load_recipe",
    "recipe_names",
    "yaml_problem",
]
