"""The records passed between stages: frozen, small, content-addressed; together they are the lineage.

A record's ``digest`` is the sha256 of its canonical JSON without ``uri`` (a place is not content), and ``parents``
name the records it was made from. ``stage_key`` is the digest of what was asked for: stage, configuration, parents and
library version; it is known before the work is done, which is how a rerun finds out that there is nothing to do.
"""

from __future__ import annotations

from softalign.artifacts.data import DatasetManifest, EncodedManifest, ReasonCount, SourceWeight, TextMode
from softalign.artifacts.frozen import FileEntry, Frozen, FrozenT, canonical_json, digest_of, read_known, require_format
from softalign.artifacts.model import Adapter, Family, ModelVersion
from softalign.artifacts.paired import PairEvidence, PairStatistics, TagDifference, TaskStatistics
from softalign.artifacts.record import MAX_RECORD_BYTES, SCHEMA_VERSION, Record, Stage
from softalign.artifacts.scores import BASE_ARMS, Arm, ArmReports, ComparisonReport, EvalReport, GuidedBase, TagScore
from softalign.artifacts.stopping import Stopping
from softalign.artifacts.usage import Usage, total_usage

__all__ = [
    "Adapter",
    "Arm",
    "ArmReports",
    "BASE_ARMS",
    "ComparisonReport",
    "DatasetManifest",
    "EncodedManifest",
    "EvalReport",
    "Family",
    "FileEntry",
    "Frozen",
    "FrozenT",
    "GuidedBase",
    "MAX_RECORD_BYTES",
    "ModelVersion",
    "PairEvidence",
    "PairStatistics",
    "ReasonCount",
    "SourceWeight",
    "Record",
    "SCHEMA_VERSION",
    "Stage",
    "Stopping",
    "TagDifference",
    "TagScore",
    "TaskStatistics",
    "TextMode",
    "Usage",
    "canonical_json",
    "digest_of",
    "read_known",
    "require_format",
    "total_usage",
]
