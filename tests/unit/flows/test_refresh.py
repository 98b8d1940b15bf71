"""The flow that refreshes a recipe's dataset: changed captions become part of what follows."""

import json
from importlib import import_module

from softalign.config import Recipe
from softalign.data.curation.published import OpenedDataset
from softalign.stages.chain import run_until
from softalign.stages.refresh import published_dataset
from softalign.store.store import Store

flow_module = import_module("flows.refresh")
SCENES = {"type": "shapes", "num_scenes": 12, "captions_per_scene": 1, "incomplete_share": 0.0, "wrong_share": 0.0}
RECIPE = {"name": "tiny", "curation": {"name": "tiny", "sources": [SCENES]}, "register": {"name": "tiny"}}


def test_captions_make_a_version_that_is_announced_with_its_override(tmp_path, monkeypatch):
    store, recipe = Store(str(tmp_path / "store")), Recipe.model_validate(RECIPE)
    run_until("curate", recipe, store, lambda line: None, is_through=True)
    dataset, heard = published_dataset(recipe, store), []

    def run_stages(asked, opened, *stages):
        heard.append((asked, stages))
        return run_until("curate", asked, opened, lambda line: None, is_through=True)

    monkeypatch.setattr(flow_module, "run_stages", run_stages)
    monkeypatch.setattr(flow_module, "announce", lambda *said: heard.append(said))
    lineage = []
    monkeypatch.setattr(flow_module, "log_lineage", lambda *said: lineage.append(said))
    table = tmp_path / "changes.jsonl"
    first = next(OpenedDataset(dataset, store).samples()).row.key
    table.write_text(json.dumps({"action": "add", "caption": "one more", "key": first}))
    summary = flow_module.refresh.fn(RECIPE, ["train.num_steps=2"], store.uri, captions=str(table))
    (asked, stages), (kind, outcome, given, overrides, uri) = heard
    assert stages == ("curate", "encode") and len(asked.curation.caption_changes) == 1
    assert (kind, given, uri, outcome) == ("dataset", RECIPE, store.uri, summary.stages[0])
    assert overrides[0] == "train.num_steps=2" and overrides[1].startswith("curation.caption_changes=")
    assert outcome.digest != dataset.digest
    ((refreshed, (child,), _),) = lineage
    assert (refreshed.dataset, child.digest, child.parent_key) == (dataset, outcome.digest, dataset.stage_key)
    refreshed_recipe = {**RECIPE, "curation": asked.curation.model_dump(mode="json")}
    again = flow_module.refresh.fn(refreshed_recipe, store=store.uri, captions=str(table))
    assert (again.stages[0].digest, again.stages[0].is_reused) == (outcome.digest, True), "a scheduled retry"
    assert lineage[1][0].dataset == dataset, "the same refresh"
