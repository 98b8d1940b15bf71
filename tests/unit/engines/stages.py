"""The stages whose parts an engine does, small: for the tests of each engine."""

from contextlib import contextmanager
from pathlib import PurePosixPath

import pytest

from softalign.artifacts import DatasetManifest, EncodedManifest, EvalReport
from softalign.config import BackboneConfig, CurationConfig, EvalConfig, NegativesConfig, Runtime, ShapesSource
from softalign.data.curation.pipeline import curate
from softalign.data.encoding.encode import encode
from softalign.evaluation import arms
from softalign.shapes.suite import build_suite
from softalign.store.files import list_files
from softalign.store.store import Store

SCENES = CurationConfig(
    name="scenes",
    sources=(ShapesSource(type="shapes", num_scenes=90, captions_per_scene=2, seed=1),),
    samples_per_shard=10,
    val_share=0.2,
)
BACKBONE = BackboneConfig(family="sd3", model="shapes", resolution_px=32, has_t5=False, max_sequence_length=8)
EVAL = EvalConfig(suite="shapes", images_per_prompt=2, num_inference_steps=2, guidance_scale=2.0, num_bootstrap=100)
HERE = Runtime(device="cpu", generation_batch_size=3)


def stages(root, runtime):
    """Curate, encode and evaluate what a store lacks; return the digests of the records, and all files.

    What a process that was killed while it wrote has left, hidden, is none of them.
    """
    store = Store(str(root))
    dataset = store.find(DatasetManifest, "d") or curate(SCENES, store, "d", runtime)
    encoded = store.find(EncodedManifest, "e") or encode(
        dataset, BACKBONE, runtime, store, "e", NegativesConfig(num_hard=1)
    )
    arm = store.find(EvalReport, "b") or arms.evaluate("base", None, BACKBONE, EVAL, runtime, store, "b")
    files = tuple(entry for entry in list_files(root) if not PurePosixPath(entry.path).name.startswith("."))
    return [record.digest for record in (dataset, encoded, arm)], files


@contextmanager
def few_prompts():
    """Let the suite be a few prompts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arms, "suite_prompts", lambda _config: tuple(build_suite()[::12]))
        yield
