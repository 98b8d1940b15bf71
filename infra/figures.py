"""``python infra/figures.py``: the README's picture and diagram, made from a finished run in a store.

The picture shows images of the arms with their verdicts; the diagram the stages with the records of that run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from figure_diagram import diagram_svg
from figure_picture import picture

from softalign.config import Recipe, load_recipe
from softalign.errors import SoftAlignError
from softalign.stages.published import Published
from softalign.stages.run import require
from softalign.stages.table import steps_of
from softalign.store.store import DEFAULT_STORE, Store

FOLDER = Path(__file__).parent / "figures"


def main(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="a recipe's name or the path of a YAML file")],
    store: Annotated[str, typer.Option(help="where its whole chain is published")] = DEFAULT_STORE,
    out: Annotated[Path, typer.Option(help="folder of the two files")] = FOLDER,
) -> None:
    """Write arms.png and stages.svg."""
    try:
        loaded, opened = load_recipe(recipe), Store(store)
        published = finished(loaded, opened)
    except SoftAlignError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from error
    out.mkdir(parents=True, exist_ok=True)
    picture(published, opened).save(out / "arms.png", optimize=True)
    (out / "stages.svg").write_text(diagram_svg(loaded, published, opened), encoding="utf-8")
    typer.echo(f"{out / 'arms.png'}\n{out / 'stages.svg'}")


def finished(recipe: Recipe, store: Store) -> Published:
    """Return the records of a recipe's finished chain.

    Raises:
        MissingInputError: a stage has not run; says how to run it.
    """
    published = Published()
    for step in steps_of(recipe):
        published = published.plus(step.label, require(step, published, store))
    return published


if __name__ == "__main__":
    typer.run(main)
