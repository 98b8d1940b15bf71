"""Recipes from the package, the store, an address, a git repository, and as a mapping; each fault is one message."""

import shutil
import subprocess

import pytest
import yaml

from softalign.config import load_recipe
from softalign.errors import ConfigError
from softalign.stages.recipe_sources import open_recipe
from softalign.store.store import Store

OWN = {
    "name": "cats",
    "curation": {"name": "cats", "sources": [{"type": "shapes", "num_scenes": 24}]},
    "register": {"name": "softalign-cats"},
}


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


def git(folder, *arguments):
    subprocess.run(
        ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments],
        check=True,
        capture_output=True,
    )


@pytest.fixture
def repository(tmp_path):
    if shutil.which("git") is None:
        pytest.skip("needs git")
    folder = tmp_path / "recipes of a team"
    (folder / "deep").mkdir(parents=True)
    git(folder, "init", "--quiet", "--initial-branch", "main")
    (folder / "deep/cats.yaml").write_text(yaml.safe_dump(OWN))
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "one")
    git(folder, "tag", "v1")
    (folder / "deep/cats.yaml").write_text(yaml.safe_dump({**OWN, "name": "dogs"}))
    git(folder, "commit", "--quiet", "-a", "-m", "two")
    return f"git+file://{str(folder).replace(' ', '%20')}", folder


def test_names_and_overrides_are_as_everywhere(store):
    assert open_recipe("shapes", ["train.num_steps=7"], store) == load_recipe("shapes", ["train.num_steps=7"])


def test_a_mapping_is_a_recipe_and_stays_as_it_was(store):
    given = yaml.safe_load(yaml.safe_dump(OWN))
    found = open_recipe(given, ["train.num_steps=7"], store)
    assert (found.name, found.train.num_steps) == ("cats", 7)
    assert given == OWN


def test_the_stores_own_recipes_have_names(store, tmp_path):
    with pytest.raises(ConfigError, match="no recipe named 'cats'"):
        open_recipe("cats", (), store)
    (tmp_path / "store/recipes").mkdir(parents=True)
    (tmp_path / "store/recipes/cats.yaml").write_text(yaml.safe_dump(OWN))
    assert open_recipe("cats", (), store).name == "cats"


def test_an_address_is_read(store, tmp_path):
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(OWN))
    assert open_recipe(f"file://{tmp_path}/own.yaml", (), store).name == "cats"
    with pytest.raises(ConfigError, match="no such recipe file"):
        open_recipe(f"file://{tmp_path}/none.yaml", (), store)
    (tmp_path / "own.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        open_recipe(f"file://{tmp_path}/own.yaml", (), store)


def test_a_repository_is_read_at_the_commit_that_is_named(store, repository, caplog):
    caplog.set_level("INFO")
    address, folder = repository
    link = folder.parent / "linked"
    link.symlink_to(folder)
    address = f"git+file://{link}"
    assert open_recipe(f"{address}@v1#deep/cats.yaml", (), store).name == "cats"
    assert open_recipe(f"{address}@main#deep/cats.yaml", (), store).name == "dogs"
    commit = subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "main"], check=True, capture_output=True, text=True
    ).stdout.strip()
    assert commit in caplog.text


@pytest.mark.parametrize(
    ("tail", "said"),
    [
        ("@nobranch#deep/cats.yaml", "nobranch"),
        ("@main#deep/none.yaml", "none.yaml"),
        ("@--upload-pack=touch#deep/cats.yaml", "no recipe of a git repository"),
        ("#deep/cats.yaml", "no recipe of a git repository"),
    ],
)
def test_what_a_repository_does_not_have_is_said(store, repository, tail, said):
    link = repository[1].parent / "linked"
    link.symlink_to(repository[1])
    with pytest.raises(ConfigError, match=said):
        open_recipe(f"git+file://{link}{tail}", (), store)


@pytest.mark.parametrize("address", ["git+ext::sh -c id@main#a.yaml", "git+-u@x#y", "git+https://host@main"])
def test_other_protocols_and_options_are_no_addresses(store, address):
    with pytest.raises(ConfigError, match="no recipe of a git repository"):
        open_recipe(address, (), store)


@pytest.mark.parametrize(
    "address", ["https://127.0.0.1:99999/a.yaml", "https://[::1/a.yaml", "https://bob:s3cr/et@h@127.0.0.1:1/a.yaml"]
)
def test_an_address_that_cannot_be_taken_apart_is_said_to_be_none_without_its_password(store, address):
    with pytest.raises(ConfigError, match="This is no address") as caught:
        open_recipe(address, (), store)
    assert "s3cr" not in str(caught.value) and caught.value.__cause__ is None


def test_a_bucket_alone_is_no_file(store, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "anybody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "whatever")
    with pytest.raises(ConfigError, match=r"(?s)no address of a file.*s3://BUCKET/PATH"):
        open_recipe("s3://", (), store)
