"""The present champion, by number and content, as an evaluation draws it."""

from __future__ import annotations

import logging
from pathlib import Path

from softalign.registry.connection import SQLITE, registry_client
from softalign.registry.ledger import ledger_of
from softalign.registry.versions import BASE_MODEL_TAG, WEIGHTS_TAG, is_registered, pin_of

logger = logging.getLogger(__name__)


def pinned_champion(name: str, base_model: str, tracking_uri: str) -> str:
    """Return a model's champion as ``NAME/VERSION#sha256``; empty where there is none, or it is of another base model.

    Raises:
        StorageUnavailableError: the registry did not answer.
        RegistryError: the registry refused.
    """
    if tracking_uri.startswith(SQLITE) and not Path(tracking_uri.removeprefix(SQLITE)).is_file():
        return ""
    with registry_client(tracking_uri) as client:
        if not is_registered(client, name) or (number := ledger_of(client, name).champion) is None:
            return ""
        tags = client.get_model_version(name, str(number)).tags
    if WEIGHTS_TAG not in tags:
        return ""
    if tags.get(BASE_MODEL_TAG) != base_model:
        found = tags.get(BASE_MODEL_TAG, "unknown")
        logger.warning("Compared without champion %s/%d: it is of another base model, %s", name, number, found)
        return ""
    return pin_of(name, number, tags[WEIGHTS_TAG])
