"""What becomes of a run that may have lost its process, one row per case."""

import pytest

from flows.server.decision import Action, Limits, Owner, Sight, decide

LIMITS = Limits(silent_s=95, pending_s=300, crashed_within_s=3600, num_recoveries=5)
ROWS = {
    "its process lives": ("RUNNING", Owner.ALIVE, {"silent_s": 9999}, Action.LEAVE),
    "worker and process are gone": ("RUNNING", Owner.GONE, {}, Action.RESCHEDULE),
    "worker gone while submitting": ("PENDING", Owner.GONE, {}, Action.RESCHEDULE),
    "on another machine, with a fresh heartbeat": ("RUNNING", Owner.ELSEWHERE, {"silent_s": 94}, Action.LEAVE),
    "on another machine, silent": ("RUNNING", Owner.ELSEWHERE, {"silent_s": 96}, Action.CRASH_AND_RESCHEDULE),
    "not ours: it need not send heartbeats": ("RUNNING", Owner.UNKNOWN, {"silent_s": 9999}, Action.LEAVE),
    "submitting for long": ("PENDING", Owner.ELSEWHERE, {"silent_s": 200}, Action.LEAVE),
    "submitting for too long": ("PENDING", Owner.ELSEWHERE, {"silent_s": 301}, Action.CRASH_AND_RESCHEDULE),
    "submitting for too long, unsigned": ("PENDING", Owner.UNKNOWN, {"silent_s": 301}, Action.CRASH_AND_RESCHEDULE),
    "cancelling, and gone": ("CANCELLING", Owner.GONE, {}, Action.CANCEL),
    "cancelling, and silent": ("CANCELLING", Owner.ELSEWHERE, {"silent_s": 96}, Action.CANCEL),
    "cancelling, and alive": ("CANCELLING", Owner.ALIVE, {"silent_s": 96}, Action.LEAVE),
    "its process was killed": ("CRASHED", Owner.ALIVE, {}, Action.RESCHEDULE),
    "crashed on another machine": ("CRASHED", Owner.ELSEWHERE, {}, Action.RESCHEDULE),
    "crashed long ago": ("CRASHED", Owner.GONE, {"state_age_s": 3601}, Action.LEAVE),
    "crashed, not ours": ("CRASHED", Owner.UNKNOWN, {}, Action.LEAVE),
    "crashed while it was cancelled": ("CRASHED", Owner.GONE, {"was_cancelling": True}, Action.CANCEL),
    "the last recovery": ("RUNNING", Owner.GONE, {"num_recoveries": 4}, Action.RESCHEDULE),
    "no recovery left": ("RUNNING", Owner.GONE, {"num_recoveries": 5}, Action.GIVE_UP),
    "crashed, no recovery left": ("CRASHED", Owner.GONE, {"num_recoveries": 5}, Action.GIVE_UP),
    "cancelling, no recovery left": ("CANCELLING", Owner.GONE, {"num_recoveries": 5}, Action.CANCEL),
    **{
        f"{state} is an end, or waits for nobody": (state, Owner.GONE, {"silent_s": 9999}, Action.LEAVE)
        for state in ("COMPLETED", "FAILED", "CANCELLED", "SCHEDULED", "PAUSED")
    },
}


@pytest.mark.parametrize(("state", "owner", "known", "action"), ROWS.values(), ids=ROWS)
def test_each_case(state, owner, known, action):
    assert decide(Sight(state=state, owner=owner, **{"silent_s": 0, "state_age_s": 0, **known}), LIMITS) is action
