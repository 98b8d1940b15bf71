"""What this version writes, to be read by every later one: ``python -m tests.artifacts.write FOLDER``.

``written.json`` says which library and which format versions wrote it, and the sha256 of every file. A stored folder is
never written again: a new format version gets a folder of its own beside the old ones.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from softalign import artifacts
from softalign.adapters import files as adapter_files
from softalign.adapters.base_fingerprint import fingerprint_of
from softalign.adapters.files import AdapterConfig, MMDiTPlacement, UNetPlacement, save_adapter
from softalign.artifacts import digest_of
from softalign.config import (
    BackboneConfig,
    CurationConfig,
    EvalConfig,
    NegativesConfig,
    RegisterConfig,
    Runtime,
    ShapesSource,
    TrainConfig,
    UNetTokensConfig,
)
from softalign.data.curation.pipeline import curate
from softalign.data.encoding.encode import encode
from softalign.errors import PreemptedError
from softalign.evaluation.compare import compare
from softalign.registry import register
from softalign.registry.connection import ARTIFACTS_NAME, registry_client, registry_of_store
from softalign.shapes.suite import build_suite
from softalign.store.files import list_files
from softalign.store.store import Store
from softalign.training import checkpoints
from softalign.training.train import train
from softalign.version import __version__
from tests.recorded_arms import publish_arm
from tests.tiny_families import FAMILIES
from tests.tiny_pipeline import save_tiny_pipeline
from tests.unit.training.tiny_training import steps_counted

NAME = "stored"
BACKBONE = BackboneConfig(family="sd15", model="model", resolution_px=32)
TRAINING = TrainConfig(
    soft_tokens=UNetTokensConfig(num_soft_tokens=2, num_timestep_bins=10),
    num_steps=6,
    batch_size=3,
    validate_every_steps=3,
)
RUNTIME = Runtime(num_threads=1, checkpoint_every_steps=2)
STOPPED_AFTER = 4
EVALUATION = EvalConfig(
    suite="shapes", images_per_prompt=1, num_inference_steps=2, guidance_scale=1.0, num_bootstrap=100
)


def write(folder):
    """Write everything to a new folder, from within it: what is stored names no place of this machine."""
    folder.mkdir(parents=True)
    with contextlib.chdir(folder):
        torch.set_num_threads(1)
        _write_model(Path("model"))
        for number, (family, tiny) in enumerate(FAMILIES.items()):
            _write_adapter(Path("adapters") / family, family, tiny, seed=number)
        store = Store("store")
        dataset = curate(
            CurationConfig(name=NAME, sources=(ShapesSource(num_scenes=14),), val_share=0.25), store, "dataset"
        )
        encoded = encode(dataset, BACKBONE, RUNTIME, store, "encoded", NegativesConfig(num_hard=1))
        adapter = train(encoded, BACKBONE, TRAINING, RUNTIME, store, "trained", NAME)
        _write_stopped_run(Path("run"), encoded, store)
        reports, comparison = _evaluate(adapter, store)
        _write_version(Path("registry"), adapter, comparison, reports, store)
        for leftover in (".work", ".locks"):
            shutil.rmtree(Path("store") / leftover, ignore_errors=True)
        Path("written.json").write_text(json.dumps(_description(), indent=1) + "\n")


def _write_model(folder):
    """Store the base model in half precision: half the bytes, and the same numbers whenever it is loaded."""
    save_tiny_pipeline(folder)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.half()
    shutil.rmtree(folder)
    pipeline.save_pretrained(folder)


def _write_adapter(folder, family, tiny, seed):
    placement = (
        MMDiTPlacement(num_layers=tiny.layers[0], position="append")
        if tiny.layers
        else UNetPlacement(blocks=("down", "mid"), position="after_bos")
    )
    tokens, average = (tiny.tokens(2, seed=place, dtype=torch.float32) for place in (seed, seed + 100))
    tokens, average = (_with_few_bins(one) for one in (tokens, average))
    config = AdapterConfig(
        base_model=f"tiny {family}",
        base_model_revision="",
        family=family,
        placement=placement,
        num_soft_tokens=tokens.num_soft_tokens,
        num_banks=2,
        width=tokens.width,
        timestep_bins=tokens.num_timestep_bins,
        has_ema=True,
        objective="agsm",
        num_steps=1,
        samples_seen=4,
        dataset_digest=digest_of(NAME),
        library_version=__version__,
        weights_sha256="",
        base_fingerprint=fingerprint_of(tiny.make_module(dtype=torch.float32)),
    )
    save_adapter(folder, config, tokens, average)


def _with_few_bins(tokens, num_bins=5):
    return type(tokens)(tokens.banks.detach(), tokens.timestep_offsets.detach()[:num_bins])


def _write_stopped_run(folder, encoded, store):
    """Train as before, but be told to stop after some steps; keep the newest checkpoint and the rows up to it."""
    with (
        steps_counted(after=lambda step: step == STOPPED_AFTER and os.kill(os.getpid(), signal.SIGTERM)),
        contextlib.suppress(PreemptedError),
    ):
        train(encoded, BACKBONE, TRAINING, RUNTIME, store, "stopped", NAME)
    work = store.work_path("train", "stopped")
    newest = checkpoints.list_checkpoints(work / "checkpoints")[-1]
    shutil.copytree(newest, folder / "checkpoints" / newest.name)
    shutil.copyfile(work / "metrics.jsonl", folder / "metrics.jsonl")
    shutil.rmtree(work)


def _evaluate(adapter, store):
    by_tag = {prompt.tag: prompt for prompt in build_suite()}
    arms = {"base": None, "untrained": adapter, "adapter": adapter}
    reports = tuple(publish_arm(arm, of, tuple(by_tag.values()), EVALUATION, store) for arm, of in arms.items())
    return reports, compare(*reports, None, adapter, EVALUATION, store, "comparison")


def _write_version(folder, adapter, comparison, reports, store):
    """Keep of the registry what a version is: its files, tags and alias. MLflow's own database is not our format."""
    version = register(adapter, comparison, reports, RegisterConfig(name=NAME), RUNTIME, store, "registered")
    with registry_client(registry_of_store(store)) as client:
        registered = client.get_model_version(NAME, str(version.version))
        source = Path(registered.source.removeprefix(Path.cwd().as_uri() + "/"))
        shutil.copytree(source, folder / "model")
        described = {"name": NAME, "alias": version.alias, "tags": registered.tags}
        described["model_tags"] = client.get_registered_model(NAME).tags
    (folder / "version.json").write_text(json.dumps(described, indent=1) + "\n")
    shutil.rmtree(Path("store") / ARTIFACTS_NAME)
    for path in Path("store").glob("mlflow.db*"):
        path.unlink()


def _description():
    formats = {
        "record": artifacts.SCHEMA_VERSION,
        "adapter_config": adapter_files.SCHEMA_VERSION,
        "checkpoint": checkpoints.SCHEMA_VERSION,
    }
    files = {entry.path: entry.sha256 for entry in list_files(Path())}
    return {"library_version": __version__, "formats": formats, "files": files}


if __name__ == "__main__":
    write(Path(sys.argv[1]))
