"""Leases: one holder at a time, whatever is slow, killed, cut off or asleep, and the fence for who does not know."""

import os
import signal
import threading
import time
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softalign.artifacts import DatasetManifest
from softalign.errors import LeaseLostError, StorageUnavailableError
from softalign.store import leases
from softalign.store.files import create_file
from softalign.store.holder import Holder
from softalign.store.leases import Contender, require_held, waited_for
from softalign.store.store import Store
from tests.clock import Clock
from tests.killing import is_killed

TTL_S = 10.0


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def contend(tmp_path, clock):
    return lambda name="a/b", ttl_s=TTL_S: Contender(str(tmp_path), name, ttl_s, clock)


@pytest.fixture
def far_away(monkeypatch):
    """Make holders look like processes of another machine."""
    monkeypatch.setattr(Holder, "is_dead", False)


def test_one_holds_it_and_the_next_takes_it_when_it_is_released(contend, tmp_path):
    first, waiting = contend().attempt(), contend()
    assert waiting.attempt() is None
    assert waiting.holder.pid == os.getpid()
    first.release()
    second = waiting.attempt()
    assert (first.held.number, second.held.number) == (1, 2)
    require_held(str(tmp_path), second.held)
    with pytest.raises(LeaseLostError, match="number 1"):
        require_held(str(tmp_path), first.held)
    assert [path.name for path in (tmp_path / "leases/a/b").iterdir()] == ["00000002.json"]
    assert contend("a/c").attempt() is not None


def test_a_silent_holder_is_followed_after_its_ttl_and_has_given_up_by_then(contend, clock):
    holder, waiting = contend().attempt(), contend(ttl_s=1.0)
    assert waiting.attempt() is None
    clock.now = TTL_S / 2
    holder.renew()
    clock.now = TTL_S
    assert waiting.attempt() is None
    clock.now = 1.5 * TTL_S
    assert holder.is_lost
    assert waiting.attempt() is None  # it saw the renewal at TTL_S
    clock.now = 2 * TTL_S
    assert waiting.attempt() is not None
    with pytest.raises(LeaseLostError):
        holder.require()


def test_a_holder_that_slept_and_was_followed_neither_renews_nor_releases(contend, clock, tmp_path):
    holder, waiting = contend().attempt(), contend()
    waiting.attempt()
    clock.now = TTL_S
    following = waiting.attempt()
    clock.now = TTL_S / 2  # its own clock stood still while it slept
    assert not holder.is_lost
    holder.renew()
    assert holder.is_lost
    holder.release()
    require_held(str(tmp_path), following.held)
    assert contend().attempt() is None


def test_a_holder_killed_on_this_machine_is_followed_at_once(contend):
    assert is_killed(lambda: (contend().attempt(), os.kill(os.getpid(), signal.SIGKILL)))
    assert contend().attempt().held.number == 2


def test_a_holder_that_is_hidden_or_whose_number_another_process_has_is_told_apart(contend, monkeypatch):
    mine = contend().attempt()._holder
    assert not mine.is_dead
    assert mine.model_copy(update={"process": f"{mine.process}1"}).is_dead
    assert not mine.model_copy(update={"process": "elsewhere/1/2"}).is_dead
    monkeypatch.setattr("softalign.store.holder._process_of", lambda _pid: "")
    assert not mine.is_dead


def test_another_machine_cannot_tell_a_killed_holder_from_a_silent_one(contend, clock, far_away):
    assert is_killed(lambda: (contend().attempt(), os.kill(os.getpid(), signal.SIGKILL)))
    waiting = contend()
    assert waiting.attempt() is None
    clock.now = TTL_S
    assert waiting.attempt() is not None


def test_a_store_that_is_away_costs_the_lease_only_after_its_ttl(contend, clock, monkeypatch):
    holder = contend().attempt()

    def away(*_):
        raise StorageUnavailableError("away")

    with monkeypatch.context() as patch:
        patch.setattr(leases, "overwrite_file", away)
        clock.now = 0.9 * TTL_S
        with pytest.raises(StorageUnavailableError):
            holder.renew()
        assert not holder.is_lost
    holder.renew()
    clock.now = 1.8 * TTL_S
    assert not holder.is_lost
    clock.now = 1.9 * TTL_S
    assert holder.is_lost


def test_a_rewrite_that_arrives_too_late_does_not_give_the_lease_back(contend, clock, monkeypatch):
    holder = contend().attempt()

    def slow(*_):
        clock.now = 1.5 * TTL_S

    monkeypatch.setattr(leases, "overwrite_file", slow)
    clock.now = 0.9 * TTL_S
    holder.renew()
    assert holder.is_lost


def test_a_number_that_was_removed_is_no_way_in(contend, tmp_path, monkeypatch):
    contend().attempt().release()
    late = contend()

    def create_after_others(uri, data):
        monkeypatch.setattr(leases, "create_file", create_file)
        contend().attempt().release()  # number 2, and then 3, which removes it
        assert contend().attempt().held.number == 3
        return create_file(uri, data)

    monkeypatch.setattr(leases, "create_file", create_after_others)
    assert late.attempt() is None
    assert leases._newest(str(tmp_path), "a/b") == 3


def test_what_was_created_by_a_request_whose_answer_was_lost_is_ones_own(contend, monkeypatch):
    def create_unheard(uri, data):
        create_file(uri, data)
        return False

    with monkeypatch.context() as patch:
        patch.setattr(leases, "create_file", create_unheard)
        assert contend().attempt() is not None
    assert contend().attempt() is None


def test_half_a_file_runs_out(contend, clock, tmp_path):
    create_file(f"{tmp_path}/leases/a/b/00000004.json", b"{")
    waiting = contend()
    assert waiting.attempt() is None
    clock.now = TTL_S
    assert waiting.attempt().held.number == 5


def test_a_lease_is_renewed_while_it_is_kept_and_released_after(tmp_path, far_away):
    contender = Contender(str(tmp_path), "kept", ttl_s=0.2)
    with contender.attempt().kept() as lease:
        waiting = Contender(str(tmp_path), "kept", ttl_s=0.2)
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            assert waiting.attempt() is None
            time.sleep(0.02)
        assert not lease.is_lost
    assert waiting.attempt() is not None


def test_a_wait_is_said_and_given_up_when_there_is_no_need(tmp_path, caplog):
    Contender(str(tmp_path), "x").attempt()
    with caplog.at_level("INFO"):
        assert waited_for(Contender(str(tmp_path), "x", ttl_s=0.1), "a slot", lambda: True) is None
    assert f"Waiting for a slot: held by {Holder.here(1.0)}" in caplog.text


class Turns:
    """Runs threads one file operation at a time, in an order that is drawn."""

    def __init__(self, order, clock):
        self.order, self.clock, self.turn = iter(order), clock, threading.Condition()
        self.waiting, self.next, self.num_alive = set(), None, 0

    def wait(self):
        me = threading.get_ident()
        with self.turn:
            self.waiting.add(me)
            self._choose()
            self.turn.wait_for(lambda: self.next == me, timeout=20)
            self.next = None
            self.waiting.discard(me)

    def _choose(self):
        if self.next is None and len(self.waiting) == self.num_alive and self.waiting:
            rank, passed_s = next(self.order, (0, 1))
            self.clock.now += passed_s
            self.next = sorted(self.waiting)[rank % len(self.waiting)]
            self.turn.notify_all()

    def leave(self):
        with self.turn:
            self.num_alive -= 1
            self._choose()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(order=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), min_size=100, max_size=200))
def test_of_any_interleaving_one_believes_to_hold_it(order, tmp_path_factory):
    root, clock = str(tmp_path_factory.mktemp("leases")), Clock()
    turns, believers, taken, errors = Turns(order, clock), {}, [], []

    def work(rank):
        try:
            contender = Contender(root, "x", 6.0, clock)
            for _ in range(8):
                turns.wait()
                if (lease := contender.attempt()) is None:
                    continue
                believers[rank] = lease
                taken.append(lease.held.number)
                assert [one for one, other in believers.items() if not other.is_lost] in ([rank], [])
                for _ in range(3):
                    turns.wait()
                    if rank:
                        lease.renew()
                del believers[rank]
                if rank != 1:  # which goes without a word
                    lease.release()
        except Exception as error:
            errors.append(error)
        finally:
            turns.leave()

    with pytest.MonkeyPatch.context() as patch:
        for name in ("_numbers", "create_file", "overwrite_file", "read_bytes"):
            call = getattr(leases, name)
            patch.setattr(leases, name, lambda *given, call=call: (turns.wait(), call(*given))[1])
        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
        turns.num_alive = len(threads)
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    assert not errors
    assert taken
    assert len(set(taken)) == len(taken)


def test_a_store_publishes_nothing_for_who_was_followed(tmp_path):
    root = f"memory://{uuid.uuid4().hex}"
    lease = Contender(root, "stages/curate/k").attempt()
    store = Store(root, (lease.held,))
    counts = ("num_samples", "num_captions", "num_val_samples", "num_shards", "total_bytes", "num_seen")
    manifest = DatasetManifest(stage_key="k", name="test", **dict.fromkeys(counts, 1))
    lease.release()
    following = Contender(root, "stages/curate/k").attempt()
    (tmp_path / "made").mkdir()
    with pytest.raises(LeaseLostError):
        store.publish(manifest, tmp_path / "made")
    assert store.find(DatasetManifest, "k") is None
    published = Store(root, (following.held,)).publish(manifest, tmp_path / "made")
    assert store.find(DatasetManifest, "k") == published
