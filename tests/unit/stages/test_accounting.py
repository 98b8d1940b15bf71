"""What a stage cost is kept beside its record, over all attempts, known to those who reuse it, and in no digest."""

import json
from pathlib import Path

import pytest

from softalign.artifacts import DatasetManifest, Usage, total_usage
from softalign.config import Runtime, load_recipe
from softalign.errors import DataError, StorageUnavailableError
from softalign.processes import metering
from softalign.processes.lines import PacedLines
from softalign.processes.metering import ChildUsage, Meter, UsageSender, note_child, note_slot_wait
from softalign.processes.progress import StageProgress, overhearing, report
from softalign.stages import accounting
from softalign.stages.run import StageResult
from softalign.stages.spending import spending_of
from softalign.store.store import Store
from softalign.store.usage import kept_usage, usage_uri
from tests.clock import Clock
from tests.steps import request_of, run_stage

RECIPE = ("curation.sources=[{type: shapes, num_scenes: 8, seed: 1}]",)


def said_by(pid, **fields):
    return ChildUsage(
        **({"num_gpus": 0, "read_bytes": 0, "written_bytes": 0, "peak_memory_bytes": None} | fields), pid=pid
    )


def progress(**fields):
    return StageProgress(**({"stage": "train", "unit": "step", "done": 10, "total": 10, "elapsed_s": 2.0} | fields))


@pytest.mark.parametrize("place", ["local", "remote"])
def test_a_stage_keeps_what_it_cost_and_a_rerun_knows_it(tmp_path, place, monkeypatch):
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "cache"))
    store = Store(str(tmp_path / "store") if place == "local" else f"memory://usage-{tmp_path.name}")
    recipe = load_recipe("shapes", RECIPE)
    first = run_stage(recipe, "curate", store)
    assert first.usage.attempts == 1
    assert first.usage.wall_s > 0 and first.usage.cpu_s > 0 and first.usage.gpu_s == 0
    assert first.usage.written_bytes >= first.record.total_bytes
    assert first.usage.rates["images"] > 0
    again = run_stage(recipe, "curate", store)
    assert again.is_reused and again.usage == first.usage
    assert "usage.json" not in {entry.path for entry in store.files(first.record)}
    assert not list((store.work_path("curate", "usage")).iterdir())


def test_no_digest_covers_it_and_a_store_without_it_is_as_good(tmp_path):
    recipe, store = load_recipe("shapes", RECIPE), Store(str(tmp_path))
    first = run_stage(recipe, "curate", store)
    path = Path(usage_uri(store, first.record))
    for damaged in (b"{", b'{"schema_version": 9}'):
        path.write_bytes(damaged)
        assert kept_usage(store, first.record) is None
    path.unlink()
    again = run_stage(recipe, "curate", store)
    assert again.is_reused and again.record.digest == first.record.digest and again.usage is None


def accounted_work(store, work):
    recipe = load_recipe("shapes", RECIPE)
    request = request_of(recipe, "curate")
    return accounting.accounted(request, store, work, uses_gpu=False, note=lambda _outcome, _attempt: None)


def test_failed_attempts_count_also_where_the_process_was_another(tmp_path):
    store = Store(str(tmp_path))
    record = run_stage(load_recipe("shapes", RECIPE), "curate", Store(str(tmp_path / "other"))).record

    def fail():
        note_child(said_by(1, num_gpus=2, read_bytes=5, peak_memory_bytes=100))
        raise DataError("bad")

    for _ in range(2):
        with pytest.raises(DataError):
            accounted_work(store, fail)
    note_slot_wait(1.5)
    usage = accounted_work(store, lambda: record).usage
    assert (usage.attempts, usage.read_bytes, usage.peak_memory_bytes, usage.slot_wait_s) == (3, 10, 100, 1.5)
    assert accounted_work(store, lambda: record).usage.attempts == 1


def test_a_store_that_does_not_take_it_does_not_fail_the_stage(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise StorageUnavailableError("The store did not answer.")

    monkeypatch.setattr(accounting, "keep_usage", refuse)
    result = run_stage(load_recipe("shapes", RECIPE), "curate", Store(str(tmp_path)))
    assert Store(str(tmp_path)).find(DatasetManifest, result.record.stage_key) == result.record
    assert "What curate cost is not kept: The store did not answer." in caplog.text


def test_gpu_seconds_are_those_of_all_ranks_and_the_last_word_of_each_counts(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(metering.time, "monotonic", clock)
    meter = Meter()
    meter.take(said_by(1, num_gpus=0, read_bytes=1))
    for pid in (1, 2):
        meter.take(said_by(pid, num_gpus=1, read_bytes=10, peak_memory_bytes=pid * 100))
    clock.now += 30.0
    usage = meter.usage(uses_gpu=True)
    assert (usage.wall_s, usage.gpu_s, usage.read_bytes, usage.peak_memory_bytes) == (30.0, 60.0, 20, 200)


def test_who_measures_takes_no_line_from_those_who_show():
    lines, seen = [], []
    with overhearing(seen.append):
        report(progress(), PacedLines(lines.append))
    assert lines == ["step 10/10  in 0:00:02  5.0/s"] and seen == [progress()]


def test_a_child_says_what_it_takes_every_few_seconds():
    clock, sent = Clock(), []
    sender = UsageSender(sent.append, clock)
    for _ in range(4):
        sender(progress())
        clock.now += 3.0
    assert len(sent) == 1


def test_costs_are_by_the_hour_and_apart_for_what_was_there(tmp_path):
    record = run_stage(load_recipe("shapes", RECIPE), "curate", Store(str(tmp_path))).record
    usage = Usage(attempts=1, wall_s=1800.0, gpu_s=3600.0, cpu_s=7200.0, written_bytes=2_500_000)
    results = [
        StageResult("train", record, is_reused=False, seconds=1.0, usage=usage),
        StageResult("encode", record, is_reused=True, seconds=1.0, usage=Usage(attempts=2, cpu_s=360.0)),
        StageResult("curate", record, is_reused=True, seconds=1.0),
    ]
    priced = spending_of(results, Runtime(price_per_gpu_hour=2.0, price_per_cpu_hour=0.05, currency="EUR"))
    assert [stage.cost for stage in priced.stages] == [2.1, 0.005, None]
    assert priced.to_text() == [
        "Used: 7,200.0 s of CPU, 3,600.0 s of GPU, 0.0 MB read from the store, 2.5 MB written; cost 2.10 EUR.",
        "What was already there had used 360.0 s of CPU, no GPU, 0.0 MB read from the store, 0.0 MB written, "
        "1 failed attempt included; cost 0.005 EUR.",
    ]
    free = spending_of(results, Runtime())
    assert free.run_cost is None and "cost" not in free.to_text()[0]
    assert json.loads(free.model_dump_json())["run"]["gpu_s"] == 3600.0


def test_a_sum_has_the_largest_memory_and_no_rates():
    parts = [Usage(peak_memory_bytes=5, rates={"step": 1.0}), Usage(), Usage(peak_memory_bytes=7)]
    assert total_usage(parts) == Usage(peak_memory_bytes=7)
