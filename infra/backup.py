"""Backup and restore of the local stack: both databases, the bucket, and the stack's settings.

    python infra/backup.py save FOLDER        with the stack running; FOLDER must not be there yet
    python infra/backup.py restore FOLDER     into a stack whose state is lost (nothing in SOFTALIGN_STACK)

The databases are dumped first and the bucket is copied after: what the store holds is never changed, so everything that
a dump names is in a copy made later. A retrain may run meanwhile; what it publishes later is not in the backup. The
folder holds the stack's passwords and is closed to others.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from local_stack import DATABASES, create_databases, init_postgres
from stack_processes import start, stop, wait
from stack_services import postgres_binary, services
from stack_settings import BUCKET, HOST, SETTINGS_PATH, STATE, USER, Settings, fail, make_settings, read_settings, say

SETTINGS_COPY = "settings.json"
OBJECTS = "bucket"


def main() -> None:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=("save", "restore"))
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    {"save": save, "restore": restore}[arguments.command](arguments.folder.absolute())


def save(folder: Path) -> None:
    """Write a backup of a running stack; a part that fails leaves no folder under the final name."""
    settings = read_settings()
    if folder.exists():
        fail(f"{folder} is there already; name a new folder")
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True, mode=0o700)
    for name in DATABASES:
        _run_postgres("pg_dump", settings, ["-Fc", "-f", str(part / f"{name}.dump"), name])
    filesystem = _bucket(settings)
    for path in filesystem.find(BUCKET):
        target = part / OBJECTS / str(path).removeprefix(f"{BUCKET}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        filesystem.get_file(path, str(target))
    shutil.copyfile(SETTINGS_PATH, part / SETTINGS_COPY)
    part.rename(folder)
    say(f"saved in {folder}: {_size(folder)}")


def restore(folder: Path) -> None:
    """Make the stack's state anew from a backup and leave its storage running; ``make stack`` starts the rest."""
    if not (folder / SETTINGS_COPY).is_file():
        fail(f"{folder} is no backup: it has no {SETTINGS_COPY}")
    if SETTINGS_PATH.exists():
        fail(f"there is a stack in {STATE}; move it away first: a restore replaces nothing")
    STATE.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / SETTINGS_COPY, SETTINGS_PATH)
    SETTINGS_PATH.chmod(0o600)
    settings = make_settings()
    known = services(settings)
    init_postgres(settings)
    for name in ("s3", "postgres"):
        start(known[name])
    for name in ("postgres", "s3"):
        wait(known[name])
    create_databases(settings)
    for name in DATABASES:
        _run_postgres("pg_restore", settings, ["--exit-on-error", "-d", name, str(folder / f"{name}.dump")])
    filesystem = _bucket(settings)
    for path in sorted((folder / OBJECTS).rglob("*")):
        if path.is_file():
            filesystem.put_file(str(path), f"{BUCKET}/{path.relative_to(folder / OBJECTS).as_posix()}")
    stop([known["s3"]])
    stop([known["postgres"]])
    say(f"restored from {folder}: {_size(folder)}; `make stack` starts it")


def _run_postgres(program: str, settings: Settings, arguments: list[str]) -> None:
    command = [postgres_binary(program), "-h", HOST, "-p", str(settings.ports["postgres"]), "-U", USER, *arguments]
    result = subprocess.run(  # noqa: S603
        command, env={**os.environ, "PGPASSWORD": settings.password}, capture_output=True, text=True, check=False
    )
    if result.returncode:
        fail(f"{program} failed: {result.stderr.strip()[-500:]}")


def _bucket(settings: Settings) -> Any:
    import s3fs

    return s3fs.S3FileSystem(
        key=settings.access_key, secret=settings.secret_key, endpoint_url=settings.url("s3"), skip_instance_cache=True
    )


def _size(folder: Path) -> str:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return f"{len(sizes)} files, {sum(sizes) / 1e6:.1f} MB"


if __name__ == "__main__":
    main()
