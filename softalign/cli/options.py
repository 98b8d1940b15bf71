"""What all commands share: the application, their options, and how a result is printed."""

from __future__ import annotations

import json
import math
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softalign.cli.completion import override_words, recipe_words
from softalign.cli.console import make_way
from softalign.config.base import MAX_GUIDANCE, MAX_SCALE
from softalign.credentials import without_secrets
from softalign.errors import ConfigError
from softalign.store.files import require_folder_place
from softalign.store.store import STORE_VARIABLE, Store

if TYPE_CHECKING:
    from softalign.config.recipe import Recipe


HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    name="softalign",
    help="Reward-free text alignment of text-to-image diffusion models, run as an operation.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=HELP_OPTIONS,
)
RecipeArgument = Annotated[
    str,
    typer.Argument(metavar="RECIPE", help="a recipe's name or the path of a YAML file", autocompletion=recipe_words),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.FIELD=VALUE", help="override a field; may be repeated", autocompletion=override_words
    ),
]
StoreOption = Annotated[
    str, typer.Option("--store", envvar=STORE_VARIABLE, help="folder or s3:// URI where everything is published")
]
JsonOption = Annotated[bool, typer.Option("--json", help="print the result as JSON on standard output")]
ThroughOption = Annotated[bool, typer.Option("--through", help="run the earlier stages too where they are missing")]
TrackingOption = Annotated[
    str | None,
    typer.Option("--tracking-uri", envvar="MLFLOW_TRACKING_URI", help="MLflow; default: the store's own database"),
]

OfflineOption = Annotated[
    bool, typer.Option("--offline", envvar="SOFTALIGN_OFFLINE", help="from the cache alone, asking nobody")
]
TimeoutOption = Annotated[
    float | None, typer.Option("--timeout", min=1.0, help="seconds that a server may be silent; default: 30")
]


def within(low: float, high: float) -> dict[str, Any]:
    """Return what makes an option refuse numbers outside of a range, and NaN, which ``min`` and ``max`` let pass.

    Args:
        low: the lowest number.
        high: the highest.
    """

    def checked(value: float | None) -> float | None:
        if value is not None and math.isnan(value):
            raise typer.BadParameter(f"{value} is not a number from {low:g} to {high:g}")
        return value

    return {"min": low, "max": high, "callback": checked}


IN_SCALE, IN_GUIDANCE = within(0.0, MAX_SCALE), within(1.0, MAX_GUIDANCE)
ScaleOption = Annotated[float, typer.Option("--scale", help="strength of the soft tokens; 1 as trained", **IN_SCALE)]
GuidanceOption = Annotated[
    float | None, typer.Option("--guidance-scale", help="default: the papers' for the family", **IN_GUIDANCE)
]


def registry_named(tracking_uri: str | None, store: str) -> str:
    """Return the registry to ask: the one named, or the store's own database."""
    from softalign.registry import registry_of_store

    return tracking_uri or registry_of_store(Store(store))


def emit(result: dict[str, Any], as_json: bool, text: str) -> None:
    """Print a result on standard output: as JSON, or as the text for people."""
    make_way()
    typer.echo(without_secrets(json.dumps(result, indent=2) if as_json else text))


def open_recipe(recipe: str, overrides: list[str] | None, store: str) -> tuple[Recipe, Store]:
    """Return a recipe with its overrides applied, and the store."""
    from softalign.stages.recipe_sources import open_recipe as find_recipe

    opened = Store(store)
    loaded = find_recipe(recipe, overrides or (), opened)
    if opened.is_local:
        require_folder_place(Path(opened.uri))
    return loaded, opened


def require_pipeline(command: str) -> None:
    """Refuse a command that needs the pipeline extra where that is not installed.

    Raises:
        ConfigError: it is not.
    """
    if find_spec("pyarrow") is None or find_spec("mlflow") is None:
        raise ConfigError(f"`softalign {command}` needs the pipeline extra.", fix="pip install 'softalign[pipeline]'")
