"""Steps of a recipe's chain by their labels, for tests that ask for one stage alone."""

from softalign.stages.published import Published, label_of
from softalign.stages.run import run_step
from softalign.stages.table import steps_of


def step_of(recipe, label):
    (step,) = (step for step in steps_of(recipe) if step.label == label)
    return step


def published_of(*records):
    """Return records of the chain as what is published."""
    labels = [label_of(record.stage, getattr(record, "arm", None)) for record in records]
    return Published(tuple(labels), records)


def request_of(recipe, label, store=None, *records):
    step = step_of(recipe, label)
    return step.row.request(step.inputs(published_of(*records), store))


def key_of(recipe, label, store=None, *records):
    return request_of(recipe, label, store, *records).key


def run_stage(recipe, label, store, *records):
    return run_step(step_of(recipe, label), published_of(*records), store, lambda _line: None)
