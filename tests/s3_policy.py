"""The policies of ``infra/s3-policy.json``, asked as S3 asks them, and the calls that a filesystem makes."""

import json
from fnmatch import fnmatchcase
from pathlib import Path

POLICIES = json.loads((Path(__file__).parents[1] / "infra/s3-policy.json").read_text())
BUCKET = "arn:aws:s3:::softalign"
ACTIONS = {
    "head_bucket": "s3:ListBucket",
    "list_objects_v2": "s3:ListBucket",
    "head_object": "s3:GetObject",
    "get_object": "s3:GetObject",
    "put_object": "s3:PutObject",
    "create_multipart_upload": "s3:PutObject",
    "upload_part": "s3:PutObject",
    "complete_multipart_upload": "s3:PutObject",
    "abort_multipart_upload": "s3:AbortMultipartUpload",
    "delete_object": "s3:DeleteObject",
    "delete_objects": "s3:DeleteObject",
    "copy_object": "s3:PutObject",
}
"""What each call of the S3 interface needs, by Amazon's table of actions for S3."""


def allows(role, action, key=""):
    """Return whether a role may do something with an object of the bucket, or without a key with the bucket."""
    resource = f"{BUCKET}/{key}" if key else BUCKET
    return any(
        action in statement["Action"] and any(fnmatchcase(resource, pattern) for pattern in statement["Resource"])
        for statement in POLICIES[role]["Statement"]
    )


def needs_of(method, arguments):
    """Return the pairs of action and key that a call needs; the key is empty where the bucket is asked."""
    action = ACTIONS[method]
    if action == "s3:ListBucket":
        return [(action, "")]
    keys = [entry["Key"] for entry in arguments.get("Delete", {}).get("Objects", ())] or [arguments["Key"]]
    source = [("s3:GetObject", str(arguments["CopySource"]["Key"]))] if method == "copy_object" else []
    return [*source, *((action, key) for key in keys)]
