"""The command that looks whether runs will work here: ``softalign doctor``."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from softalign.cli.completion import recipe_words
from softalign.cli.options import JsonOption, SetOption, StoreOption, app, emit, open_recipe
from softalign.store.store import DEFAULT_STORE, Store

if TYPE_CHECKING:
    from softalign.config.recipe import Recipe
    from softalign.doctor.finding import Finding

FixOption = Annotated[bool, typer.Option("--fix", help="mend what can be mended safely")]


@app.command()
def doctor(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="[RECIPE]", help="look whether this recipe could run, too", autocompletion=recipe_words),
    ] = None,
    overrides: SetOption = None,
    store: StoreOption = DEFAULT_STORE,
    fix: FixOption = False,
    as_json: JsonOption = False,
) -> None:
    """Look whether runs will work here: machine, GPU, store, registry, clocks, credentials, the orchestrator."""
    from softalign.doctor.finding import findings_text

    loaded, opened = open_recipe(recipe, overrides, store) if recipe else (None, Store(store))
    findings = [*_own_findings(loaded, opened, is_mending=fix), *_server_findings(is_mending=fix)]
    is_well = all(one.status != "failed" for one in findings)
    payload = {"is_well": is_well, "findings": [one.model_dump(mode="json") for one in findings]}
    emit(payload, as_json, findings_text(findings))
    if not is_well:
        raise typer.Exit(1)


def _own_findings(recipe: Recipe | None, store: Store, *, is_mending: bool) -> tuple[Finding, ...]:
    from softalign.config.runtime import Runtime
    from softalign.doctor.finding import Check, examine, ok
    from softalign.doctor.machine import machine_checks
    from softalign.doctor.places import place_checks
    from softalign.stages.readiness import check_ready

    def look_at_recipe() -> Finding:
        if recipe is not None:
            check_ready(recipe, store)
        return ok("recipe", f"{recipe.name if recipe else ''} can run here")

    runtime = recipe.runtime if recipe else Runtime()
    of_recipe = (Check("recipe", look_at_recipe),) if recipe else ()
    return examine((*machine_checks(store), *place_checks(store, runtime), *of_recipe), is_mending=is_mending)


def _server_findings(*, is_mending: bool) -> list[Finding]:
    """Return what the flows' own doctor says of the orchestrator: this library knows none."""
    from softalign.doctor.finding import Finding, failed, skipped

    if find_spec("prefect") is None or find_spec("flows") is None:
        return [skipped("server", "Prefect is not installed: runs are `softalign run --plain`")]
    command = [sys.executable, "-P", "-m", "flows.doctor", *(["--fix"] if is_mending else [])]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if answer.returncode:
        said = (answer.stderr.strip().splitlines() or ["no word"])[-1]
        return [
            failed("server", f"its checks ended: {said}", "report this with the output of `python -m flows.doctor`")
        ]
    return [Finding.model_validate(one) for one in json.loads(answer.stdout)]
