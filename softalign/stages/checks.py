"""What would stop a stage whatever its inputs are: each check raises it, before anything has run."""

from __future__ import annotations

from pathlib import Path

from softalign.adapters.locating import resolved
from softalign.artifacts import DatasetManifest, Record
from softalign.backbones.locating import is_hub_id, model_folder
from softalign.config.backbone import BackboneConfig
from softalign.config.curation import CocoSource, ParquetSource, Source, TableSource
from softalign.config.families import is_embedded
from softalign.config.recipe import Recipe
from softalign.errors import ConfigError, DataError, MissingInputError, SoftAlignError
from softalign.processes.launch import require_work_for_all
from softalign.stages.published import Published
from softalign.stages.sense import mismatches
from softalign.store.files import open_filesystem
from softalign.store.reaching import reaching
from softalign.store.store import Store

HTTP = ("http://", "https://")


def nothing(_recipe: Recipe, _store: Store) -> None:
    """Check nothing: whatever its inputs are, the stage can run."""


def is_kept(_record: Record, _store: Store) -> bool:
    """Of stages whose output is in the store alone."""
    return True


def as_it_is(record: Record, _store: Store) -> Record:
    """Of stages whose records nothing renews."""
    return record


def nothing_of(_given: object, _record: Record) -> None:
    """Do nothing with a record: of stages whose records nothing renews."""


def no_stand_in(_published: Published, _key: str, _store: Store) -> None:
    """Of stages that are published whole or not at all."""


def encoded_with_losses(published: Published, key: str, store: Store) -> Record | None:
    """Return the set that was encoded without damaged shards of the dataset, if one was."""
    from softalign.data.encoding.quarantine import stand_in

    return stand_in(published.find(DatasetManifest), key, store)


def is_in_registry(record: Record, store: Store) -> bool:
    """Return whether the store's own registry still has a registered version."""
    from softalign.registry import is_in_registry

    return is_in_registry(record, store)


def check_sources(recipe: Recipe, _store: Store) -> None:
    """Refuse a recipe with sources that cannot be used (see ``check_source``); all of them are named.

    Raises:
        SoftAlignError: what ``check_source`` raises; of several sources one that names them.
    """
    errors: list[tuple[int, SoftAlignError]] = []
    for index, source in enumerate(recipe.curation.sources):
        try:
            check_source(source, index)
        except (DataError, MissingInputError) as error:
            errors.append((index, error))
    if len(errors) == 1:
        raise errors[0][1]
    if errors:
        found = [f"curation.sources.{index}: {error.what} {error.found} ({error.where})" for index, error in errors]
        fixes = dict.fromkeys(error.fix for _, error in errors if error.fix)
        raise DataError(
            f"{len(errors)} sources cannot be used.",
            found="; ".join(found),
            where="curation.sources",
            fix="; ".join(fixes),
        )


def check_source(source: Source, index: int) -> None:
    """Refuse a source whose table cannot be used or whose images have no place; images are not looked at.

    Raises:
        MissingInputError: there is no table, or no folder of images.
        DataError: the table cannot be used.
        StorageUnavailableError: its place did not answer.
    """
    from softalign.data.curation.sources import check_source as check_content

    check_content(source)
    images_uri = source.images_uri if isinstance(source, CocoSource | ParquetSource | TableSource) else None
    if images_uri is None or images_uri.startswith(HTTP):  # a web server need not list its folders
        return
    filesystem, path = open_filesystem(images_uri)
    with reaching(images_uri):
        is_there = filesystem.isdir(path)
    if not is_there:
        raise MissingInputError(
            "There is no folder of images.",
            expected="the folder that the table's file names are relative to",
            where=images_uri,
            fix=f"correct curation.sources.{index}.images_uri",
        )


def check_model(recipe: Recipe, _store: Store) -> None:
    """Refuse a base model in a local folder that is not there or incomplete; a hub id is not looked up.

    Raises:
        MissingInputError: there is no such folder, or a component is missing.
        DataError: a component's configuration cannot be used.
    """
    from softalign.backbones.sizes import model_sizes

    backbone = recipe.backbone
    for field, model in (("model", backbone.model), ("vae", backbone.vae)):
        if model is not None and not is_embedded(model) and not Path(model).is_dir() and not is_hub_id(model):
            raise MissingInputError(
                "There is no such folder of a base model.",
                expected="a folder in diffusers layout, or a hub id (OWNER/NAME)",
                found=model,
                where=f"backbone.{field}",
                fix=f"correct backbone.{field}",
            )
    model_sizes(backbone)


def check_training(recipe: Recipe, store: Store) -> None:
    """Refuse a base model that cannot be used, an adapter to start from that is not there, and idle processes.

    Raises:
        ConfigError: there are more processes than images in a batch.
        MissingInputError: one of them is not there, or incomplete.
        DataError: a component's configuration cannot be used.
        StorageUnavailableError: the place of the adapter did not answer.
    """
    require_work_for_all(recipe.runtime.num_processes * recipe.runtime.num_nodes, recipe.train.batch_size)
    check_model(recipe, store)
    resolved(recipe.train)


def check_evaluation(recipe: Recipe, store: Store) -> None:
    """Refuse a base model that cannot be used, and a recipe whose images nothing could score.

    A detector that is not there yet is no reason (see ``undetected``).

    Raises:
        MissingInputError: the base model is not there, or incomplete.
        DataError: a component's configuration, or the suite's file, cannot be used.
        ConfigError: the suite makes no sense with the model, or the gate can promote nothing and is waited for.
    """
    from softalign.evaluation.suites import suite_prompts

    check_model(recipe, store)
    for found in mismatches(recipe):
        if found.is_hopeless:
            raise found.to_error()
    _check_rounds(recipe, len(suite_prompts(recipe.evaluate)))


def _check_rounds(recipe: Recipe, num_prompts: int) -> None:
    """Refuse rounds until a decision that no round can bring."""
    evaluate, needed = recipe.evaluate, recipe.register_.policy.min_images
    most = num_prompts * evaluate.images_per_prompt
    if evaluate.is_in_rounds and most < needed:
        raise ConfigError(
            "The gate promotes nothing of so few images, so there is nothing to decide in rounds.",
            expected=f"register.policy.min_images of at most {most:,}, the images of an arm",
            found=f"{needed:,}",
            where="evaluate.stop, register.policy.min_images",
            fix="lower register.policy.min_images, raise evaluate.images_per_prompt, or set evaluate.stop to never",
        )


def undetected(recipe: Recipe) -> MissingInputError | None:
    """Return what ``evaluate`` lacks to score its images, which it draws all the same; None: nothing."""
    from softalign.evaluation.suites import check_detector

    try:
        check_detector(recipe.evaluate)
    except MissingInputError as error:
        return error
    return None


def check_registry(recipe: Recipe, store: Store) -> None:
    """Refuse a recipe that has no registry to register in.

    Raises:
        ConfigError: a remote store holds no registry of its own, and none is named.
    """
    from softalign.registry import tracking_uri

    tracking_uri(recipe.runtime, store)


def uncached_models(backbone: BackboneConfig) -> tuple[str, ...]:
    """Return the hub ids that a backbone names and that this machine's cache of the hub does not hold."""
    from huggingface_hub import try_to_load_from_cache

    named = [] if model_folder(backbone) is not None else [(backbone.model, backbone.revision, "model_index.json")]
    if backbone.vae is not None and not Path(backbone.vae).is_dir():
        named.append((backbone.vae, None, "config.json"))
    return tuple(
        model
        for model, revision, filename in named
        if not isinstance(try_to_load_from_cache(model, filename, revision=revision), str)
    )


def check_machine(recipe: Recipe) -> None:
    """Refuse what this machine lacks for the stages that use the base model; another machine may have it.

    Raises:
        MissingInputError: the base model is not cached here, and the hub is switched off.
        ConfigError: CUDA is asked for and there is none.
    """
    from huggingface_hub import constants

    missing = uncached_models(recipe.backbone)
    if missing and constants.HF_HUB_OFFLINE:
        raise MissingInputError(
            "The base model is not cached here, and HF_HUB_OFFLINE keeps it from being downloaded.",
            found=f"neither a folder nor a cached model: {', '.join(missing)}",
            where="backbone.model",
            fix="unset HF_HUB_OFFLINE, or set backbone.model to a local folder",
        )
    if recipe.runtime.device == "cuda":
        from softalign.backbones.frozen_pipeline import resolve_device

        resolve_device(recipe.runtime)
