"""Whether the network may be asked, and whether the models' hub answers: found out once, before any library tries."""

from __future__ import annotations

import os
from urllib.error import HTTPError
from urllib.request import Request, urlopen

OFFLINE_VARIABLE = "SOFTALIGN_OFFLINE"
HUB_TIMEOUT_S = 5.0


def is_offline() -> bool:
    """Return whether ``SOFTALIGN_OFFLINE`` keeps this process from asking the network for adapters and models."""
    return os.environ.get(OFFLINE_VARIABLE, "").strip().lower() not in {"", "0", "false", "no"}


def hub_silence() -> str:
    """Return why the models' hub is of no use here, or an empty text where it answers.

    Its client would try again for most of a minute, for each file, and then name that file.
    """
    from huggingface_hub import constants

    if is_offline():
        return f"{OFFLINE_VARIABLE} is set"
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        with urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=HUB_TIMEOUT_S):  # noqa: S310  # the hub's own
            return ""
    except HTTPError:  # an answer, too
        return ""
    except OSError as error:
        return f"{constants.ENDPOINT} was not reached ({error})"
