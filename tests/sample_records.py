"""Records that look like those of a run, for tests that only pass them on."""

from softalign.artifacts import Adapter, EncodedManifest

ENCODED = EncodedManifest(
    stage_key="k",
    name="d",
    backbone_digest="b",
    vae_digest="v",
    text_encoder_digest="t",
    latent_shape=(4, 4, 4),
    text_shape=(16, 128),
    pooled_width=0,
    hard_negatives_per_caption=0,
    num_samples=1890,
    num_val_samples=95,
    num_latents=1890,
    num_texts=3413,
    total_bytes=14_200_000,
)
ADAPTER = Adapter(
    stage_key="k",
    name="a",
    base_model="m",
    base_model_revision="",
    backbone_digest="b",
    family="sd21",
    objective="agsm",
    num_parameters=1,
    num_steps=1,
    samples_seen=4,
    weights_sha256="w",
    dataset_digest="d",
)
