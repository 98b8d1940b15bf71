"""The key of each stage: its configuration, its parents' digests, and what its sources and base model are now.

The same key means the same answer.
"""

from __future__ import annotations

from softalign.adapters.locating import resolved
from softalign.artifacts import (
    Adapter,
    Arm,
    ComparisonReport,
    DatasetManifest,
    EncodedManifest,
    EvalReport,
    digest_of,
    stage_key,
)
from softalign.backbones.locating import model_fingerprint
from softalign.config.backbone import BackboneConfig
from softalign.config.recipe import Recipe
from softalign.data.curation.fingerprint import source_fingerprint
from softalign.evaluation.evaluated_tokens import tokens_digest
from softalign.store.store import Store
from softalign.version import __version__

Reports = tuple[EvalReport, EvalReport, EvalReport]
"""Of the arms that are compared: base, untrained tokens, adapter."""


def backbone_key(backbone: BackboneConfig) -> str:
    """Return the digest of a backbone's configuration and of the model's present content."""
    return digest_of([backbone.digest, model_fingerprint(backbone)])


def curate_key(recipe: Recipe) -> str:
    """Return the stage key of ``curate``: configuration and the sources' present content."""
    parents = tuple(source_fingerprint(source) for source in recipe.curation.sources)
    return stage_key("curate", recipe.curation.digest, parents, __version__)


def encode_key(recipe: Recipe, dataset: DatasetManifest) -> str:
    """Return the stage key of ``encode``."""
    config = digest_of([recipe.train.negatives.num_hard, backbone_key(recipe.backbone)])
    return stage_key("encode", config, (dataset.digest,), __version__)


def train_key(recipe: Recipe, encoded: EncodedManifest) -> str:
    """Return the stage key of ``train``."""
    config = digest_of([resolved(recipe.train).digest, backbone_key(recipe.backbone), recipe.name])
    return stage_key("train", config, (encoded.digest,), __version__)


def evaluate_key(recipe: Recipe, arm: Arm, adapter: Adapter | None, store: Store) -> str:
    """Return the stage key of ``evaluate``: adapters share the base's arms, and that of the same step-0 tokens."""
    config = digest_of([recipe.evaluate.of_arm(arm).digest, backbone_key(recipe.backbone), arm])
    digest = tokens_digest(arm, adapter, store)
    return stage_key("evaluate", config, (digest,) if digest else (), __version__)


def compare_key(recipe: Recipe, reports: Reports, guided_base: EvalReport | None) -> str:
    """Return the stage key of ``compare``."""
    arms = reports if guided_base is None else (*reports, guided_base)
    return stage_key("compare", recipe.evaluate.digest, tuple(report.digest for report in arms), __version__)


def register_key(recipe: Recipe, adapter: Adapter, comparison: ComparisonReport, store: Store) -> str:
    """Return the stage key of ``register``; another registry is another request."""
    from softalign.registry import public_uri, tracking_uri

    config = digest_of([recipe.register_.digest, public_uri(tracking_uri(recipe.runtime, store), store)])
    return stage_key("register", config, (adapter.digest, comparison.digest), __version__)
