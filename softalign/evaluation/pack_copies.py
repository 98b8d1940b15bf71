"""Packs of an arm that is not finished, in a remote store: a lost machine costs about one pack of images.

They are copied to ``{store}/checkpoints/KEY`` while images are made, found by whoever goes on, and removed once the arm
is published. A copy that fails costs nothing but itself: the arm is made all the same.
"""

from __future__ import annotations

import logging
import tarfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from softalign.errors import SoftAlignError
from softalign.evaluation.packs import Pack, write_pack
from softalign.store.files import open_filesystem, write_atomically
from softalign.store.reaching import reaching
from softalign.store.store import Store

logger = logging.getLogger(__name__)

FINISH_TIMEOUT_S = 20.0
"""How long a run that is stopped waits for its copy: SIGTERM leaves it 30 s."""


class PackCopies:
    """The copies of one arm's packs; of a local store there are none, its work folder is in the store.

    Args:
        store: where the arm will be published.
        key: its stage key.
        images_root: the images, in the official layout.
        packs: all packs of the suite.
        work: a local folder for packs on their way.
    """

    def __init__(self, store: Store, key: str, images_root: Path, packs: Sequence[Pack], work: Path) -> None:
        self._uri = "" if store.is_local else f"{store.uri}/checkpoints/{key}"
        self.images_root, self.packs, self.work = images_root, packs, work
        self._sent: set[str] = set()
        self._thread = threading.Thread()

    def fetch(self) -> None:
        """Put the images that other machines made where this one makes them; what cannot be read is made anew."""
        if not self._uri:
            return
        filesystem, root = open_filesystem(self._uri)
        with reaching(self._uri):
            filesystem.invalidate_cache()
            there = {path.rpartition("/")[2] for path in filesystem.find(root)}
        for pack in self.packs:
            if pack.name in there and not self._is_whole(pack) and self._extract(pack):
                self._sent.add(pack.name)
        if self._sent:
            logger.info("fetched %d pack(s) of images from %s", len(self._sent), self._uri)

    def _extract(self, pack: Pack) -> bool:
        filesystem, root = open_filesystem(self._uri)
        local = self.work / pack.name
        try:
            with reaching(self._uri):
                filesystem.get_file(f"{root}/{pack.name}", str(local))
            with tarfile.open(local) as archive:
                members = {member.name: member for member in archive if member.isreg()}
                for filename in pack.filenames:
                    file = archive.extractfile(members[filename])
                    if file is not None:
                        write_atomically(self.images_root / filename, file.read())
        except (SoftAlignError, tarfile.TarError, KeyError, EOFError) as error:
            logger.warning("%s of %s cannot be used, its images are made again: %s", pack.name, self._uri, error)
            return False
        finally:
            local.unlink(missing_ok=True)
        return True

    def offer(self) -> None:
        """Copy the next pack that is whole, in the background, unless the last one is still on its way."""
        if not self._uri or self._thread.is_alive():
            return
        for pack in self.packs:
            if pack.name not in self._sent and self._is_whole(pack):
                self._thread = threading.Thread(target=self._send, args=(pack,), daemon=True)
                self._thread.start()
                return

    def _is_whole(self, pack: Pack) -> bool:
        return all((self.images_root / filename).is_file() for filename in pack.filenames)

    def _send(self, pack: Pack) -> None:
        local = self.work / pack.name
        try:
            write_pack(self.images_root, pack, local)
            filesystem, root = open_filesystem(self._uri)
            with reaching(self._uri):
                filesystem.put_file(str(local), f"{root}/{pack.name}")
            self._sent.add(pack.name)
        except (SoftAlignError, OSError) as error:
            logger.warning("%s was not copied to %s: %s", pack.name, self._uri, error)
        finally:
            local.unlink(missing_ok=True)

    def finish(self) -> None:
        """Wait for the copy that is on its way and copy what else is whole, but not for long; a failure ends it."""
        until = time.monotonic() + FINISH_TIMEOUT_S
        num_sent = -1
        while self._uri and time.monotonic() < until:
            if self._thread.ident is not None:
                self._thread.join(max(0.0, until - time.monotonic()))
            if len(self._sent) == num_sent:
                return
            num_sent = len(self._sent)
            self.offer()

    def remove(self) -> None:
        """Remove the copies: the arm is published."""
        if not self._uri:
            return
        if self._thread.ident is not None:
            self._thread.join(FINISH_TIMEOUT_S)
        filesystem, root = open_filesystem(self._uri)
        try:
            with reaching(self._uri):
                filesystem.invalidate_cache()
                if filesystem.exists(root):
                    filesystem.rm(root, recursive=True)
        except SoftAlignError as error:
            logger.warning("copies of finished images were left at %s: %s", self._uri, error)
