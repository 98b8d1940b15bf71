"""The model registry: register, promote, roll back, look up, pull. The one package that imports mlflow.

It does so inside functions: importing this package costs nothing. Without a server the registry is a SQLite database in
the store. A version's files are named with their sha256 in a tag of the version, so that whoever pulls can tell what
arrived from what was registered.
"""

from __future__ import annotations

from softalign.registry.connection import (
    consumer_uri,
    public_uri,
    reachable_uri,
    registry_of_store,
    tracking_uri,
)
from softalign.registry.current import pinned_champion
from softalign.registry.events import PromotionEvent
from softalign.registry.links import VersionLinks, report_url, run_url, version_links
from softalign.registry.live import live_run
from softalign.registry.presence import is_in_registry
from softalign.registry.promotion import history, promote, rollback
from softalign.registry.publishing import register, registered_decision
from softalign.registry.pulling import PulledVersion, pull, pull_version
from softalign.registry.reachability import RegistryAnswer, ask_registry, registry_folder
from softalign.registry.refresh_runs import RefreshFacts, log_refresh
from softalign.registry.study_runs import CellFacts, StudyFacts, log_study
from softalign.registry.verdicts import RegisteredScores, Verdict, registered_scores
from softalign.registry.versions import Reference, parse_reference

__all__ = [
    "CellFacts",
    "PromotionEvent",
    "PulledVersion",
    "Reference",
    "RefreshFacts",
    "RegisteredScores",
    "StudyFacts",
    "RegistryAnswer",
    "Verdict",
    "VersionLinks",
    "ask_registry",
    "consumer_uri",
    "history",
    "is_in_registry",
    "live_run",
    "log_refresh",
    "log_study",
    "parse_reference",
    "pinned_champion",
    "promote",
    "public_uri",
    "pull",
    "pull_version",
    "reachable_uri",
    "register",
    "registered_decision",
    "registered_scores",
    "registry_folder",
    "registry_of_store",
    "report_url",
    "rollback",
    "run_url",
    "tracking_uri",
    "version_links",
]
