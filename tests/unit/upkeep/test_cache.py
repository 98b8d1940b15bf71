"""What the cache holds is shown by kind; what cannot be fetched again goes only when asked."""

import pytest

from softalign.errors import ConfigError
from softalign.processes.locking import exclusive
from softalign.store.files import cache_dir
from softalign.store.store import Store
from softalign.upkeep.cache import cache_rows, clear_cache


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path))
    for name in ("train/d/a", "encoded/e", "models/m/1/a", "work/s/train/k/step", "others/file"):
        path = cache_dir() / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"12345")
    return tmp_path


def test_an_empty_cache_has_no_rows(tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "none"))
    assert cache_rows() == ()


def test_what_can_be_fetched_again_goes(cache):
    assert {row.kind: row.size_bytes for row in cache_rows()} == {"train": 5, "encoded": 5, "models": 5, "work": 5}
    assert {row.kind for row in clear_cache(is_all=False)} == {"train", "encoded"}
    assert {row.kind for row in cache_rows()} == {"models", "work"}
    assert {row.kind for row in clear_cache(is_all=True)} == {"models", "work"}
    assert [path.name for path in cache.iterdir()] == ["others"]


def test_the_work_of_a_living_run_stays(cache, caplog):
    held, request = cache / "work/s/train/k", cache / "work/s/train/requests/k.json"
    request.parent.mkdir()
    request.write_bytes(b"{}")
    (cache / "work/s/encode/left").mkdir(parents=True)
    with exclusive(held):
        clear_cache(is_all=True)
        assert (held / "step").is_file()
        assert request.is_file()
        assert not (cache / "work/s/encode").exists()
    assert str(held) in caplog.text
    clear_cache(is_all=True)
    assert not (cache / "work").exists()


def test_ages_are_read_and_others_refused():
    from softalign.cli.upkeep import _seconds

    assert [_seconds(text) for text in ("90s", "2h", "1.5d", "2w")] == [90.0, 7200.0, 129600.0, 1209600.0]
    for text in ("", "7", "d", "-1d", "7 days"):
        with pytest.raises(ConfigError, match="no age"):
            _seconds(text)


def test_open_folders_of_this_user_are_closed(tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "cache"))
    for folder, uri in (
        (tmp_path / "cache", "memory://closed"),
        (tmp_path / "store" / ".work", str(tmp_path / "store")),
    ):
        folder.mkdir(parents=True)
        folder.chmod(0o755)
        Store(uri).work_path("train", "k")
        assert folder.stat().st_mode & 0o777 == 0o700
