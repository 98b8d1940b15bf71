"""``python -m flows.deploy``, which is ``softalign deploy``: pools, deployments, schedules, triggers, notifications.

Doing it again renews what differs and leaves the rest; nothing that it did not make is removed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Cron, Interval, Schedule
from prefect.types.entrypoint import EntrypointType

from flows.command import exit_code_of
from flows.console import has_server
from flows.deployments import DEPLOYMENTS, Deployed
from flows.server.automations import automations, install_one
from flows.server.pools import PoolType, ensure_pools
from flows.server.triggers import Notification, failing, following, notification_of
from softalign.cli.options import HELP_OPTIONS, JsonOption, StoreOption, emit
from softalign.errors import ConfigError
from softalign.store.store import DEFAULT_STORE

CATCH_UP = "runs that are late, because no worker was there, start one after another; each finds what is done already"
UNITS_S = {"m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for.

    Raises:
        ConfigError: containers lack an image.
    """

    recipe: str
    store: str
    pool_type: PoolType
    image: str | None
    schedules: dict[str, Schedule]
    notifications: tuple[Notification, ...]
    has_triggers: bool

    def __post_init__(self) -> None:
        """Refuse what no server has to be asked for."""
        if self.pool_type != "process" and not self.image:
            raise ConfigError("Containers need an image.", expected="--image REPOSITORY:TAG", found="none")


def schedules_of(given: Sequence[str], timezone: str) -> dict[str, Schedule]:
    """Return schedules by deployment, from ``NAME=0 3 * * *`` (cron) or ``NAME=6h``.

    Raises:
        ConfigError: there is no such deployment, or it is neither.
    """
    names = [one.name for one in DEPLOYMENTS if one.takes_recipe]
    found: dict[str, Schedule] = {}
    for text in given:
        name, _, when = text.partition("=")
        if name not in names or not when:
            expected = f"NAME=CRON or NAME=INTERVAL, with NAME one of {', '.join(names)}"
            raise ConfigError("This is no schedule.", expected=expected, found=text)
        found[name] = _schedule(when.strip(), timezone, text)
    return found


def _schedule(when: str, timezone: str, text: str) -> Schedule:
    every = re.fullmatch(r"(\d+)([mhd])", when)
    try:
        ZoneInfo(timezone)
        if every is not None:
            return Interval(int(every[1]) * UNITS_S[every[2]], timezone=timezone)
        return Cron(when, timezone=timezone)
    except (ValueError, ZoneInfoNotFoundError) as error:
        expected = (
            "five fields of cron, such as `0 3 * * *`, or an interval such as 6h; a time zone such as Europe/Berlin"
        )
        raise ConfigError("This is no schedule.", expected=expected, found=f"{text}, {timezone}: {error}") from error


def deploy(plan: Plan) -> list[str]:
    """Make or renew everything, and return what was done, in sentences."""
    with get_client(sync_client=True) as client:
        done = ensure_pools(client, plan.pool_type, plan.image)
        kept = {one.name: _kept_schedules(client, one) for one in DEPLOYMENTS if one.name not in plan.schedules}
        made = {one.name: _deploy_one(one, plan, kept.get(one.name, [])) for one in DEPLOYMENTS}
        done += [f"deployed {one.full_name} to the pool {one.pool}" for one in DEPLOYMENTS]
        done += [
            f"{name} runs by schedule: {schedule_text(schedule)}; {CATCH_UP}"
            for name, schedule in plan.schedules.items()
        ]
        wanted = [*automations(made["recover"])]
        if plan.has_triggers:
            wanted += following(made["retrain"], made["evaluate"])
        wanted += [failing(notification) for notification in plan.notifications]
        for automation in wanted:
            install_one(client, automation)
            done.append(f"automation {automation.name!r}")
        done += [f"{name} keeps {len(found)} schedule(s) of before" for name, found in kept.items() if found]
    return done


def _deploy_one(one: Deployed, plan: Plan, kept: list[DeploymentScheduleCreate]) -> UUID:
    parameters: dict[str, Any] = {"recipe": plan.recipe, "store": plan.store} if one.takes_recipe else {}
    made = RunnerDeployment.from_flow(
        one.flow,
        name=one.name,
        description=(one.flow.description or "").partition("\n")[0],
        work_pool_name=one.pool,
        parameters=parameters,
        tags=[one.tag],
        schedules=[plan.schedules[one.name]] if one.name in plan.schedules else kept,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    return UUID(str(made.apply(image=plan.image)))


def schedule_text(schedule: Schedule) -> str:
    """Return a schedule in words."""
    if schedule.cron:
        return f"cron {schedule.cron} ({schedule.timezone})"
    return f"every {schedule.interval} ({schedule.timezone})"


def _kept_schedules(client: SyncPrefectClient, one: Deployed) -> list[DeploymentScheduleCreate]:
    """Return the schedules that a deployment has: those that nobody asks to change stay."""
    try:
        present = client.read_deployment_by_name(one.full_name).schedules
    except ObjectNotFound:
        return []
    return [
        DeploymentScheduleCreate(schedule=kept.schedule, active=kept.active, parameters=kept.parameters, slug=kept.slug)
        for kept in present
    ]


def main() -> int:
    """Run the command and return its exit code."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, context_settings=HELP_OPTIONS)
    app.command(help="Make or renew pools, deployments, schedules, triggers and notifications on Prefect's server.")(
        _command
    )
    return exit_code_of(app)


def _command(
    recipe: Annotated[str, typer.Option("--recipe", help="of runs that name no other")] = "shapes",
    store: StoreOption = DEFAULT_STORE,
    pool_type: Annotated[str, typer.Option("--pool-type", help="process, docker or kubernetes")] = "process",
    image: Annotated[str | None, typer.Option("--image", help="of containers")] = None,
    schedule: Annotated[
        list[str] | None, typer.Option("--schedule", metavar="NAME=CRON|INTERVAL", help="such as 'retrain=0 3 * * *'")
    ] = None,
    timezone: Annotated[str, typer.Option("--timezone", help="of schedules")] = "UTC",
    notify: Annotated[
        list[str] | None,
        typer.Option("--notify", metavar="KIND:WHAT", help="slack:VARIABLE, webhook:VARIABLE or block:TYPE/NAME"),
    ] = None,
    triggers: Annotated[
        bool, typer.Option("--triggers/--no-triggers", help="new data retrains, a new adapter is evaluated")
    ] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be made")] = False,
    as_json: JsonOption = False,
) -> None:
    if not has_server():
        raise ConfigError(
            "There is no server to deploy to.",
            expected="PREFECT_API_URL, or a Prefect profile with one",
            fix="`make stack` starts one on this machine",
        )
    if pool_type not in {"process", "docker", "kubernetes"}:
        raise ConfigError("There is no such kind of pool.", expected="process, docker or kubernetes", found=pool_type)
    kind: Any = pool_type
    notifications = tuple(notification_of(text) for text in notify or ())
    plan = Plan(recipe, store, kind, image, schedules_of(schedule or (), timezone), notifications, triggers)
    done = _planned(plan) if dry_run else deploy(plan)
    emit({"is_dry_run": dry_run, "done": done}, as_json, "\n".join(done))


def _planned(plan: Plan) -> list[str]:
    lines = [f"would deploy {one.full_name} to the pool {one.pool} ({plan.pool_type})" for one in DEPLOYMENTS]
    lines += [f"would run {name} by schedule: {schedule_text(one)}; {CATCH_UP}" for name, one in plan.schedules.items()]
    lines += ["would make the triggers for new datasets and adapters"] if plan.has_triggers else []
    return [*lines, *(f"would tell {one.text} of failed runs" for one in plan.notifications)]


if __name__ == "__main__":
    sys.exit(main())
