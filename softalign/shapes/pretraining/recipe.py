"""The recipe of the embedded model as data: what is built, on how many samples, with which settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

EmbeddedFamily = Literal["sd21", "sd3"]
"""Which of the two denoisers: the U-Net or its MMDiT twin."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _check_band(band: tuple[float, float]) -> tuple[float, float]:
    low, high = band
    if not 0 <= low < high <= 1:
        raise ValueError(f"0 <= low < high <= 1 is needed (found {[low, high]})")
    return band


class AutoencoderConfig(_Section):
    """AutoencoderKL from 32 px to a 4x4x16 latent and its training."""

    block_out_channels: tuple[PositiveInt, ...] = Field((16, 32, 64, 64), min_length=1)
    num_scenes: int = Field(
        24_000, gt=0, description="rendered scenes to draw batches from; three quarters of them dense"
    )
    num_samples: int = Field(80_000, gt=0, description="training images seen, with repetition")
    batch_size: int = Field(8, gt=0)
    learning_rate: float = Field(1.5e-3, gt=0)
    kl_weight: float = Field(1e-5, ge=0)
    latent_noise: float = Field(0.3, ge=0, description="deviation of the noise on the decoder's input, before scaling")
    code_weight: float = Field(0.1, ge=0, description="weight of the distance to the latent code")


class PoolConfig(_Section):
    """The captioned scenes that text encoder and denoiser learn from."""

    num_scenes: int = Field(90_000, gt=0)
    captions_per_scene: int = Field(4, gt=0)
    share_incomplete: float = Field(0.06, ge=0, le=1)
    share_wrong: float = Field(0.05, ge=0, le=1)
    caption_dropout: float = Field(0.1, ge=0, le=1, description="share of captions replaced by the empty one")


class TextEncoderConfig(_Section):
    """The text encoder, trained to tell the layout of a caption's scene, then frozen as in Stable Diffusion."""

    width: int = Field(128, gt=0)
    num_layers: int = Field(2, gt=0)
    num_samples: int = Field(320_000, gt=0)
    batch_size: int = Field(128, gt=0)
    learning_rate: float = Field(1e-3, gt=0)


class DenoiserConfig(_Section):
    """The U-Net on latents, with the frozen text encoder's states."""

    widths: tuple[PositiveInt, ...] = Field((64, 128), min_length=1)
    num_samples: int = Field(350_000, gt=0)
    batch_size: int = Field(64, gt=0)
    learning_rate: float = Field(1.5e-3, gt=0)
    num_warmup_samples: int = Field(6_000, ge=0)
    decay_share: float = Field(0.4, ge=0, le=1, description="last share of the samples, over which the rate falls to 0")
    focus_share: float = Field(0.6, ge=0, lt=1, description="share of the timesteps drawn from focus_range only")
    focus_range: Annotated[tuple[float, float], AfterValidator(_check_band)] = Field(
        (0.3, 0.8), description="noise band, in shares of the schedule"
    )
    ema_decay: float = Field(0.999, ge=0, lt=1)
    max_gradient_norm: float = Field(1.0, gt=0)
    up_blocks_text_dropout: float = Field(
        0.0, ge=0, le=1, description="share of images whose up blocks read the empty text: the others must tell it"
    )
    first_position_share: float = Field(
        0.0, ge=0, lt=1, description="least share of the cross attention on the text's first position; 0: not asked for"
    )


class TransformerConfig(_Section):
    """The MMDiT twin of the U-Net, on the same latents and captions, with flow matching."""

    num_layers: int = Field(4, gt=0)
    num_heads: int = Field(4, gt=0)
    shift: float = Field(3.0, gt=0, description="uniform times become sigmas by it, in training and in sampling")
    num_null_tokens: tuple[NonNegativeInt, ...] = Field(
        (8,) * 23 + (256,),
        min_length=1,
        description="length of the absent T5's zeros; a step takes one of these at random",
    )
    num_samples: int = Field(160_000, gt=0)
    batch_size: int = Field(64, gt=0)
    learning_rate: float = Field(2e-3, gt=0)
    num_warmup_samples: int = Field(6_000, ge=0)
    decay_share: float = Field(0.5, ge=0, le=1)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    max_gradient_norm: float = Field(1.0, gt=0)


class PretrainConfig(_Section):
    """Everything that decides the weights, apart from device and threads (which move the last bits)."""

    seed: int = Field(0, ge=0, lt=2**32)
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    pool: PoolConfig = PoolConfig()
    foundation: Literal["trained", "shipped"] = Field(
        "trained", description="autoencoder and text encoder: made here first, or those that come with the package"
    )
    start_sha256: str | None = Field(
        None, description="of the denoiser's weights that training goes on from; none: it starts from nothing"
    )
    denoiser_pool: PoolConfig | None = Field(
        None, description="the captioned scenes that the denoisers learn from, where other ones than the text encoder's"
    )
    text_encoder: TextEncoderConfig = TextEncoderConfig()
    denoiser: DenoiserConfig = DenoiserConfig()
    transformer: TransformerConfig = TransformerConfig()
    num_threads: int = Field(1, gt=0)
    device: Literal["cpu", "cuda"] = Field("cpu", description="of the denoisers; the parts before them need no more")
    checkpoint_every_samples: int = Field(12_800, gt=0)
    score_every_samples: int = Field(25_600, gt=0, description="0 images are drawn when score_images_per_tag is 0")
    score_images_per_tag: int = Field(48, ge=0)
    final_images_per_tag: int = Field(200, ge=0, description="images for the scores written beside the weights")

    @property
    def captions(self) -> PoolConfig:
        """The captioned scenes that the denoisers learn from."""
        return self.denoiser_pool or self.pool
