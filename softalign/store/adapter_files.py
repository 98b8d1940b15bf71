"""The names in an adapter's folder, for all that write one, find one or describe one."""

from __future__ import annotations

from typing import Final

WEIGHTS_FILENAME: Final = "soft_tokens.safetensors"
CONFIG_FILENAME: Final = "adapter_config.json"
TRAIN_CONFIG_FILENAME: Final = "train_config.json"
METRICS_FILENAME: Final = "metrics.jsonl"
CARD_FILENAME: Final = "README.md"
INITIAL_FOLDER: Final = "initial"
"""Holds the step-0 tokens, as an adapter of its own."""
PICTURES_FOLDER: Final = "pictures"
"""Holds the card's pictures, of a registered version."""
EVALUATION_HEADING: Final = "## Evaluation"
"""Of the card's scores, which a registered version has."""
