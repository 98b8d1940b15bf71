"""Addresses of the local stack, and when its watch starts what has died."""

import importlib
import itertools
import sys

import pytest
from sqlalchemy.engine import make_url

from tests.scripts import INFRA


@pytest.fixture
def infra(monkeypatch):
    monkeypatch.syspath_prepend(str(INFRA))
    yield importlib.import_module
    for name in ("stack_settings", "stack_services", "stack_processes", "stack_watch"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("password", ["plain", "p@ss/w%rd:1", "a b?c#d&e=f+g", "%40"])
def test_a_password_of_any_letters_is_read_back_from_the_database_url(infra, password):
    settings = infra("stack_settings").Settings({"postgres": 5432}, password, "key", "secret")
    url = make_url(settings.database("prefect", "asyncpg"))
    assert (url.password, url.host, url.port, url.database) == (password, "127.0.0.1", 5432, "prefect")


def test_a_service_that_dies_again_and_again_is_started_later_and_later(infra):
    watched = infra("stack_watch").Watched()
    now, starts = 0.0, []
    while len(starts) < 9:
        if watched.is_due(now, is_running=False):
            starts.append(now)
            watched.is_due(now + 0.5, is_running=True)
        now += 1.0
    assert [later - before for before, later in itertools.pairwise(starts)] == [3, 5, 9, 17, 33, 61, 61, 61]


def test_a_service_that_has_lived_for_long_is_started_soon(infra):
    watched = infra("stack_watch").Watched(wait_s=60.0)
    watched.is_due(1000.0, is_running=True)
    watched.is_due(1001.0, is_running=False)
    assert watched.is_due(1002.0, is_running=False)
