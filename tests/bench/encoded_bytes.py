"""What one image with one caption takes in a store, by family: bytes of the files that ``encode`` wrote, divided.

``python -m tests.bench.encoded_bytes [--images N] [--shard N]``: encodes pictures at 512 px with small encoders of
random weights, but of the published models' shapes, so that what is stored has its real size; what is the same for all
texts is so by the encoders' structure. Counted are the shards of both pools with their indexes, and the set's own
files; not the one row of the empty caption that each set has. Exit code 1 if a figure is above its limit.
"""

import argparse
import io
import json
import logging
import sys
import tempfile
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from softalign.backbones.sizes import model_sizes
from softalign.config import BackboneConfig, CocoSource, CurationConfig, FilterConfig, Runtime
from softalign.data.curation.pipeline import curate
from softalign.data.encoding.budget import EncodedBytes
from softalign.data.encoding.encode import encode
from softalign.shapes.tokenizer import build_tokenizer
from softalign.store.store import Store

CLIP_LENGTH, T5_WIDTH = 77, 4096
WORDS = "man woman dog cat street table red small large standing sitting next to with on in the a two of and".split()


@dataclass(frozen=True)
class Case:
    """One row of the table, with what a row may take at most."""

    name: str
    family: str
    limit_bytes: int
    options: dict
    text: str = "stored"


CASES = (
    Case("SD1.5", "sd15", 150_000, {}),
    Case("SDXL", "sdxl", 350_000, {}),
    Case("SD3, T5 512", "sd3", 4_960_000, {"max_sequence_length": 512}),
    Case("SD3, T5 256", "sd3", 2_900_000, {"max_sequence_length": 256}),
    Case("SD3, online", "sd3", 135_000, {"max_sequence_length": 256}, "online"),
)


def clip(kind, width, tokenizer):
    tokens = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    shape = {"hidden_size": width, "projection_dim": width, "intermediate_size": 64, "num_attention_heads": 4}
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), max_position_embeddings=CLIP_LENGTH, num_hidden_layers=2, **shape, **tokens
    )
    return kind(config)


def vae(channels):
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    return AutoencoderKL(
        **blocks, block_out_channels=(8,) * 4, norm_num_groups=4, latent_channels=channels, shift_factor=0.06
    )


def unet(width, **options):
    return UNet2DConditionModel(
        block_out_channels=(8,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=width,
        attention_head_dim=4,
        norm_num_groups=4,
        **options,
    )


def pipeline_of(family):
    torch.manual_seed(0)
    tokenizers = [build_tokenizer() for _ in range(3)]
    for tokenizer in tokenizers:
        tokenizer.model_max_length = CLIP_LENGTH
    if family == "sd15":
        return StableDiffusionPipeline(
            vae=vae(4),
            text_encoder=clip(CLIPTextModel, 768, tokenizers[0]),
            tokenizer=tokenizers[0],
            unet=unet(768),
            scheduler=DDIMScheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pair = {"tokenizer": tokenizers[0], "tokenizer_2": tokenizers[1]}
    pair["text_encoder_2"] = clip(CLIPTextModelWithProjection, 1280, tokenizers[1])
    if family == "sdxl":
        added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
        return StableDiffusionXLPipeline(
            vae=vae(4),
            text_encoder=clip(CLIPTextModel, 768, tokenizers[0]),
            unet=unet(2048, projection_class_embeddings_input_dim=1280 + 6 * 4, **added),
            scheduler=DDIMScheduler(),
            add_watermarker=False,
            **pair,
        )
    t5 = T5Config(vocab_size=len(tokenizers[2]), d_model=T5_WIDTH, d_kv=64, d_ff=64, num_layers=1, num_heads=1)
    transformer = SD3Transformer2DModel(
        in_channels=16, num_layers=1, attention_head_dim=8, num_attention_heads=2, caption_projection_dim=16
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(16),
        text_encoder=clip(CLIPTextModelWithProjection, 768, tokenizers[0]),
        text_encoder_3=T5EncoderModel(t5),
        tokenizer_3=tokenizers[2],
        **pair,
    )


def hand_over(root, number):
    """Write pictures and captions of COCO's lengths, 8 to 15 words, and return their source."""
    images, annotations, rng = [], [], np.random.default_rng(0)
    for index in range(number):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((64, 64)).save(root / f"{index:012d}.jpg")
        images.append({"id": index, "file_name": f"{index:012d}.jpg"})
        caption = " ".join([*rng.choice(WORDS, rng.integers(8, 16)), str(index)])
        annotations.append({"image_id": index, "caption": caption})
    (root / "captions.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return CocoSource(annotations_uri=str(root / "captions.json"), images_uri=str(root))


@dataclass(frozen=True)
class Measured:
    """Bytes of an image with its caption."""

    latents: float
    texts: float
    index: float
    predicted: float

    @property
    def total(self):
        return self.latents + self.texts + self.index


def measure(case, root, dataset, store):
    folder = root / case.family
    if not folder.exists():
        pipeline_of(case.family).save_pretrained(folder)
    backbone = BackboneConfig(family=case.family, model=str(folder), resolution_px=512, **case.options)
    manifest = encode(dataset, backbone, Runtime(), store, case.name.replace(" ", ""), text=case.text)
    number = dataset.num_samples
    sizes = {}
    index = sum(path.stat().st_size for path in Path(manifest.uri).iterdir())
    for name in ("latents", "texts"):
        shards = json.loads((Path(manifest.uri) / f"{name}.json").read_text())
        shards = [shard for shard in shards if name == "latents" or len(shard["digests"]) > 1]
        sizes[name] = sum(shard["file"]["size_bytes"] for shard in shards)
        index += sum(len(json.dumps(shard, separators=(",", ":"))) for shard in shards)  # beside the shard
    num_texts = number if case.text == "stored" else 0
    predicted = EncodedBytes(number, num_texts, model_sizes(backbone)).total
    return Measured(*(size / number for size in (sizes["latents"], sizes["texts"], index, predicted)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=128, help="how many; whole shards")
    parser.add_argument("--shard", type=int, default=128, help="images in each shard; the default recipe has 512")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    print("| family | latents | text | index | **bytes** | at most | predicted |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    is_within = True
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(io.StringIO()):
        root = Path(folder)
        (root / "images").mkdir()
        store = Store(str(root / "store"))
        filters = FilterConfig(max_hash_distance=-1)
        source = hand_over(root / "images", arguments.images)
        config = CurationConfig(name="b", sources=(source,), samples_per_shard=arguments.shard, filters=filters)
        dataset = curate(config, store, "d")
        for case in CASES:
            found = measure(case, root, dataset, store)
            is_within = is_within and found.total <= case.limit_bytes
            figures = (found.latents, found.texts, found.index, found.total, case.limit_bytes, found.predicted)
            print("| " + " | ".join([case.name, *(f"{figure:,.0f}" for figure in figures)]) + " |", flush=True)
    return 0 if is_within else 1


if __name__ == "__main__":
    sys.exit(main())
