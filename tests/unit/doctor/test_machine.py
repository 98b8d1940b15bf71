"""What the doctor says of this machine, each state of it simulated."""

import os
from importlib.metadata import version
from types import SimpleNamespace

import pytest
import torch

from softalign.doctor import machine
from softalign.doctor.finding import Check, examine, findings_text, ok
from softalign.errors import ConfigError
from softalign.store.store import Store


def test_requirements_that_are_met_are_no_fault():
    assert machine.unmet_requirements([f"torch=={version('torch')}", "numpy>=2.0"]) == []
    assert machine.look_at_packages().status == "ok"


def test_a_version_that_is_excluded_is_named_with_what_is_needed():
    (said,) = machine.unmet_requirements(["numpy<1.0"])
    assert said == f"numpy {version('numpy')}, but <1.0 is needed"


def test_an_extra_that_is_not_installed_is_no_fault_but_a_core_package_is():
    assert machine.unmet_requirements(['no-such-package>=1; extra == "stack"']) == []
    assert machine.unmet_requirements(["no-such-package>=1"]) == ["no-such-package is not installed"]


@pytest.mark.parametrize("number", ["2.22.4", "3.10.1", "3.11.0rc1"])
def test_a_version_with_known_holes_fails_with_the_one_to_install(monkeypatch, number):
    monkeypatch.setattr(machine, "_version", lambda package: number if package == "mlflow" else "")
    found = machine.look_at_advisories()
    assert found.status == "failed"
    assert found.found.startswith(f"mlflow {number} has CVE-2026-4137 and CVE-2026-2614")
    assert "'mlflow>=3.11'" in found.fix


@pytest.mark.parametrize("number", ["", "3.11", "3.11.1", "4.0", "a build of ours"])
def test_other_versions_are_well(monkeypatch, number):
    monkeypatch.setattr(machine, "_version", lambda _: number)
    assert machine.look_at_advisories().status == "ok"


def test_what_is_installed_with_our_constraints_has_no_known_holes():
    assert machine.look_at_advisories().status == "ok"


def gpus(monkeypatch, *, names, built_for, driver):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(names))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: names[index])
    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.setattr(machine, "driver_version", lambda: driver)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return machine.look_at_gpu()


@pytest.mark.parametrize(
    ("names", "built_for", "driver", "status", "said"),
    [
        (["A card"], "13.0", "580.1", "ok", "A card"),
        ([], None, "", "skipped", "on the CPU"),
        ([], "13.0", "", "skipped", "none here"),
        ([], None, "580.1", "failed", "built for CPUs"),
        ([], "13.0", "470.1", "failed", "does not serve"),
    ],
)
def test_driver_and_build_are_compared(monkeypatch, names, built_for, driver, status, said):
    found = gpus(monkeypatch, names=names, built_for=built_for, driver=driver)
    assert found.status == status
    assert said in found.found
    assert bool(found.fix) == (status == "failed")


def test_a_hidden_gpu_is_said(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(machine, "driver_version", lambda: "580.1")
    assert "CUDA_VISIBLE_DEVICES" in machine.look_at_gpu().found


def test_the_drivers_version_is_read(monkeypatch, tmp_path):
    path = tmp_path / "version"
    path.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue\nGCC version: 13\n")
    monkeypatch.setattr(machine, "DRIVER_PATH", path)
    assert machine.driver_version() == "580.95.05"


def test_little_memory_and_little_room_are_warned_of(monkeypatch, tmp_path):
    psutil = pytest.importorskip("psutil")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1 << 30, total=4 << 30))
    assert machine.look_at_memory().status == "warning"
    monkeypatch.setattr(machine, "free_bytes", lambda _: 1 << 30)
    found = machine.look_at_room(Store(str(tmp_path)))
    assert found.status == "warning"
    assert "softalign gc" in found.fix


@pytest.mark.skipif(os.name == "nt", reason="needs Unix permissions")
def test_a_cache_that_others_can_read_is_closed(monkeypatch, tmp_path):
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "cache"))
    assert machine.look_at_cache().status == "ok"
    (tmp_path / "cache").mkdir(mode=0o755)
    (tmp_path / "cache").chmod(0o755)
    check = Check("cache", machine.look_at_cache, mend=machine.make_cache_private)
    (looked,) = examine([check], is_mending=False)
    assert (looked.status, looked.is_fixable, looked.is_fixed) == ("warning", True, False)
    (mended,) = examine([check], is_mending=True)
    assert (mended.status, mended.is_fixed) == ("ok", True)
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


def test_an_error_of_ours_is_a_finding_and_the_others_go_on():
    def refuse():
        raise ConfigError("It cannot be.", found="this", where="there", fix="do that")

    findings = examine([Check("one", refuse), Check("two", lambda: ok("two", "fine"))], is_mending=False)
    assert [(one.check, one.status) for one in findings] == [("one", "failed"), ("two", "ok")]
    text = findings_text(findings)
    assert "It cannot be. (this, there)" in text
    assert "to do: do that" in text
    assert text.splitlines()[-1] == "2 checks: 1 failed, 0 warned of"
