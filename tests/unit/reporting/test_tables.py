"""Tables: the content of each format, and deterministic files."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lavish.config.measures import Measure
from lavish.errors import LavishError
from lavish.reporting.columns import change, p_value, significant
from lavish.reporting.power import minimum_detectable_difference
from lavish.reporting.records import read_run
from lavish.reporting.statistics import holm, interval, paired_test
from lavish.reporting.tables import write_table

PUBLISHED = Path(__file__).parents[3] / "config" / "published.csv"
SEEDS = [0, 1, 2]
TASK = "event_localization"


@pytest.fixture
def written(table_spec: dict[str, Any], tmp_path: Path) -> Path:
    write_table(table_spec, tmp_path / "results" / "table_ablation")
    return tmp_path / "results"


def csv_lines(folder: Path, name: str = "table_ablation") -> list[dict[str, str]]:
    return list(csv.DictReader((folder / f"{name}.csv").read_text().splitlines()))


def markdown_rows(text: str) -> dict[str, list[str]]:
    """Return the cells of each row by its label."""
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")]
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}


def test_the_same_results_give_the_same_bytes(table_spec: dict[str, Any], written: Path, tmp_path: Path) -> None:
    write_table(table_spec, tmp_path / "again")
    for suffix in ("md", "csv", "tex"):
        again = (tmp_path / f"again.{suffix}").read_bytes()
        assert (written / f"table_ablation.{suffix}").read_bytes() == again
        assert b"\r" not in again


def test_no_format_has_a_nan_or_an_empty_markdown_cell(written: Path) -> None:
    for suffix in ("md", "csv", "tex"):
        assert not re.search(r"\bnan\b|\binf\b|\bNone\b", (written / f"table_ablation.{suffix}").read_text())
    for cells in markdown_rows((written / "table_ablation.md").read_text()).values():
        assert all(cells)


def test_markdown_rows(table_spec: dict[str, Any], table_root: Path, written: Path) -> None:
    text = (written / "table_ablation.md").read_text()
    assert text.startswith("# Ablation of LAVISH\n\nWhat each part contributes.\n\n## Fusion\n\n| Variant ")
    assert text.count("\n| Variant ") == 2
    rows = markdown_rows(text)
    assert rows["Variant"] == [
        "Accuracy (%)", "95 % interval", "Difference (points)", "p (Holm)", "Trainable params (M)",
        "Total params (M)", "Adapter GMACs", "Total GMACs", "Published",
    ]  # fmt: skip
    expected = interval(read_run(table_root / "full", SEEDS).scores, limits=(0, 1))
    assert expected.std is not None
    assert rows["LAVISH"] == [
        f"{100 * expected.mean:.1f} ± {100 * expected.std:.1f}",
        f"[{100 * expected.low:.1f}, {100 * expected.high:.1f}]",
        "baseline", "–", "0.170", "0.319", "0.00300", "0.0540", "accuracy 81.1, test-selected [1]",
    ]  # fmt: skip
    frozen = rows["frozen backbone"]
    assert re.fullmatch(r"−\d+\.\d \[−\d+\.\d, −\d+\.\d\]", frozen[2])
    assert frozen[3] == "< 0.001"
    assert frozen[6] == "0"


def test_a_row_without_result_gives_the_reason(written: Path) -> None:
    row = markdown_rows((written / "table_ablation.md").read_text())["audio → visual"]
    assert row[0] == row[2] == "not run: seed0/record.json is missing"
    assert row[4] == "not run: cost.json is missing"
    line = csv_lines(written)[-1]
    assert line["status"] == "not run: seed0/record.json is missing; not run: cost.json is missing"
    assert line["mean"] == line["p_holm"] == line["total_macs"] == ""


def test_rows_selected_on_test_are_marked(written: Path) -> None:
    text = (written / "table_ablation.md").read_text()
    assert r"LAVISH, 50% \| test †" in markdown_rows(text)
    assert "- † Checkpoint and thresholds selected on the test split" in text
    assert text.count("†") == 3
    assert [line["selected_on"] for line in csv_lines(written)] == ["val", "val", "val", "val", "test", "val"]


def test_no_dagger_without_such_rows(table_spec: dict[str, Any], tmp_path: Path) -> None:
    del table_spec["sections"][1]["rows"][1]
    write_table(table_spec, tmp_path / "table")
    assert "†" not in (tmp_path / "table.md").read_text()


def test_notes_of_the_table(written: Path) -> None:
    notes = (written / "table_ablation.md").read_text().split("## Notes")[1]
    for part in (
        "- Data: composed clips of 8 classes",
        "- Backbone: a small ViT",
        "selected on the validation split",
        "3 seeds (0, 1, 2), 80 test clips",
        "bootstrap over test clips and seeds",
        "Differences to 'LAVISH'",
        "Holm-corrected for the 3 comparisons",
        "each multiply-add once, for one clip at batch size 1",
        "1. LAVISH, Swin-V2-L (shared), ave. Source: a results figure; issues 2, 9.",
    ):
        assert part in notes
    assert notes.count("each multiply-add once") == 1


def test_csv_has_plain_numbers(table_root: Path, written: Path) -> None:
    lines = csv_lines(written)
    assert list(lines[0]) == [
        "section", "variant", "label", "seeds", "metric", "mean", "std", "low", "high",
        "seed0", "seed1", "seed2", "difference", "difference_low", "difference_high",
        "difference_simultaneous_low", "difference_simultaneous_high", "p", "p_holm",
        "trainable_params", "total_params", "adapter_macs", "total_macs",
        "published_id", "published_metric", "published_value", "published_selection", "published_source",
        "selected_on", "published_practice", "runs", "status",
    ]  # fmt: skip
    full, no_fusion, frozen = (read_run(table_root / name, SEEDS).scores for name in ("full", "no_fusion", "frozen"))
    expected = interval(no_fusion, limits=(0, 1))
    assert lines[1]["metric"] == "accuracy"
    assert float(lines[1]["mean"]) == pytest.approx(expected.mean)
    assert float(lines[1]["low"]) == pytest.approx(expected.low, rel=1e-6)
    test = paired_test(frozen, full)
    assert float(lines[2]["difference"]) == pytest.approx(test.difference, rel=1e-6)
    assert float(lines[2]["p"]) == pytest.approx(test.p, rel=1e-6)
    assert lines[0]["difference"] == ""
    assert lines[0]["total_macs"] == "54000000"
    assert (lines[0]["published_value"], lines[0]["published_selection"]) == ("81.1", "test-selected")
    assert lines[0]["label"] == "LAVISH"
    assert lines[4]["label"] == "LAVISH, 50% | test"


def test_csv_has_the_mean_of_each_seed_and_simultaneous_intervals(table_root: Path, written: Path) -> None:
    lines = csv_lines(written)
    scores = {name: read_run(table_root / name, SEEDS).scores for name in ("full", "no_fusion", "frozen", "on_test")}
    assert [float(lines[1][f"seed{seed}"]) for seed in SEEDS] == pytest.approx(scores["no_fusion"].mean(axis=1))
    assert lines[-1]["seed0"] == ""
    # Three comparisons: a variant that is listed twice is one.
    test = paired_test(scores["frozen"], scores["full"], level=0.95 ** (1 / 3))
    ends = [float(lines[2][f"difference_simultaneous_{end}"]) for end in ("low", "high")]
    assert ends == pytest.approx([test.low, test.high], rel=1e-5)
    assert lines[0]["difference_simultaneous_low"] == ""


def test_the_note_of_a_measure_says_what_the_table_resolves(table_root: Path, written: Path) -> None:
    text = (written / "table_ablation.md").read_text()
    baseline = read_run(table_root / "full", SEEDS).scores
    others = [read_run(table_root / name, SEEDS).scores for name in ("no_fusion", "frozen", "on_test")]
    tests = [paired_test(scores, baseline) for scores in others]
    median = statistics.median(minimum_detectable_difference(test.components) for test in tests)
    seeds, clips, residual = (f"{100 * share:.0f} %" for share in interval(baseline).components.shares)
    assert (
        f"- Accuracy: a true difference of {100 * median:.1f} points to 'LAVISH' is found with 80 % power (median of 3 "
        "comparisons; two-sided test at 5 %, before Holm's correction). "
        f"Variance of the baseline's mean: seeds {seeds}, clips {clips}, residual {residual}.\n"
    ) in text
    ratios = [(paired_test(a, baseline, 0.95 ** (1 / 3)).high - t.difference) / (t.high - t.difference)
              for a, t in zip(others, tests, strict=True)]  # fmt: skip
    assert f"are in the CSV, {statistics.median(ratios):.1f} times as wide (median)" in text
    assert "Warning" not in text


def test_rows_whose_seeds_disagree_are_named(
    table_spec: dict[str, Any], make_run: Any, draw_scores: Any, tmp_path: Path
) -> None:
    failed, spread = draw_scores(1.6, 4), draw_scores(1.6, 5)
    failed[1] = 0.05  # beside 0.80 and 0.81: one training failed
    failed[2] = failed[0]
    failed[2, 0] = 1 - failed[2, 0]
    spread *= np.array([[1.0], [0.75], [0.4]])
    rows = table_spec["sections"][0]["rows"]
    rows[1]["runs"][TASK]["folder"] = str(make_run("failed", failed))
    rows[2]["runs"][TASK]["folder"] = str(make_run("spread", spread))
    del table_spec["sections"][1]
    write_table(table_spec, tmp_path / "table")
    assert (
        "Warning: seeds fall into two groups in 'no cross-modal attention' and have 80 % or more of the variance in "
        "'frozen backbone'; 95 % intervals of these rows may cover less, and their tests need more seeds."
    ) in (tmp_path / "table.md").read_text()


def test_a_csv_line_names_its_runs(table_root: Path, written: Path) -> None:
    for line in csv_lines(written)[:5]:
        runs = line["runs"].split(";")
        assert runs == [str(table_root / line["variant"] / f"seed{seed}") for seed in (0, 1, 2)]
        assert all((Path(run) / "record.json").is_file() for run in runs)


def test_a_variant_in_two_sections_is_one_comparison(table_root: Path, written: Path) -> None:
    lines = csv_lines(written)
    assert [line["variant"] for line in lines].count("frozen") == 2
    assert lines[2]["p_holm"] == lines[3]["p_holm"]
    baseline = read_run(table_root / "full", SEEDS).scores
    names = ("no_fusion", "frozen", "on_test")
    expected = holm([paired_test(read_run(table_root / name, SEEDS).scores, baseline).p for name in names])
    by_name = {line["variant"]: line for line in lines}
    assert [float(by_name[name]["p_holm"]) for name in names] == pytest.approx(expected, rel=1e-6)


def test_latex_is_one_escaped_tabular(written: Path) -> None:
    text = (written / "table_ablation.tex").read_text()
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    assert text.count("{") == text.count("}")
    assert text.index(r"\toprule") < text.index(r"\midrule") < text.index(r"\bottomrule")
    assert r"\textit{Selection \& more}" in text
    assert r"LAVISH, 50\% | test {\textdagger}" in text
    assert r"audio {\textrightarrow} visual" in text
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    columns = len(re.search(r"\\begin\{tabular\}\{(\w+)\}", text).group(1))  # type: ignore[union-attr]
    rows = [line for line in body.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert len(rows) == 7
    assert all(len(re.findall(r"(?<!\\)&", row)) == columns - 1 for row in rows)
    assert text.isascii()


def test_only_results_of_the_columns_are_read(table_spec: dict[str, Any], table_root: Path, tmp_path: Path) -> None:
    """A table of costs needs no trained run."""
    shutil.copytree(table_root, tmp_path / "runs", ignore=shutil.ignore_patterns("seed*"))
    for section in table_spec["sections"]:
        for row in section["rows"]:
            row["runs"][TASK]["folder"] = str(tmp_path / "runs" / row["variant"])
    table_spec["columns"] = ["adapter_gmacs", "trainable_params"]
    write_table(table_spec, tmp_path / "table")
    text = (tmp_path / "table.md").read_text()
    rows = markdown_rows(text)
    assert rows["Variant"] == ["Adapter GMACs", "Trainable params (M)"]
    assert rows["LAVISH"] == ["0.00300", "0.170"]
    assert "seed" not in text
    assert "Sources" not in text


def test_measured_columns(table_spec: dict[str, Any], tmp_path: Path) -> None:
    table_spec["columns"] = ["step_time", "peak_memory"]
    write_table(table_spec, tmp_path / "table")
    text = (tmp_path / "table.md").read_text()
    # The median and the largest of the three seeds.
    assert markdown_rows(text)["LAVISH"] == ["41.0", "3.00"]
    assert "measured during the trainings of this table on cpu" in text
    line = csv_lines(tmp_path, "table")[0]
    assert (line["step_milliseconds_median"], line["peak_memory_gibibytes"]) == ("41.0", "3.0")


def test_throughput_and_size_of_the_adapter(table_spec: dict[str, Any], tmp_path: Path) -> None:
    table_spec["columns"] = ["throughput", "adapter_size"]
    write_table(table_spec, tmp_path / "table")
    text = (tmp_path / "table.md").read_text()
    assert markdown_rows(text)["LAVISH"] == ["195", "1.23"]  # 8 clips in the median of 41 ms
    assert "Throughput is the clips of a full optimizer step" in text and "The adapter file holds all" in text
    line = csv_lines(tmp_path, "table")[0]
    assert float(line["clips_per_second"]) == pytest.approx(8 / 0.041)
    assert line["adapter_megabytes"] == "1.234567"


def test_records_without_size_and_batch(table_spec: dict[str, Any], make_run: Any, tmp_path: Path) -> None:
    run = make_run("full", [[0.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    for path in run.glob("seed*/record.json"):
        old = json.loads(path.read_text())
        path.write_text(json.dumps({key: old[key] for key in old if key not in ("units_per_step", "checkpoint_bytes")}))
    row = {"variant": "full", "label": "LAVISH", "task": TASK, "runs": {TASK: {"folder": str(run)}}}
    table_spec |= {"sections": [{"title": "One", "rows": [row]}], "columns": ["throughput", "adapter_size"]}
    write_table(table_spec, tmp_path / "table")
    assert markdown_rows((tmp_path / "table.md").read_text())["LAVISH"] == ["not measured"] * 2


def test_memory_that_was_not_measured(table_spec: dict[str, Any], make_run: Any, tmp_path: Path) -> None:
    run = make_run("full", [[0.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    for seed in (0, 1, 2):
        path = run / f"seed{seed}" / "record.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"peak_memory_bytes": None}))
    table_spec["sections"] = [
        {
            "title": "One",
            "rows": [{"variant": "full", "label": "LAVISH", "task": TASK, "runs": {TASK: {"folder": str(run)}}}],
        }
    ]
    table_spec["columns"] = ["peak_memory"]
    write_table(table_spec, tmp_path / "table")
    assert markdown_rows((tmp_path / "table.md").read_text())["LAVISH"] == ["not measured"]


def test_notes_with_one_seed(table_spec: dict[str, Any], tmp_path: Path) -> None:
    table_spec["seeds"] = [1]
    write_table(table_spec, tmp_path / "table")
    text = (tmp_path / "table.md").read_text()
    assert "One seed (1), 80 test clips" in text
    assert "one seed: two trainings compared" in text
    assert "±" not in text
    assert "power" not in text
    line = csv_lines(tmp_path, "table")[0]
    assert line["std"] == ""
    assert line["seed1"] == line["mean"]


def test_metrics_are_printed_without_a_result_of_the_baseline(table_spec: dict[str, Any], tmp_path: Path) -> None:
    table_spec["sections"][0]["rows"][0]["runs"][TASK]["folder"] = str(tmp_path / "nowhere")
    write_table(table_spec, tmp_path / "table")
    rows = markdown_rows((tmp_path / "table.md").read_text())
    assert rows["frozen backbone"][2] == "not compared: baseline not run: seed0/record.json is missing"
    assert re.match(r"\d", rows["frozen backbone"][0])
    assert rows["LAVISH"][0] == "not run: seed0/record.json is missing"


def test_other_test_clips_are_not_compared(table_spec: dict[str, Any], make_run: Any, tmp_path: Path) -> None:
    table_spec["sections"][0]["rows"][1]["runs"][TASK]["folder"] = str(make_run("other", [[0.0, 1.0, 1.0]] * 3))
    write_table(table_spec, tmp_path / "table")
    text = (tmp_path / "table.md").read_text()
    assert markdown_rows(text)["no cross-modal attention"][2] == "not compared: other test clips than the baseline"
    assert "3 or 80 test clips" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": ["metric", "diference"]}, "unknown column 'diference' .did you mean 'difference'"),
        ({"baseline": "fulll"}, "key 'baseline': no row has the variant 'fulll'"),
        ({"titel": "x"}, "unknown key 'titel' .did you mean 'title'"),
        ({"seeds": []}, "key 'seeds'"),
    ],
)
def test_invalid_tables_are_named(
    table_spec: dict[str, Any], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(LavishError, match=f"(?s)table 'ablation'.*{message}"):
        write_table(table_spec | change, tmp_path / "table")
    assert not list(tmp_path.glob("table*"))


def test_a_variant_with_two_runs_is_an_error(table_spec: dict[str, Any], tmp_path: Path) -> None:
    table_spec["sections"][1]["rows"][0]["runs"][TASK]["folder"] = str(tmp_path)
    with pytest.raises(LavishError, match="variant 'frozen' has two runs"):
        write_table(table_spec, tmp_path / "table")


def test_a_run_with_another_selection_than_its_row_is_an_error(table_spec: dict[str, Any], tmp_path: Path) -> None:
    table_spec["sections"][0]["rows"][1]["runs"][TASK]["select_on"] = "test"
    with pytest.raises(
        LavishError, match="no_fusion: the record's key 'selected_on' is 'val', but the table says 'test'"
    ):
        write_table(table_spec, tmp_path / "table")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.17, "0.170"), (0.00299, "0.00299"), (11.29, "11.29"), (216.9, "216.9"), (238.80861, "238.8"),
     (12345.6, "12346"), (1.5, "1.500")],
)  # fmt: skip
def test_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0361, "+3.6"), (-0.0361, "−3.6"), (-0.0001, "0.0"), (0.0004, "0.0"), (0, "0.0")]
)
def test_points(value: float, text: str) -> None:
    assert change(value, Measure("accuracy")) == text


@pytest.mark.parametrize(("p", "text"), [(0.0004, "< 0.001"), (0.0123, "0.012"), (0.66, "0.66"), (1, "1.00")])
def test_p_values(p: float, text: str) -> None:
    assert p_value(p) == text


def test_ids_of_published_numbers_are_valid() -> None:
    lines = list(csv.DictReader(io.StringIO(PUBLISHED.read_text(encoding="utf-8"))))
    ids = [line["id"] for line in lines]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in ids)
    for line in lines:
        assert None not in line
        assert all(line[key] for key in ("table", "method", "encoders", "metric", "value", "source"))
        assert all(math.isfinite(float(part)) for part in line["value"].split("-"))


def test_published_numbers_agree_with_the_sources(shared: Path) -> None:
    source = list(csv.DictReader((shared / "facts" / "published.csv").read_text(encoding="utf-8").splitlines()))
    ours = list(csv.DictReader(PUBLISHED.read_text(encoding="utf-8").splitlines()))
    # Counts that the collection only states beside a method's accuracy are lines of ours.
    ours = [line for line in ours if line["metric"] != "trainable parameters (M)"]
    assert len(ours) == len(source)
    for line, expected in zip(ours, source, strict=True):
        # References within the collection are excluded.
        expected["source"] = expected["source"].removesuffix(": see methods.md")
        del line["id"]
        assert line == expected


def test_the_csv_of_a_table_of_costs_has_the_order_of_its_columns(table_spec: dict[str, Any], tmp_path: Path) -> None:
    table_spec["columns"] = [
        "backbone", "latents", "direction", "position", "trainable_params", "total_params", "adapter_gmacs",
        "total_gmacs", "adapter_gmacs_without_norms",
    ]  # fmt: skip
    row = table_spec["sections"][0]["rows"][0]
    row["runs"][TASK]["settings"] = {"backbone": "vit", "latents": None, "direction": "none", "position": "both"}
    write_table(table_spec, tmp_path / "table")
    line = csv_lines(tmp_path, "table")[0]
    assert list(line) == [
        "configuration", "backbone", "latents", "direction", "position", "trainable_params", "total_params",
        "adapter_macs", "total_macs", "adapter_macs_without_norms", "section", "variant", "cost", "status",
    ]  # fmt: skip
    assert (line["configuration"], line["backbone"], line["latents"]) == ("LAVISH", "vit", "")
    assert int(line["adapter_macs"]) - int(line["adapter_macs_without_norms"]) == 1
    assert line["cost"] == f"{row['runs'][TASK]['folder']}/cost.json"
    text = (tmp_path / "table.md").read_text()
    assert markdown_rows(text)["LAVISH"][:4] == ["vit", "–", "none", "both"]
    assert "'Without norms' counts only the multiply-adds of matrix products and convolutions" in text


def test_rows_that_replicate_published_practice_are_marked(table_spec: dict[str, Any], tmp_path: Path) -> None:
    rows = table_spec["sections"][1]["rows"]
    rows[1]["runs"][TASK]["deviations"] = ["the gate is normalised away"]
    write_table(table_spec, tmp_path / "table")
    text = (tmp_path / "table.md").read_text()
    assert r"LAVISH, 50% \| test †‡" in markdown_rows(text)
    assert "‡ Replicates published code where it deviates from its paper: the gate is normalised away ('LAV" in text
    assert "‡" not in (tmp_path / "table.tex").read_text()
    lines = csv_lines(tmp_path, "table")
    assert [line["published_practice"] for line in lines].count("the gate is normalised away") == 1


def test_sizes_and_learning_rates_are_printed_and_deviations_are_named(
    table_spec: dict[str, Any], tmp_path: Path
) -> None:
    table_spec["columns"] = ["size", "learning_rate"]
    settings = {"size": "reduction 8", "learning_rate": 0.008, "learning_rate_head": 0.003}
    rows = table_spec["sections"][0]["rows"]
    rows[0]["runs"][TASK]["settings"] = settings
    rows[1]["runs"][TASK]["settings"] = {**settings, "size": "rank 12", "learning_rate": 0.0005}
    rows[2]["runs"][TASK]["settings"] = {**settings, "size": None, "learning_rate": None}
    del table_spec["sections"][1]
    table_spec["figures"] = {}
    write_table(table_spec, tmp_path / "table")
    text = (tmp_path / "table.md").read_text()
    printed = markdown_rows(text)
    assert printed["LAVISH"] == ["reduction 8", "0.008"]
    assert printed["no cross-modal attention"] == ["rank 12", "0.0005"]
    assert printed["frozen backbone"] == ["–", "–"]
    assert "the head's is 0.003 in every row" in text
    assert "rows with another rate than the baseline's 0.008: 'no cross-modal attention'" in text
    rows[2]["runs"][TASK]["settings"]["learning_rate_head"] = 0.01
    write_table(table_spec, tmp_path / "table")
    assert "the head's is 0.003, except in 'frozen backbone' (0.01)" in (tmp_path / "table.md").read_text()
