"""What `softalign deploy` refuses, it refuses before it asks the server for anything."""

import sys

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.deploy import main


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--schedule", "nope=1h"], "no schedule"),
        (["--schedule", "retrain=often"], "no schedule"),
        (["--schedule", "retrain=1h", "--timezone", "Moon/Crater"], "no schedule"),
        (["--notify", "pigeon:HOME"], "how to notify"),
        (["--pool-type", "kubernetes"], "need an image"),
        (["--pool-type", "boat"], "no such kind"),
        (["--notify", "slack:NOT_SET"], "address to notify"),
    ],
)
def test_what_cannot_be_deployed_is_said(monkeypatch, capsys, arguments, said):
    monkeypatch.setattr(sys, "argv", ["deploy", *arguments])
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert main() == 2
    written = capsys.readouterr().err
    assert said in written and "Traceback" not in written
