"""The pulled versions are listed with what they are known by, and forgotten by name."""

import json
import sys

import pytest

from softalign.cli.app import main
from softalign.errors import ConfigError
from softalign.registry import pull
from softalign.upkeep.pulled import clear_pulled, pulled_rows
from tests.fake_registry import FakeRegistry, serving, write_adapter


@pytest.fixture
def pulled(tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "cache"))
    folders = [write_adapter(tmp_path / str(number), float(number)) for number in (1, 2)]
    with serving(FakeRegistry("served", folders)) as uri:
        pull("served@champion", tracking_uri=uri)
        pull("served/1", tracking_uri=uri)
    return uri.replace("127.0.0.1", "localhost")


def test_versions_are_listed_with_their_names(pulled, monkeypatch, capfd):
    assert {row.references for row in pulled_rows()} == {
        (f"served/1 of {pulled}",),
        (f"served/2 of {pulled}", f"served@champion of {pulled}"),
    }
    monkeypatch.setattr(sys, "argv", ["softalign", "cache", "list", "--json"])
    with pytest.raises(SystemExit):
        main()
    shown = json.loads(capfd.readouterr().out)
    assert len(shown["pulled"]) == 2 and shown["pulled_limit_bytes"] == 10_000_000_000


def test_some_are_forgotten_by_name(pulled):
    assert [row.references for row in clear_pulled(["served/1"])] == [(f"served/1 of {pulled}",)]
    with pytest.raises(ConfigError, match=r"(?s)no such pulled version.*served/7"):
        clear_pulled(["served/7"])
    assert len(clear_pulled(["served"])) == 1 and pulled_rows() == ()


def test_the_command_forgets_by_name(pulled, monkeypatch, capfd):
    for words, code in ((["served/1"], 0), (["served", "--all"], 2)):
        monkeypatch.setattr(sys, "argv", ["softalign", "cache", "clear", *words])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert (stopped.value.code or 0) == code
    assert f"removed: served/1 of {pulled}" in capfd.readouterr().out and len(pulled_rows()) == 1
