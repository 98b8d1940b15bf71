"""Checks of this machine: Python, packages, memory, room, and whether PyTorch and the GPU's driver go together."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from softalign.doctor.finding import Check, Finding, failed, ok, skipped, warning
from softalign.store.files import cache_dir
from softalign.store.probing import free_bytes, scratch_folder
from softalign.store.store import Store
from softalign.version import __version__
from softalign.vulnerable import VULNERABLE, found_vulnerable

LOW_MEMORY_BYTES = 3 << 30
"""Below it the default run is short of memory: parent, child and registry take 2.1 GB at their peak (measured)."""
LOW_ROOM_BYTES = 5 << 30
"""Below it a warning: a base model of published size takes 4 to 14 GB of cache."""
DRIVER_PATH = Path("/proc/driver/nvidia/version")


def machine_checks(store: Store) -> tuple[Check, ...]:
    """Return the checks of this machine."""
    return (
        Check("python", look_at_python),
        Check("packages", look_at_packages),
        Check("advisories", look_at_advisories),
        Check("memory", look_at_memory),
        Check("room", lambda: look_at_room(store)),
        Check("gpu", look_at_gpu),
        Check("cache", look_at_cache, mend=make_cache_private),
    )


def look_at_python() -> Finding:
    """Return which Python and which softalign run here."""
    return ok("python", f"softalign {__version__}, Python {platform.python_version()} on {platform.system()}")


def look_at_packages() -> Finding:
    """Compare what is installed with what this library's own metadata ask for, installed extras included."""
    wrong = list(unmet_requirements(requires("softalign") or []))
    if wrong:
        fix = "pip install -c infra/constraints.txt 'softalign[pipeline]' brings versions that are tested together"
        return failed("packages", "; ".join(wrong), fix)
    shown = {name: _version(name) for name in ("torch", "diffusers", "prefect", "mlflow")}
    return ok("packages", ", ".join(f"{name} {number}" for name, number in shown.items() if number))


def unmet_requirements(lines: list[str]) -> list[str]:
    """Return, as sentences, the requirements whose package is installed in a version that they exclude.

    Args:
        lines: as in a package's metadata; a package of an extra that is not installed is no fault.
    """
    found = []
    for requirement in map(Requirement, lines):
        installed = _version(requirement.name)
        is_of_extra = requirement.marker is not None and "extra" in str(requirement.marker)
        if not installed:
            found += [] if is_of_extra else [f"{requirement.name} is not installed"]
        elif not requirement.specifier.contains(installed, prereleases=True):
            found.append(f"{requirement.name} {installed}, but {requirement.specifier} is needed")
    return found


def look_at_advisories() -> Finding:
    """Return whether a package is installed in a version with known holes."""
    found = list(found_vulnerable(_version))
    if not found:
        return ok("advisories", f"none of {', '.join(row.package for row in VULNERABLE)} is a version with known holes")
    said = "; ".join(f"{row.package} {number} has {' and '.join(row.advisories)}: {row.why}" for row, number in found)
    wanted = " ".join(f"'{row.package}>={row.below}'" for row, _ in found)
    return failed("advisories", said, f"pip install -c infra/constraints.txt {wanted}")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def look_at_memory() -> Finding:
    """Return how many cores and how much memory there are."""
    try:
        import psutil
    except ImportError:
        return skipped("memory", "psutil is not installed: pip install 'softalign[pipeline]'")
    memory = psutil.virtual_memory()
    found = f"{os.cpu_count()} cores, {memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GB memory free"
    if memory.available < LOW_MEMORY_BYTES:
        return warning("memory", found, "stop other programs, or take a larger machine")
    return ok("memory", found)


def look_at_room(store: Store) -> Finding:
    """Return how much room there is for work and for what is fetched."""
    folders = dict.fromkeys((scratch_folder(store), cache_dir()))
    rooms = {folder: free_bytes(folder) for folder in folders}
    found = ", ".join(f"{free / 2**30:.1f} GB free for {folder}" for folder, free in rooms.items())
    if min(rooms.values()) < LOW_ROOM_BYTES:
        return warning("room", found, "make room: `softalign gc` and `softalign cache clear` say what can go")
    return ok("room", found)


def look_at_gpu() -> Finding:
    """Return whether there is a GPU, and whether PyTorch's build and the driver go together."""
    import torch

    driver = driver_version()
    built_for = torch.version.cuda
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        return ok("gpu", f"{names}; PyTorch {torch.__version__} for CUDA {built_for}, driver {driver or 'unknown'}")
    if not driver:
        return skipped("gpu", f"none here; PyTorch {torch.__version__} computes on the CPU")
    if built_for is None:
        fix = "install PyTorch's CUDA build (pytorch.org says which index), then softalign with the same constraints"
        return failed("gpu", f"driver {driver} is there, but PyTorch {torch.__version__} is built for CPUs", fix)
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None:
        return warning("gpu", f"driver {driver}; CUDA_VISIBLE_DEVICES={hidden} leaves none", "unset it, or correct it")
    fix = "update the driver, or install a PyTorch for its CUDA version (`nvidia-smi` says which)"
    return failed("gpu", f"driver {driver} does not serve PyTorch {torch.__version__} for CUDA {built_for}", fix)


def driver_version() -> str:
    """Return the version of NVIDIA's driver; empty where none is loaded."""
    try:
        words = DRIVER_PATH.read_text(encoding="utf-8").split()
    except OSError:
        return "unknown" if shutil.which("nvidia-smi") else ""
    return next((word for word in words if word[0].isdigit() and "." in word), "unknown")


def look_at_cache() -> Finding:
    """Return whether others on this machine can read what was fetched."""
    folder = cache_dir()
    if not folder.is_dir():
        return ok("cache", f"{folder}, not there yet")
    others = folder.stat().st_mode & 0o077
    if others and os.name != "nt":
        return warning("cache", f"{folder} can be read by others", f"chmod 700 {folder}", is_fixable=True)
    return ok("cache", f"{folder}, private")


def make_cache_private() -> None:
    """Close the cache to others."""
    cache_dir().chmod(0o700)
