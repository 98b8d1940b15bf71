"""The training data of an encoded dataset, batch by batch: a pure function of (seed, samples_seen).

Shape legend: B images, P prompts, C H W latent, L text tokens, D text width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from softalign.artifacts import EncodedManifest
from softalign.config.training import EditKind, NegativesConfig
from softalign.data.captions.asked_edits import AskedEdits, KnownEdits, by_kind
from softalign.data.captions.candidates import choose_candidates
from softalign.data.captions.matching import distinct_choices
from softalign.data.captions.similarity import are_near_duplicates
from softalign.data.curation.shards import Split
from softalign.data.encoding.order import SampleOrder, generator
from softalign.data.encoding.pool import PoolReader
from softalign.data.encoding.text_sources import TextSource, texts_of
from softalign.errors import CompatibilityError, DataError
from softalign.method.text_states import TextStates
from softalign.store.store import Store

ALL_IN_BATCH = NegativesConfig()
"""Every other caption of the batch, near-duplicates left out."""

_ROWS_PER_BATCH = 4096
"""Rows of the table that are Python values at once, besides those that are kept."""


@dataclass(frozen=True, slots=True, eq=False)
class EncodedBatch:
    """B images and P prompts: one caption for each image, in the images' order, then hard negatives.

    Attributes:
        keys: the samples' keys in the dataset.
        prompts: the chosen captions, and the hard negatives of some of them.
        candidates: for each image the indices of the prompts it is compared with, its own caption first.
        num_edits: hard negatives of each kind; None where none are asked for.
        latents_BCHW: float32, scaled to unit deviation as the denoiser sees them.
        text: the prompts' encodings, float32.
    """

    keys: tuple[str, ...]
    prompts: tuple[str, ...]
    candidates: tuple[tuple[int, ...], ...]
    latents_BCHW: Float[Tensor, "B C H W"]
    text: TextStates
    num_edits: Mapping[EditKind, int] | None = None

    def pinned(self) -> EncodedBatch:
        """Return the batch in page-locked memory, from which a CUDA device copies while the host goes on."""
        return replace(self, latents_BCHW=self.latents_BCHW.pin_memory(), text=self.text.pinned())


@dataclass(frozen=True, slots=True)
class EncodedSample:
    """One image of the split: its captions by digest, and the hard negatives of each by the caption's digest.

    Attributes:
        caption_weights: how often each caption is drawn, relative to the others; empty: all alike.
        weight: how often an epoch draws the image, on average.
    """

    key: str
    image_digest: str
    captions: dict[str, str]
    hard_negatives: dict[str, tuple[str, ...]]
    caption_weights: tuple[float, ...]
    weight: float


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutCaptions:
    """Some captions with their encodings, and the empty caption's (one row)."""

    captions: tuple[str, ...]
    text: TextStates
    empty: TextStates


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutImage:
    """One image of a split with all its captions, in the dataset's order; latents as in ``EncodedBatch``."""

    latents_CHW: Float[Tensor, "C H W"]
    captions: tuple[str, ...]


class EncodedReader:
    """Reads one side of an encoded dataset.

    Each epoch has its own order of the images, each of which comes once, and its own choice of one caption per image;
    batches go on over the ends of epochs, and hold no image twice. The captions of a batch are distinct as far as its
    images' captions allow. Which negatives an image gets is drawn anew for each batch. On the training side sources
    with a weight are drawn more or less often (``order``), and captions with weights likewise; the other side has
    every image once and every caption alike.

    Args:
        manifest: the encoded dataset.
        store: where it lies.
        split: ``train`` or ``val``.
        batch_size: images per batch.
        seed: of order, captions and negatives.
        negatives: which prompts an image is compared with.
        online: the text encoders, for a set that was encoded without texts.

    Raises:
        CompatibilityError: more hard negatives are asked for than were encoded, or a set without texts has no encoders.
        DataError: the split holds fewer images than a batch.
        IntegrityError: a file is not what was published.
    """

    def __init__(
        self,
        manifest: EncodedManifest,
        store: Store,
        *,
        split: Split,
        batch_size: int,
        seed: int,
        negatives: NegativesConfig = ALL_IN_BATCH,
        online: TextSource | None = None,
    ) -> None:
        self._batch_size, self._seed, self._negatives = batch_size, seed, negatives
        self._asked_edits = AskedEdits(negatives)
        self._uri = manifest.uri
        _require_hard_negatives(manifest, negatives.num_hard)
        root = store.fetch(manifest)
        self._samples = _read_samples(root / "samples.parquet", split)
        if len(self._samples) < batch_size:
            raise DataError(
                "The dataset has too few images for one batch.",
                expected=f"at least {batch_size} images on the {split} side",
                found=f"{len(self._samples)}",
                where=manifest.uri,
                fix="curate more images, set another curation.val_share, or a smaller batch size",
            )
        self._latents = PoolReader(root / "latents.json", store)
        self._texts = texts_of(manifest, root, store, online)
        weights, names = [one.weight for one in self._samples], [one.image_digest for one in self._samples]
        self._order = SampleOrder(weights, names, batch_size, seed)

    @property
    def num_samples(self) -> int:
        """Images of this split; without weights an epoch is each of them once."""
        return len(self._samples)

    @property
    def empty_text(self) -> TextStates:
        """The empty caption's states, one row, float32."""
        return self._texts.states([""])

    def first_captions(self, number: int) -> HeldOutCaptions:
        """Return the first caption of the samples with the smallest image digests: a choice by hash."""
        samples = self._first(number)
        chosen = {digest: caption for sample in samples for digest, caption in list(sample.captions.items())[:1]}
        captions = tuple(chosen.values())
        return HeldOutCaptions(captions, self._texts.states(captions), self._texts.states([""]))

    def first_images(self, number: int) -> tuple[HeldOutImage, ...]:
        """Return the images whose captions ``first_captions`` takes; all where there are fewer."""
        samples = self._first(number)
        rows = self._latents.rows([sample.image_digest for sample in samples])
        return tuple(
            HeldOutImage(row.to(torch.float32), tuple(sample.captions.values()))
            for (row,), sample in zip(rows, samples, strict=True)
        )

    def _first(self, number: int) -> list[EncodedSample]:
        return sorted(self._samples, key=lambda sample: sample.image_digest)[:number]

    def batch_at(self, samples_seen: int) -> EncodedBatch:
        """Return the batch that follows ``samples_seen`` samples: the same at every call, in every process.

        Raises:
            DataError: the cursor is not at a batch's start, so it belongs to another batch size.
        """
        if samples_seen < 0 or samples_seen % self._batch_size:
            raise DataError(
                "The cursor does not belong to this reader.",
                expected=f"a multiple of the batch size {self._batch_size}",
                found=str(samples_seen),
                fix="resume with the batch size the run was started with",
            )
        draws = self._order.batch_at(samples_seen)
        samples = [self._samples[draw.place] for draw in draws]
        digests = distinct_choices([self._preference(self._samples[draw.place], draw.pass_number) for draw in draws])
        captions = [sample.captions[digest] for sample, digest in zip(samples, digests, strict=True)]
        edits_of = [self._edits(sample, digest) for sample, digest in zip(samples, digests, strict=True)]
        chosen = choose_candidates(
            captions,
            [tuple(edits) for edits in edits_of],
            self._negatives,
            generator("negatives", self._seed, samples_seen),
        )
        prompts = (*captions, *chosen.hard_negatives)
        latents = self._latents.rows([sample.image_digest for sample in samples])
        return EncodedBatch(
            keys=tuple(sample.key for sample in samples),
            prompts=prompts,
            candidates=chosen.rows,
            latents_BCHW=torch.stack([row for (row,) in latents]).to(torch.float32),
            text=self._texts.states(prompts),
            num_edits=by_kind(edits_of, chosen, prompts) if self._negatives.num_hard else None,
        )

    def warn_of_missing_edits(self) -> None:
        """Warn of the kinds of edits that are asked for and that no caption of the split gives."""
        self._asked_edits.warn_of_missing(
            self._edits(sample, digest) for sample in self._samples for digest in sample.captions
        )

    def _edits(self, sample: EncodedSample, digest: str) -> KnownEdits:
        captions = tuple(sample.captions.values())
        return self._asked_edits.among(sample.hard_negatives[digest], sample.captions[digest], captions)

    def require_negatives(self) -> None:
        """Refuse a split in which no image can have a negative.

        Single batches without are trained on their own captions alone, and are counted in the metrics.

        Raises:
            DataError: all captions are near-duplicates of each other, and no hard negatives are asked for or there.
        """
        asked = (self._edits(sample, digest) for sample in self._samples for digest in sample.captions)
        if self._negatives.num_hard and any(asked):
            return
        captions = (caption for sample in self._samples for caption in sample.captions.values())
        first = next(captions)
        if all(are_near_duplicates(first, other, self._negatives.max_similarity) for other in captions):
            raise DataError(
                "All captions are equal: no image has a negative to be compared with.",
                expected="captions that differ in more than case, punctuation and articles",
                found=f"{len(self._samples)} images with captions like {first!r}",
                where=f"{self._uri}, samples {', '.join(sample.key for sample in self._samples[: self._batch_size])}",
                fix="check the source's caption column; or train with the objective score_matching, which needs none",
            )

    def _preference(self, sample: EncodedSample, pass_number: int) -> list[str]:
        """Return a sample's caption digests, the one chosen for this pass first."""
        digests = list(sample.captions)
        random = generator("caption", self._seed, pass_number, sample.key)
        if sample.caption_weights:  # the first of competing events, at these rates
            order = np.argsort(random.exponential(size=len(digests)) / sample.caption_weights)
        else:
            order = random.permutation(len(digests))
        return [digests[place] for place in order]


def _require_hard_negatives(manifest: EncodedManifest, needed: int) -> None:
    if needed > manifest.hard_negatives_per_caption:
        raise CompatibilityError(
            "The dataset was encoded with too few hard negatives.",
            expected=f"{needed} or more for each caption (train.negatives.num_hard)",
            found=str(manifest.hard_negatives_per_caption),
            where=manifest.uri,
            fix=f"encode it with train.negatives.num_hard={needed}: `softalign encode RECIPE`",
        )


def _read_samples(path: Path, split: Split) -> list[EncodedSample]:
    import pyarrow.parquet as pq

    batches = pq.ParquetFile(path).iter_batches(_ROWS_PER_BATCH)
    rows = (row for batch in batches for row in batch.to_pylist() if row["split"] == split)
    return [
        EncodedSample(
            row["key"],
            row["image_digest"],
            dict(zip(row["caption_digests"], row["captions"], strict=True)),
            {digest: tuple(e) for digest, e in zip(row["caption_digests"], row["hard_negatives"], strict=True)},
            tuple(row.get("caption_weights") or ()) if split == "train" else (),
            row.get("weight", 1.0) if split == "train" else 1.0,
        )
        for row in rows
    ]
