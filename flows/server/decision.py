"""What becomes of a run that may have lost its process: a pure function of what is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Owner(Enum):
    """What is known of the process that runs a flow run."""

    GONE = "gone"
    """Its worker and its process were on this machine, or belonged to the caller, and have ended."""
    ALIVE = "alive"
    """One of them lives on this machine."""
    ELSEWHERE = "elsewhere"
    """It is on another machine: only its silence can tell."""
    UNKNOWN = "unknown"
    """No worker of ours has signed it; it need not send signs of life."""


class Action(Enum):
    """What is done with a run."""

    LEAVE = "leave"
    RESCHEDULE = "reschedule"
    CRASH_AND_RESCHEDULE = "crash and reschedule"
    """The server refuses to crash a run that has finished: a run that was only silent is not run twice."""
    CANCEL = "cancel"
    GIVE_UP = "give up"


@dataclass(frozen=True)
class Limits:
    """How long silence lasts before a run counts as lost, and how often a run is taken up again."""

    silent_s: float = 125.0
    """Above 30 s between two heartbeats, Prefect's shortest, and a server that was away from one look to the next."""
    pending_s: float = 300.0
    """The same for a run that is being submitted: it sends no heartbeats, and an image may have to be pulled."""
    crashed_within_s: float = 86_400.0
    """A run that crashed longer ago was left by people, who would be surprised to see it run."""
    num_recoveries: int = 10
    """So many losses in a row without getting any further (finished tasks, checkpoints) are taken up again."""


@dataclass(frozen=True)
class Sight:
    """A flow run at one moment."""

    state: str
    """The state's type: PENDING, RUNNING, CANCELLING, CRASHED or another."""
    owner: Owner
    silent_s: float
    """Since the last sign of life that the one who looks has noticed."""
    state_age_s: float
    num_recoveries: int = 0
    """Without progress in between."""
    was_cancelling: bool = False
    """Somebody cancelled it in this attempt, whatever the state is now."""


def decide(sight: Sight, limits: Limits) -> Action:
    """Return what is done with a run; LEAVE for one that has an owner, or has come to an end of its own."""
    is_certain = sight.owner is Owner.GONE or sight.state == "CRASHED"
    if not (is_certain or _is_silent(sight, limits)) or not _is_open(sight, limits):
        return Action.LEAVE
    if sight.state == "CANCELLING" or sight.was_cancelling:
        return Action.CANCEL
    if sight.num_recoveries >= limits.num_recoveries:
        return Action.GIVE_UP
    return Action.RESCHEDULE if is_certain else Action.CRASH_AND_RESCHEDULE


def _is_open(sight: Sight, limits: Limits) -> bool:
    """Return whether a run is in a state that needs somebody."""
    if sight.state == "CRASHED":
        return sight.owner is not Owner.UNKNOWN and sight.state_age_s <= limits.crashed_within_s
    return sight.state in {"PENDING", "RUNNING", "CANCELLING"}


def _is_silent(sight: Sight, limits: Limits) -> bool:
    if sight.state == "PENDING":  # signed or not: whoever submits it needs no longer
        return sight.owner is not Owner.ALIVE and sight.silent_s > limits.pending_s
    return sight.owner is Owner.ELSEWHERE and sight.silent_s > limits.silent_s
