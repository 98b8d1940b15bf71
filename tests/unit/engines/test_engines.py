"""The engines: the same results in the same order, whoever computes them, and whoever dies meanwhile."""

import os
import signal
import sys
from itertools import count, islice

import pytest

pytest.importorskip("ray", reason="the extra `ray` is not installed")

from softalign.config import Runtime
from softalign.config.engine import RayEngine
from softalign.engines import on_ray
from softalign.engines.opening import open_engine
from softalign.engines.work import InProcess, Work
from softalign.errors import ConfigError, DataError, WorkerDiedError
from tests.unit.engines import works

RAY = Runtime(device="cpu", engine=RayEngine(address="auto", items_per_call=4))


@pytest.fixture(params=["local", "ray"])
def engine(request, cluster):
    if request.param == "local":
        yield InProcess()
        return
    with open_engine(RAY) as opened:
        yield opened


@pytest.mark.parametrize("num_threads", [1, 3])
def test_results_come_in_the_items_order(engine, num_threads):
    assert list(engine.map(Work(works.doubler, num_threads=num_threads), range(23))) == [2 * i for i in range(23)]
    assert list(engine.map(Work(works.doubler), ())) == []


@pytest.mark.parametrize("num_threads", [1, 3])
def test_items_are_taken_some_ahead_and_not_all(engine, num_threads):
    taken = []
    items = (taken.append(i) or i for i in count())
    results = engine.map(Work(works.doubler, num_threads=num_threads), items)
    assert list(islice(results, 3)) == [0, 2, 4]
    assert len(taken) < 50
    results.close()


@pytest.mark.parametrize("num_threads", [1, 3])
def test_an_error_of_ours_arrives_as_it_was_raised_at_its_items_turn(engine, num_threads):
    results = engine.map(Work(works.refuser, ("ours",), num_threads=num_threads), range(9))
    assert list(islice(results, 5)) == [0, 1, 2, 3, 4]
    with pytest.raises(DataError, match="Item 5 cannot be used") as caught:
        next(results)
    error = caught.value
    assert (error.expected, error.found, error.where, error.fix) == ("another", "5", "here", "leave it")


def test_another_error_keeps_its_class(engine):
    with pytest.raises(NotADirectoryError):
        list(engine.map(Work(works.refuser, ("other",)), range(9)))


def test_the_function_is_made_once_a_process(engine, tmp_path):
    results = list(engine.map(Work(works.noter, (str(tmp_path),)), range(30)))
    assert [item for item, _ in results] == list(range(30))
    makers = [path.name.partition("-")[0] for path in tmp_path.iterdir()]
    assert sorted(makers) == sorted({str(process) for _, process in results})


def test_this_process_uses_what_it_has_made():
    work = Work(works.refuser, ("ours",), made=lambda item: -item)
    assert list(InProcess().map(work, range(7))) == [-i for i in range(7)]


def test_a_process_that_is_killed_is_replaced(cluster, tmp_path):
    marker = tmp_path / "killed"
    with open_engine(RAY) as engine:
        assert list(engine.map(Work(works.dier, (str(marker),)), range(8))) == list(range(8))
    assert marker.exists()


def test_a_call_that_kills_every_process_is_an_error_that_a_retry_may_mend(cluster, monkeypatch):
    monkeypatch.setattr(on_ray, "MAX_RESUBMISSIONS", 1)
    with open_engine(RAY) as engine, pytest.raises(WorkerDiedError, match="lost time and again"):
        list(engine.map(Work(works.always_dier), range(2)))


def test_a_gpu_that_no_machine_has_is_refused(cluster):
    runtime = RAY.model_copy(update={"device": "cuda"})
    with pytest.raises(ConfigError, match="no GPU"), open_engine(runtime):
        pytest.fail("was opened")


def test_a_member_of_a_cluster_stays_one(cluster):
    with open_engine(RAY):
        pass
    assert cluster.is_initialized()


def test_without_the_package_the_recipe_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "softalign.engines.on_ray", raising=False)
    with pytest.raises(ConfigError, match="not installed"), open_engine(RAY):
        pytest.fail("was opened")


def test_a_cluster_that_does_not_answer_may_answer_later(cluster, monkeypatch):
    def refuse(**_options):
        raise ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379\nand more")

    monkeypatch.setattr(on_ray.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(on_ray.ray, "init", refuse)
    with pytest.raises(WorkerDiedError, match="does not answer") as caught, open_engine(RAY):
        pytest.fail("was opened")
    assert caught.value.found == "Failed to connect to Ray cluster at 10.0.0.1:6379"
    assert caught.value.is_retriable


def test_a_token_of_the_environment_is_sent_to_a_named_address_too(cluster, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with open_engine(RAY):
        assert os.environ["RAY_AUTH_MODE"] == "token"


def test_what_sigterm_does_is_kept(monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    with on_ray._keeping_sigterm():
        signal.signal(signal.SIGTERM, lambda *_: None)
    assert signal.getsignal(signal.SIGTERM) is before
