"""From a listed sample to one with its image: read, decoded once, and stored as the dataset has its images."""

from __future__ import annotations

import hashlib

from softalign.config.curation import CurationConfig
from softalign.data.curation.images import inspect_image
from softalign.data.curation.samples import ListedSample, Sample
from softalign.data.curation.transcoding import transcoding_of


def open_sample(listed: ListedSample, captions: tuple[str, ...], config: CurationConfig) -> Sample:
    """Return a sample with its image.

    Raises:
        ItemError: its file cannot be read or decoded, or is above the limits.
    """
    data = listed.images.read(listed.filename, config.filters.max_file_bytes)
    facts = inspect_image(data, config.filters.max_pixels, transcoding_of(config))
    return Sample(
        source=listed.source,
        filename=listed.filename,
        captions=captions,
        image=facts.stored,
        extension=facts.extension,
        image_digest=hashlib.sha256(facts.stored).hexdigest(),
        perceptual_hash=facts.perceptual_hash,
        width_px=facts.width_px,
        height_px=facts.height_px,
        is_animated=facts.is_animated,
    )
