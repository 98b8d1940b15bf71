"""The paired comparison and its page, on recorded arms."""

import base64
import io
import json
import re
import shutil
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from PIL import Image

from softalign.artifacts import ComparisonReport, PairEvidence, PairStatistics, TagDifference, TaskStatistics
from softalign.artifacts.fronts import GuidanceFronts
from softalign.artifacts.metrics import MetricsReport, SetDistances
from softalign.config.metrics import DistanceConfig, MetricConfig
from softalign.errors import CompatibilityError, DataError, IntegrityError
from softalign.evaluation.compare import compare
from softalign.evaluation.differences import differences
from softalign.evaluation.report.charts import (
    Bar,
    Curve,
    FrontLine,
    FrontMark,
    difference_limit,
    front_chart,
    score_bars,
    training_curve,
)
from softalign.evaluation.report.columns import Pair
from softalign.evaluation.report.curves import read_curves
from softalign.evaluation.report.page import verdict_sentence
from softalign.geneval.scoring import read_results
from softalign.registry.metric_points import metric_points
from tests.recorded_arms import publish_arm


@pytest.fixture(scope="module")
def comparison(recorded):
    return _compare(recorded, "compare-key")


@pytest.fixture(scope="module")
def page(comparison):
    return (Path(comparison.uri) / "report.html").read_text(encoding="utf-8")


def _compare(recorded, key, *, adapter=None, config=None, **changed):
    reports = replace(recorded.reports, **changed)
    return compare(reports, adapter or recorded.adapter, config or recorded.config, recorded.store, key)


def gallery_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S).group(1))


def test_differences_are_paired_score_differences(recorded, comparison):
    by_tag = {entry.tag: entry for entry in comparison.adapter_vs_base}
    for base, candidate in zip(recorded.reports.base.tags, recorded.reports.adapter.tags, strict=True):
        assert by_tag[base.tag].difference == pytest.approx(candidate.score - base.score, abs=1e-6)
    overall = recorded.reports.adapter.overall_score - recorded.reports.base.overall_score
    assert by_tag["overall"].difference == pytest.approx(overall, abs=2e-6)
    assert by_tag["overall"].ci_low < overall < by_tag["overall"].ci_high
    assert comparison.overall_untrained == recorded.reports.untrained.overall_score
    assert len(comparison.to_json()) < 4096
    assert set(comparison.parents) == {
        recorded.reports.base.digest,
        recorded.reports.untrained.digest,
        recorded.reports.adapter.digest,
        recorded.reports.guided_base.digest,
        recorded.adapter.digest,
    }


def test_what_the_differences_show_lies_beside_the_record_and_its_overall_line_in_it(recorded, comparison):
    found = PairStatistics.model_validate_json((Path(comparison.uri) / "statistics.json").read_bytes())
    assert [one.tag for one in found.adapter_vs_base] == [entry.tag for entry in comparison.adapter_vs_base]
    rows = [json.loads(line) for line in (Path(comparison.uri) / "pairs.jsonl").read_text().splitlines()]
    for pairs, reference in ((found.adapter_vs_base, "base"), (found.adapter_vs_untrained, "untrained")):
        for one in pairs:
            told = [row for row in rows if one.tag in {row["tag"], "overall"} and row["adapter"] != row[reference]]
            assert one.wins == sum(row["adapter"] for row in told)
            assert one.losses == len(told) - one.wins
    overall = found.adapter_vs_base[-1]
    assert comparison.over_base.model_dump() == overall.model_dump(include=set(PairEvidence.model_fields))
    assert (comparison.over_champion, found.adapter_vs_champion) == (None, ())
    (gain,) = [entry for entry in comparison.adapter_vs_base if entry.tag == "overall"]
    assert overall.detectable == pytest.approx((gain.ci_high - gain.ci_low) / 2 * (1.960 + 0.842) / 1.960, rel=1e-3)
    assert 0 < overall.p_value <= 1


def test_the_base_with_guidance_is_a_reference_beside_the_arms(recorded, comparison, page):
    reference = comparison.guided_base
    assert reference.guidance_scale == 2.0
    assert reference.overall_score == recorded.reports.guided_base.overall_score
    assert reference.overall_ci_low < reference.overall_score < reference.overall_ci_high
    assert (comparison.denoiser_calls_per_image, reference.denoiser_calls_per_image) == (15, 30)
    text = unescape(re.sub(r"<[^>]+>", " ", page.split("<script")[0]))
    for expected in (
        "The arms were compared without guidance: 15 denoiser calls an image.",
        f"For reference, the base at guidance 2: {reference.overall_score * 100:.1f} points (",
        "), 30 calls an image.",
        "for reference: base model at guidance 2",
    ):
        assert expected in text
    assert "Sampler DDIMScheduler, 15 steps." in text  # as the arms' records say


def test_without_the_reference_nothing_is_said_of_it(recorded):
    config = recorded.config.of_arm("base").model_copy(update={"guidance_scale": 3.0})
    record = _compare(recorded, "no-reference", guided_base=None, config=config)
    assert record.guided_base is None
    assert record.guidance_text() == "The arms were compared at guidance 3: 30 denoiser calls an image."
    assert "for reference" not in (Path(record.uri) / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("changes", [{"arm": "base"}, {"suite": "other"}, {"num_images": 1}])
def test_a_reference_of_another_kind_or_suite_is_refused(recorded, changes):
    with pytest.raises(CompatibilityError, match="not the base with guidance"):
        _compare(recorded, "bad", guided_base=recorded.reports.guided_base.model_copy(update=changes))


def test_an_arm_against_itself_differs_by_nothing(recorded):
    results = read_results(Path(recorded.reports.base.uri) / "results.jsonl")
    for entry in differences(results, results, recorded.config):
        assert (entry.difference, entry.ci_low, entry.ci_high) == (0, 0, 0)


def test_pairs_hold_every_verdict(recorded, comparison):
    rows = [json.loads(line) for line in (Path(comparison.uri) / "pairs.jsonl").read_text().splitlines()]
    assert len(rows) == comparison.num_images_per_arm == 24
    for arm, report in (("base", recorded.reports.base), ("adapter", recorded.reports.adapter)):
        assert sum(row[arm] for row in rows) == sum(tag.num_correct for tag in report.tags)


def test_the_same_inputs_are_the_same_bytes(recorded, comparison, page):
    again = _compare(recorded, "another-key")
    text = (Path(again.uri) / "report.html").read_text(encoding="utf-8")
    assert text.replace("another-key", "compare-key") == page


def test_arms_of_another_kind_adapter_or_suite_are_refused(recorded):
    with pytest.raises(CompatibilityError, match="other arms"):
        _compare(recorded, "bad", base=recorded.reports.untrained)
    with pytest.raises(CompatibilityError, match="another adapter"):
        _compare(recorded, "bad", adapter=recorded.adapter.model_copy(update={"name": "other"}))


def test_arms_of_other_prompts_cannot_be_paired(recorded, monkeypatch):
    from softalign.evaluation import compare as module

    def cut(path):
        results = read_results(path)
        return results[:-1] if "untrained" in str(path) else results

    monkeypatch.setattr(module, "read_results", cut)
    with pytest.raises(CompatibilityError, match="pairs"):
        _compare(recorded, "bad")


def test_the_page_is_self_contained(page, recorded):
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!data:|#)", page)
    assert "url(" not in page
    assert "default-src 'none'" in page
    assert recorded.store.uri not in page


def test_the_page_shows_the_numbers_of_the_records(page, recorded, comparison):
    text = unescape(re.sub(r"<[^>]+>", " ", page.split("<script")[0]))
    for report in recorded.reports.compared:
        assert f"{report.overall_score * 100:.1f}" in text
        assert report.digest in text
        for tag in report.tags:
            assert f"{tag.score * 100:.1f} ({tag.ci_low * 100:.1f}–{tag.ci_high * 100:.1f})" in text
    for entry in (*comparison.adapter_vs_base, *comparison.adapter_vs_untrained):
        assert f"{100 * entry.difference:+.1f}" in text
    assert verdict_sentence(comparison, recorded.config) in text


def test_the_page_says_what_the_pairs_show_and_whose_scores_they_are(page, recorded, comparison):
    statistics = PairStatistics.model_validate_json((Path(comparison.uri) / "statistics.json").read_bytes())
    tables = page.split("<caption>")[1:3]
    for table, tasks in zip(tables, (statistics.adapter_vs_base, statistics.adapter_vs_untrained), strict=True):
        assert "(embedded)</caption>" in table
        for one in tasks:
            p_value = one.p_value if one.p_adjusted is None else one.p_adjusted
            cells = (f"{p_value:.4f}", f"{one.wins} : {one.losses}", f"{100 * one.detectable:.1f}")
            assert "".join(f'<td class="number">{cell}</td>' for cell in cells) in table
    planned = f"an overall difference of {100 * statistics.planned_detectable:.1f} points was expected to be"
    assert planned in page
    assert page.count('<span class="judge">embedded</span>') == 4 + 2 + 3  # arms and reference, pairs, heads of columns


def test_the_gallery_holds_every_image_with_verdict_boxes_and_reason(page, recorded):
    gallery = gallery_of(page)
    assert (gallery["width"], gallery["height"], gallery["crisp"]) == (32, 32, True)
    assert gallery["prefix"] == "data:image/png;base64,"
    assert len(gallery["entries"]) == 24
    for number, report in enumerate(recorded.reports.compared):
        results = read_results(Path(report.uri) / "results.jsonl")
        shown = [entry[3][number] for entry in gallery["entries"]]
        assert [bool(one[0]) for one in shown] == [result.correct for result in results]
        assert [one[1] for one in shown] == [result.reason for result in results]
        assert all(Image.open(io.BytesIO(base64.b64decode(one[2]))).format == "PNG" for one in shown)
        for one, result in zip(shown, results, strict=True):
            kept = json.loads(result.details)
            counted = [found for found in one[3] if found[6]]
            assert len(counted) == sum(map(len, kept.values()))
            boxes = sorted([round(1000 * value / 32) for value in box[:4]] for group in kept.values() for box in group)
            assert sorted(found[2:6] for found in counted) == boxes
            assert {gallery["names"][found[0]].rpartition(" ")[2] for found in counted} == {*kept}


def test_the_training_curves_are_there(page):
    for title in ("Loss", "Win rate", "Match weight", "Score margin", "Held-out accuracy"):
        assert f"<strong>{title}</strong>" in page
    assert page.count('class="smooth"') == 5
    assert page.count('<line class="reference"') == 4


def comparison_with(difference, low, high):
    entry = (TagDifference(tag="overall", difference=difference, ci_low=low, ci_high=high),)
    return ComparisonReport(
        stage_key="k",
        suite="shapes",
        overall_base=0,
        overall_untrained=0,
        overall_adapter=0,
        adapter_vs_base=entry,
        adapter_vs_untrained=entry,
        num_images_per_arm=1,
    )


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ((0.05, 0.01, 0.09), "beats the base model by 5.0 points"),
        ((-0.05, -0.09, -0.01), "is 5.0 points worse than the base model"),
        ((0.05, -0.01, 0.11), "cannot be told apart from the base model (+5.0 points)"),
        ((0.05, 0.0, 0.11), "cannot be told apart from the base model (+5.0 points)"),
    ],
)
def test_the_verdict_is_no_stronger_than_the_interval(recorded, interval, words):
    assert words in verdict_sentence(comparison_with(*interval), recorded.config)


def test_a_verdict_is_no_stronger_than_its_p_value(recorded):
    lucky = PairEvidence(p_value=0.25, wins=1, losses=0, detectable=0.0)
    comparison = comparison_with(0.05, 0.05, 0.05).model_copy(update={"over_base": lucky})
    said = verdict_sentence(comparison, recorded.config)
    assert "cannot be told apart from the base model (+5.0 points) and beats untrained tokens" in said


def test_a_dot_has_the_colour_of_what_interval_and_p_value_say_together():
    gains = tuple(TagDifference(tag=tag, difference=0.3, ci_low=0.1, ci_high=0.5) for tag in ("counting", "overall"))
    counts = dict.fromkeys(("wins", "losses", "prompts_better", "prompts_worse"), 1)
    shown = (
        TaskStatistics(tag="counting", p_value=0.03, p_adjusted=0.18, detectable=0.1, **counts),
        TaskStatistics(tag="overall", p_value=0.03, p_adjusted=None, detectable=0.1, **counts),
    )
    assert [Pair(1, 0, "b - a", gains, shown).standing(one) for one in gains] == ["unclear", "better"]
    assert [Pair(1, 0, "b - a", gains, shown, 0.99).standing(one) for one in gains] == ["unclear", "unclear"]
    assert [Pair(1, 0, "b - a", gains, ()).standing(one) for one in gains] == ["better", "better"]


def test_markup_in_prompts_and_names_stays_text(recorded, monkeypatch):
    from softalign.evaluation.report.gallery import script_json
    from softalign.evaluation.report.page import Compared, render_page

    assert "</script>" not in script_json({"prompt": "</script><script>alert(1)</script>"})
    assert json.loads(script_json("</a>")) == "</a>"
    from softalign.evaluation.compare import _load_arm

    arms = [_load_arm(report, recorded.store) for report in recorded.reports.compared]
    named = recorded.adapter.model_copy(update={"name": "<img src=x>"})
    record = _compare(recorded, "compare-key")
    statistics = PairStatistics.model_validate_json((Path(record.uri) / "statistics.json").read_bytes())
    compared = Compared(record, statistics, None, None, arms)
    page = render_page(compared, named, Path(recorded.adapter.uri), recorded.config)
    assert "<img src=x>" not in page
    assert "&lt;img src=x&gt;" in page


def test_metrics_without_a_weight_leave_its_curve_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_curves(path) == []
    rows = [{"samples_seen": 4 * i, "loss": 1.0 / i, "win_rate": None} for i in range(1, 5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (loss,) = read_curves(path)
    assert loss.title == "Loss"
    assert loss.samples_seen == (4, 8, 12, 16)
    path.write_text('{"loss": 1}\n')
    with pytest.raises(DataError, match="metrics"):
        read_curves(path)


def test_charts_put_values_where_they_belong():
    bars = score_bars([Bar("base", "base", 0.5, 0.25, 0.75)])
    assert 'width="140"' in bars  # half of 280
    assert 'aria-label="base 50.0 (25.0 to 75.0)"' in bars
    assert difference_limit([0.12, -0.31]) == pytest.approx(0.35)
    assert difference_limit([]) == 0.05
    long = Curve("Loss", tuple(range(10_000)), tuple(1.0 for _ in range(10_000)))
    assert len(training_curve(long)) < 20_000


def test_a_front_of_one_point_has_axes_that_can_be_read():
    mark = FrontMark(1.0, 0.0, 0.0, is_on_front=True)
    lines = [FrontLine("base", "base model", (mark, mark)), FrontLine("adapter", "adapter", (mark,))]
    chart = front_chart(lines, "counting", "counting, points")
    ticks = re.findall(r"<text[^>]*>([-\d.]+)</text>", chart)
    assert "0.5" in ticks and not any(tick.startswith("-") for tick in ticks)
    said = "Overall, points, over counting, points. base model: guidance 1 counting 0 overall 0.0, "
    assert f'aria-label="{said}' in chart


def test_the_champion_is_compared_in_pairs_and_its_verdicts_are_kept(recorded, prompts):
    pin = f"softalign-Shapes/3#{'3' * 64}"
    config = recorded.config.model_copy(update={"champion": pin})
    champion = publish_arm("champion", None, prompts, config, recorded.store)
    made = _compare(recorded, "beside-champion", config=config, champion=champion)
    overall = made.overall_adapter - made.overall_champion
    assert made.champion == pin and made.overall_champion == champion.overall_score
    assert {entry.tag: entry.difference for entry in made.adapter_vs_champion}["overall"] == pytest.approx(
        overall, abs=2e-6
    )
    assert champion.digest in made.parents and len(made.to_json()) < 4096
    rows = [json.loads(line) for line in (Path(made.uri) / "pairs.jsonl").read_text().splitlines()]
    assert {"base", "untrained", "adapter", "champion"} <= rows[0].keys()
    assert sum(row["champion"] for row in rows) == sum(tag.num_correct for tag in champion.tags)
    page = (Path(made.uri) / "report.html").read_text()
    assert "Adapter − champion softalign-Shapes/3" in page
    gallery = gallery_of(page)
    assert [name for _, name in gallery["columns"]] == ["base", "untrained", "champion", "adapter"]
    assert gallery["pairs"] == [[3, 0], [3, 1], [3, 2]]
    shown = [entry[3] for entry in gallery["entries"]]
    assert [[bool(image[0]) for image in images] for images in shown] == [
        [row[arm] for arm in ("base", "untrained", "champion", "adapter")] for row in rows
    ]
    assert f'<div class="card-value">{100 * champion.overall_score:.1f}</div>' in page
    for asked, report in ((recorded.config, champion), (config, None)):
        with pytest.raises(CompatibilityError, match="other tokens than the champion"):
            _compare(recorded, "refused", config=asked, champion=report)


def test_a_sweep_says_what_is_left_of_the_gain_at_each_arms_best_guidance(recorded, prompts):
    own = recorded.config.model_copy(update={"reference_guidance_scale": None})
    config = own.model_copy(update={"guidance_sweep": (1.0, 3.0)})
    assert config.swept_arms == (("base", 3.0), ("untrained", 3.0), ("adapter", 3.0))
    with pytest.raises(CompatibilityError, match="sweep over guidance"):
        _compare(recorded, "no-sweep", config=config, guided_base=None)

    store, reports = recorded.store, recorded.reports
    drawn_as = {"base": reports.adapter, "untrained": reports.untrained, "adapter": reports.base}  # turned round
    sweep = tuple(
        store.publish(
            report.model_copy(update={"arm": arm, "guidance_scale": 3.0, "stage_key": f"{arm}-at-3"}),
            copy_of(store, report, arm),
        )
        for arm, report in drawn_as.items()
    )
    made = _compare(recorded, "swept", config=config, guided_base=None, sweep=sweep)
    fronts = GuidanceFronts.model_validate_json((Path(made.uri) / "fronts.json").read_bytes())
    assert [(point.arm, point.guidance_scale) for point in fronts.points] == [
        (arm, guidance) for guidance in (1.0, 3.0) for arm in ("base", "untrained", "adapter")
    ]
    assert reports.adapter.overall_score > reports.base.overall_score
    assert (fronts.best_base, fronts.best_adapter) == (3.0, 1.0)
    assert fronts.adapter_over_base_at_best.difference == 0.0  # the base has the adapter's images at guidance 3
    gains = {(gain.arm, gain.guidance_scale): gain.overall.difference for gain in fronts.gains}
    assert gains["adapter", 1.0] == -gains["adapter", 3.0] > 0
    calls = {point.guidance_scale: point.denoiser_calls_per_image for point in fronts.points}
    assert calls == {1.0: 15, 3.0: 30}
    for point in fronts.points:
        others = [one for one in fronts.points if one.arm == point.arm and one != point]
        beaten = [
            one
            for one in others
            if one.overall_score >= point.overall_score
            and one.counting >= point.counting
            and (one.overall_score, one.counting) != (point.overall_score, point.counting)
        ]
        assert point.is_on_front == (not beaten)
    page = (Path(made.uri) / "report.html").read_text()
    chart = re.search(r'<svg class="chart"[^>]*aria-label="Overall, points, over counting.*?</svg>', page, re.S).group()
    assert chart.count("<polyline") == 3  # one line an arm
    assert re.findall(r'<text class="guidance"[^>]*>([^<]*)<', chart) == ["1", "3"] * 3
    assert len(re.findall(r'class="mark \w+"', chart)) == sum(point.is_on_front for point in fronts.points)
    table = page.split("Scores by guidance (embedded)</caption>")[1].split("</table>")[0]
    for point in fronts.points:
        assert f"{100 * point.overall_score:.1f} (" in table and f"{100 * point.counting:.1f}" in table
    unswept = Path(_compare(recorded, "unswept").uri)
    assert not (unswept / "fronts.json").exists()
    assert "h-guidance" not in (unswept / "report.html").read_text()


def test_distances_from_a_reference_are_an_axis_of_the_fronts(recorded):
    own = recorded.config.model_copy(update={"reference_guidance_scale": None})
    config = own.model_copy(
        update={"guidance_sweep": (1.0, 3.0), "distance": DistanceConfig(reference="r.npz", features="some/model")}
    )
    store, reports = recorded.store, recorded.reports
    distances = dict(base=(30.0, 20.0), untrained=(31.0, 32.0), adapter=(25.0, 40.0))
    made_at = {}
    for arm, values in distances.items():
        for guidance, value in zip((1.0, 3.0), values, strict=True):
            folder = copy_of(store, getattr(reports, arm), f"{arm}-far-{guidance}")
            found = SetDistances(
                distances={"frechet_distance[some/model]": value},
                kernel_std=None,
                num_features=8,
                num_images=900,
                num_reference_images=None,
            )
            (folder / "distances.json").write_text(found.model_dump_json())
            update = {"guidance_scale": guidance, "stage_key": f"{arm}-far-{guidance}"}
            made_at[arm, guidance] = store.publish(getattr(reports, arm).model_copy(update=update), folder)
    at_own = replace(reports, **{arm: made_at[arm, 1.0] for arm in distances}, guided_base=None)
    asked = replace(at_own, sweep=tuple(made_at[arm, 3.0] for arm in distances))
    made = compare(asked, recorded.adapter, config, store, "far")
    fronts = GuidanceFronts.model_validate_json((Path(made.uri) / "fronts.json").read_bytes())
    assert fronts.distance_name == "frechet_distance[some/model]"
    assert {(point.arm, point.guidance_scale): point.distance for point in fronts.points} == {
        (arm, guidance): value
        for arm, values in distances.items()
        for guidance, value in zip((1.0, 3.0), values, strict=True)
    }
    # an arm has equal scores at both guidances here, so the nearer one alone is on its front
    assert {(point.arm, point.guidance_scale) for point in fronts.points if point.is_on_distance_front} == {
        ("base", 3.0),
        ("untrained", 1.0),
        ("adapter", 1.0),
    }
    points = {name: value for name, value, _ in metric_points(Path(made.uri))}
    assert {name: value for name, value in points.items() if "frechet" in name} == {
        f"metric/frechet_distance/{arm}": values[0] for arm, values in distances.items()
    }
    page = (Path(made.uri) / "report.html").read_text()
    chart = re.search(r'<svg class="chart"[^>]*aria-label="Overall, points, over frechet.*?</svg>', page, re.S).group()
    assert chart.count("<polyline") == 3 and len(re.findall(r'class="mark \w+"', chart)) == 3
    rows = page.split('id="metrics"')[1].split("</table>")[0]
    assert rows.count("frechet_distance[some/model]") == 6 and "adapter at guidance 3" in rows
    with pytest.raises(IntegrityError, match="no distances from the reference"):
        _compare(recorded, "near", config=config.model_copy(update={"guidance_sweep": ()}), guided_base=None)


def test_metrics_of_the_arms_stand_beside_the_statistics_and_in_the_runs_numbers(recorded):
    store, reports = recorded.store, recorded.reports
    means = {"base": 20.0, "untrained": 21.0, "adapter": 22.0}
    scored = {}
    for arm, mean in means.items():
        report = getattr(reports, arm)
        names = [result.filename for result in read_results(Path(report.uri) / "results.jsonl")]
        folder = copy_of(store, report, f"{arm}-scored")
        rows = [{"filename": name, "pick_score": mean + place % 2} for place, name in enumerate(names)]
        (folder / "metric_values.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        scored[arm] = store.publish(report.model_copy(update={"stage_key": f"{arm}-scored"}), folder)
    metrics = (MetricConfig(name="pick_score", model="some/model"),)
    config = recorded.config.model_copy(update={"metrics": metrics})
    made = compare(replace(reports, **scored), recorded.adapter, config, store, "scored")
    report = MetricsReport.model_validate_json((Path(made.uri) / "metrics.json").read_bytes())
    assert {one.arm: one.means[0].mean for one in report.arms} == {arm: mean + 0.5 for arm, mean in means.items()}
    gains = report.adapter_vs_base[0], report.adapter_vs_untrained[0]
    assert [(gain.difference, gain.ci_low, gain.ci_high) for gain in gains] == [(2.0, 2.0, 2.0), (1.0, 1.0, 1.0)]
    assert report.adapter_vs_champion == ()
    points = {name: value for name, value, _ in metric_points(Path(made.uri))}
    assert points["metric/pick_score/base"] == 20.5
    assert points["metric/pick_score/gain_over_base"] == points["metric/pick_score/gain_over_base_ci_low"] == 2.0
    page = (Path(made.uri) / "report.html").read_text()
    assert 'adapter − base model</td><td class="number">+2<' in page and "some/model" in page
    plain = _compare(recorded, "plain")
    assert 'id="metrics"' not in (Path(plain.uri) / "report.html").read_text()
    assert made.adapter_vs_base == plain.adapter_vs_base
    assert not (Path(plain.uri) / "metrics.json").exists()
    assert [*metric_points(Path(plain.uri))] == []
    with pytest.raises(IntegrityError, match="no scores by pick_score"):
        _compare(recorded, "unscored", config=config)


def copy_of(store, report, arm):
    folder = store.work_path("evaluate", f"{arm}-at-3") / "copy"
    shutil.copytree(report.uri, folder, ignore=shutil.ignore_patterns("report.json", "files.json"))
    return folder
