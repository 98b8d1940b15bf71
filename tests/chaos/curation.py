"""Curation, encoding, a refresh and training of the COCO sample, killed or cut off from their store.

    python -m tests.chaos.curation --rounds 10 --seed 1
    python -m tests.chaos.curation --rounds 5 --seed 1 --s3      # the store on an S3 server that is stopped and started

A round does every stage in a process of its own. Local: each is killed (SIGKILL) at random moments of its usual time
and done again. S3: the server is. Meanwhile a reader looks for records, and verifies every one that it sees.
Exit code 0: all rounds ended with the undisturbed digests, and the reader saw nothing that was not whole.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.chaos.coco_chain import COCO, STAGES, Chain, change_captions, watch
from tests.chaos.s3_server import BUCKET, S3Server
from tests.tiny_pipeline import save_tiny_pipeline

KILLS = 2
"""Of each stage in a round."""
MAX_TRIES = 30
"""Of a stage in a round."""
CUT_OFF = 3
"""A child's exit code where the store did not answer."""


def forked(work: Callable[[], object], log: Path) -> int:
    """Start some work in a forked child that writes to a file, and return its process."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        from softalign.errors import StorageUnavailableError

        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        try:
            work()
            code = 0
        except StorageUnavailableError as error:
            print(error, flush=True)
            code = CUT_OFF
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", flush=True)
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """Wait for a child and return its exit code; of a killed one the signal, negative."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@dataclass
class Tally:
    """What came and what was found in all rounds."""

    kills: Counter[str]
    cuts: Counter[str]
    tries: Counter[str]
    looks: int = 0
    verified: int = 0
    wrong: int = 0


class Rounds:
    """Rounds of the chain beside the undisturbed one.

    Args:
        folder: a scratch folder, with the model and the changes.
        chance: of the moments.
    """

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self._folder, self._chance = folder, chance
        self.tally = Tally(Counter(), Counter(), Counter())
        self.expected, self._seconds = dict[str, str](), dict[str, float]()

    def undisturbed(self) -> None:
        """Do every stage once in a process of its own, and note digests and times."""
        chain, place = self._place("undisturbed")
        for stage in STAGES:
            begin = time.monotonic()
            if ended(self._start(chain, place, stage)):
                raise RuntimeError(f"{stage} failed undisturbed: {(place / 'log').read_text()[-2000:]}")
            self._seconds[stage] = time.monotonic() - begin
            self.expected[stage] = (place / stage).read_text()

    def local(self, number: int) -> bool:
        """Do a round in a folder whose stages are killed; return whether it came to the same."""
        chain, place = self._place(f"round-{number}")

        def disturb(stage: str, child: int, num_tries: int) -> None:
            if num_tries < KILLS and is_running_after(child, self._moment(stage)):
                os.kill(child, signal.SIGKILL)
                self.tally.kills[stage] += 1

        return self._round(chain, place, disturb)

    def on_s3(self, number: int) -> bool:
        """Do a round on an S3 server that goes away and comes again; return whether it came to the same."""
        place = self._folder / f"s3-{number}"
        server = S3Server(place / "s3")
        os.environ.update(server.variables)
        server.start()
        try:
            chain, place = self._place(f"s3-{number}", f"s3://{BUCKET}/store")

            def disturb(stage: str, child: int, num_tries: int) -> None:
                if num_tries < KILLS and is_running_after(child, self._moment(stage)):
                    server.stop(self._chance.choice([signal.SIGKILL, signal.SIGTERM]))
                    time.sleep(self._chance.uniform(0.0, 8.0))
                    server.start()
                    self.tally.cuts[stage] += 1

            return self._round(chain, place, disturb)
        finally:
            server.stop()

    def _moment(self, stage: str) -> float:
        return self._chance.uniform(0.0, self._seconds[stage])

    def _place(self, name: str, store_uri: str = "") -> tuple[Chain, Path]:
        place = self._folder / name
        place.mkdir(exist_ok=True)
        return Chain(self._folder, store_uri or str(place / "store")), place

    def _start(self, chain: Chain, place: Path, stage: str) -> int:
        def work() -> None:
            os.environ["SOFTALIGN_CACHE"] = str(place / "cache")
            (place / stage).write_text(chain.run(stage))

        return forked(work, place / "log")

    def _round(self, chain: Chain, place: Path, disturb: Callable[[str, int, int], None]) -> bool:
        with self._watched(chain, place):
            for stage in STAGES:
                for num_tries in range(MAX_TRIES):
                    child = self._start(chain, place, stage)
                    self.tally.tries[stage] += 1
                    disturb(stage, child, num_tries)
                    if not (code := ended(child)):
                        break
                    if code not in {-signal.SIGKILL, CUT_OFF}:
                        self.tally.wrong += 1
                        say(f"{place.name}: {stage} ended with {code}: {(place / 'log').read_text()[-1500:]}")
                else:
                    return False
        found = {stage: (place / stage).read_text() for stage in STAGES}
        for stage in STAGES:
            if found[stage] != self.expected[stage]:
                say(f"{place.name}: {stage} came to {found[stage]}, undisturbed to {self.expected[stage]}")
        is_whole = self._reader_saw_whole_things(place)
        shutil.rmtree(place)
        return is_whole and found == self.expected

    @contextmanager
    def _watched(self, chain: Chain, place: Path):
        def work() -> None:
            os.environ["SOFTALIGN_CACHE"] = str(place / "reader-cache")
            watch(chain.store_uri, place / "done", place / "seen.json")

        reader = forked(work, place / "reader-log")
        try:
            yield
        finally:
            (place / "done").touch()
            ended(reader)

    def _reader_saw_whole_things(self, place: Path) -> bool:
        seen = json.loads((place / "seen.json").read_text())
        records = {"curate first": "curate", "curate second": "refresh", "encode first": "encode"}
        records |= {"encode second": "encode again", "train second": "train"}
        self.tally.looks += seen["looks"]
        self.tally.verified += sum(sum(times.values()) for times in seen["seen"].values())
        others = [name for name, times in seen["seen"].items() if set(times) != {self.expected[records[name]]}]
        absent = records.keys() - seen["seen"].keys()
        for text in [*seen["broken"], *others, *absent]:
            say(f"{place.name}: the reader: {text}")
        return not seen["broken"] and not others and not absent


def is_running_after(child: int, seconds: float) -> bool:
    """Wait so long, or until a child has ended, which is left to be waited for; return whether it still runs."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return False
        time.sleep(0.005)
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def say(text: str) -> None:
    """Show a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    """Do the rounds and say what came of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--s3", action="store_true", help="on an S3 server that is stopped and started")
    asked = parser.parse_args()
    if not COCO.is_dir():
        say(f"needs the COCO sample in {COCO}")
        return 1

    torch.set_num_threads(1)  # others do not outlive a fork
    begin, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="softalign-chaos-"))
    try:
        save_tiny_pipeline(folder / "model")
        change_captions(folder / "changes.jsonl")
        rounds = Rounds(folder, random.Random(asked.seed))
        rounds.undisturbed()
        say(f"undisturbed: { ({stage: f'{digest[:12]}' for stage, digest in rounds.expected.items()}) }")
        one = rounds.on_s3 if asked.s3 else rounds.local
        is_same = []
        for number in range(asked.rounds):
            is_same.append(one(number))
            say(f"round {number}: {'the same' if is_same[-1] else 'NOT the same'}; {time.monotonic() - begin:.0f} s")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    tally = rounds.tally
    say(f"{sum(is_same)} of {len(is_same)} rounds came to the undisturbed digests; unexpected ends: {tally.wrong}")
    say(f"killed {dict(tally.kills)}; server stopped {dict(tally.cuts)}; tries {dict(tally.tries)}")
    say(f"the reader looked {tally.looks} times and verified {tally.verified} records")
    return 0 if all(is_same) and not tally.wrong else 1


if __name__ == "__main__":
    sys.exit(main())
