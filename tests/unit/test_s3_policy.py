"""Who may do what in the bucket: each role its own prefix, and nothing is removed that is published."""

import re

import pytest

from tests.s3_policy import BUCKET, POLICIES, allows

KEYS = {
    "root": "store",
    "published": "store/train/0a/adapter.json",
    "checkpoint": "store/checkpoints/0a/step-1/state.safetensors",
    "lease": "store/leases/gpu/node/0/00000001.json",
    "probe": "store/.probe-12ab",
    "artifact": "mlflow/1/models/m-1/artifacts/soft_tokens.safetensors",
    "other": "elsewhere/file",
}
"""An object of each kind; filesystems also ask for the store's root as for an object, to learn that it is a folder."""
STORED = {"published", "checkpoint", "lease", "probe"}


def may(role, action):
    return {kind for kind, key in KEYS.items() if allows(role, f"s3:{action}", key)}


@pytest.mark.parametrize(
    ("role", "reads", "writes", "removes"),
    [
        ("worker", {"root", *STORED}, STORED, STORED - {"published"}),
        ("keeper", {"root", *STORED}, STORED, STORED),
        ("consumer", {"root", *STORED}, set(), set()),
        ("mlflow", *[{"artifact"}] * 3),
    ],
)
def test_each_role_has_its_prefix_and_no_more(role, reads, writes, removes):
    assert (may(role, "GetObject"), may(role, "PutObject"), may(role, "DeleteObject")) == (reads, writes, removes)
    assert allows(role, "s3:ListBucket")


@pytest.mark.parametrize("role", POLICIES)
def test_a_policy_is_one_that_can_be_attached_and_names_no_other_bucket(role):
    policy = POLICIES[role]
    assert (set(policy), policy["Version"]) == ({"Version", "Statement"}, "2012-10-17")
    for statement in policy["Statement"]:
        assert set(statement) == {"Sid", "Effect", "Action", "Resource"}
        assert statement["Effect"] == "Allow"
        assert re.fullmatch(r"[A-Za-z0-9]+", statement["Sid"])
        assert not [action for action in statement["Action"] if "*" in action]
        is_of_bucket = {action in {"s3:ListBucket"} for action in statement["Action"]}
        assert is_of_bucket == {resource == BUCKET for resource in statement["Resource"]}
        assert all(f"{resource}/".startswith(f"{BUCKET}/") for resource in statement["Resource"])
