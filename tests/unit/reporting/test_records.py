"""Reading of results, and the message for each invalid file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lavish.errors import LavishError
from lavish.reporting.records import MissingResult, read_cost, read_evaluation, read_record, read_run, unit_order

SCORES = np.array([[0.0, 0.5, 1.0], [1.0, 0.5, 0.0], [1.0, 1.0, 0.25]])


@pytest.fixture
def run(make_run: Any) -> Path:
    return make_run("run", SCORES)


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_all_seeds_of_a_run_are_read(run: Path) -> None:
    result = read_run(run, [0, 1, 2])
    np.testing.assert_array_equal(result.scores, SCORES)
    assert result.seeds == (0, 1, 2)
    assert result.clips == ("-clip0", "-clip1", "-clip2")
    assert result.metric == "accuracy"
    assert [record.seed for record in result.records] == [0, 1, 2]


def test_some_seeds_of_a_run_are_read(run: Path) -> None:
    np.testing.assert_array_equal(read_run(run, [2, 0]).scores, SCORES[[2, 0]])


def test_units_are_aligned_by_clip(run: Path, make_run: Any) -> None:
    make_run.evaluation(run / "seed1", [0.0, 1.0, 0.5], ["-clip2", "-clip0", "-clip1"])
    np.testing.assert_array_equal(read_run(run, [0, 1, 2]).scores, SCORES)


def test_unit_order() -> None:
    assert unit_order(["a", "b", "c"], ["c", "a", "b"]).tolist() == [1, 2, 0]  # type: ignore[union-attr]
    assert unit_order(["a", "b"], ["a", "c"]) is None
    assert unit_order(["a", "b"], ["a", "b", "c"]) is None
    # Units that share a clip are only identified by their order.
    assert unit_order(["a", "a", "b"], ["a", "a", "b"]).tolist() == [0, 1, 2]  # type: ignore[union-attr]
    assert unit_order(["a", "a", "b"], ["b", "a", "a"]) is None


def test_evaluation_keeps_further_metrics(run: Path) -> None:
    evaluation = read_evaluation(run / "seed0")
    assert evaluation.value == 0.5
    assert evaluation.measures == {"loss": 0.5}


def test_cost_keeps_further_counts(run: Path) -> None:
    cost = read_cost(run)
    assert (cost.trainable_params, cost.adapter_macs, cost.total_macs) == (170_000, 3_000_000, 54_000_000)
    assert cost.others == {"adapter_macs_without_norms": 2_999_999}


def test_record_keeps_the_whole_file(run: Path) -> None:
    path = run / "seed0" / "record.json"
    change(path, git={"commit": "abc"}, peak_memory_bytes=None)
    record = read_record(run / "seed0")
    assert record.values["git"] == {"commit": "abc"}
    assert record.peak_memory_bytes is None
    assert (record.best_epoch, record.step_seconds_median, record.device) == (2, 0.04, "cpu")


@pytest.mark.parametrize(
    "name", ["seed1/record.json", "seed1/test/metrics.json", "seed1/test/predictions.parquet", "cost.json"]
)
def test_a_missing_file_is_named(run: Path, name: str) -> None:
    (run / name).unlink()
    with pytest.raises(MissingResult, match=f"{run / name} is missing") as caught:
        read_cost(run) if name == "cost.json" else read_run(run, [0, 1, 2])
    assert caught.value.short == name


@pytest.mark.parametrize("text", ["{", "[]", '"\ud83d"', ""])
def test_a_broken_json_file_is_named(run: Path, text: str) -> None:
    path = run / "cost.json"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(LavishError, match=r"cost.json: .*run its job again"):
        read_cost(run)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("record.json", {"best_epoch": "2"}, "key 'best_epoch' is '2', not of type int"),
        ("record.json", {"best_epoch": True}, "key 'best_epoch' is True, not of type int"),
        ("record.json", {"seed": 7}, "key 'seed' is 7: the folder holds another run"),
        ("record.json", {"selected_on": "test"}, "key 'selected_on' is 'test', but 'val' in seed0"),
        ("test/metrics.json", {"metric": "miou"}, "key 'metric' is 'miou', but 'accuracy' in seed0"),
        ("test/metrics.json", {"value": 0.6}, "key 'value' is 0.6, but the scores .* have the mean 0.5"),
        ("test/metrics.json", {"value": None}, "key 'value' is None, not of type float"),
    ],
)
def test_a_wrong_value_is_named(run: Path, name: str, values: dict[str, Any], message: str) -> None:
    change(run / "seed1" / name, **values)
    with pytest.raises(LavishError, match=f"seed1.*{message}"):
        read_run(run, [0, 1, 2])


def test_a_missing_key_is_named(run: Path) -> None:
    path = run / "cost.json"
    values = json.loads(path.read_text())
    del values["total_macs"]
    path.write_text(json.dumps(values))
    with pytest.raises(LavishError, match=r"cost.json: key 'total_macs' is missing"):
        read_cost(run)


def test_other_clips_in_one_seed_are_an_error(run: Path, make_run: Any) -> None:
    make_run.evaluation(run / "seed2", [0.0, 0.5, 1.0], ["-clip0", "-clip1", "other"])
    with pytest.raises(LavishError, match=r"seed2/test/predictions.parquet: other clips than in seed0"):
        read_run(run, [0, 1, 2])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"clip": ["a", "b"], "points": [0.0, 1.0]}, "no table with the columns 'clip' and 'score'"),
        ({"clip": ["a"], "score": [0.5]}, "1 rows, but statistics need at least two"),
        ({"clip": ["a", "b"], "score": [0.5, float("nan")]}, "non-finite entries"),
        ({"clip": ["a", None], "score": [0.0, 1.0]}, "has empty or non-finite entries"),
        ({"clip": ["a", "b"], "score": [0.0, None]}, "has empty or non-finite entries"),
        ({"clip": ["a", "b"], "score": ["x", "y"]}, "no table with the columns"),
    ],
)
def test_wrong_predictions_are_named(run: Path, table: dict[str, list[Any]], message: str) -> None:
    pq.write_table(pa.table(table), run / "seed0" / "test" / "predictions.parquet")
    with pytest.raises(LavishError, match=f"predictions.parquet: .*{message}"):
        read_evaluation(run / "seed0")


def test_a_truncated_predictions_file_is_named(run: Path) -> None:
    path = run / "seed0" / "test" / "predictions.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(LavishError, match=r"predictions.parquet: no table"):
        read_evaluation(run / "seed0")


def test_names_of_clips_that_are_not_text_are_an_error(run: Path) -> None:
    path = run / "seed0" / "test" / "predictions.parquet"
    table = pa.table({"clip": [f"-clip{index}" for index in range(3)], "score": [0.0, 0.5, 1.0]})
    pq.write_table(table, path, compression="none", use_dictionary=False, write_statistics=False)
    path.write_bytes(path.read_bytes().replace(b"-clip1", b"-clip\xff", 1))
    with pytest.raises(LavishError, match=r"predictions\.parquet: no table"):
        read_evaluation(run / "seed0")


@pytest.mark.parametrize("name", ["record.json", "test/metrics.json"])
def test_weights_without_a_checksum_are_named(run: Path, name: str) -> None:
    change(run / "seed1" / name, **{"weights": ["x"]} if name == "record.json" else {"origin": {"weights": "x"}})
    with pytest.raises(LavishError, match=r"seed1: key 'weights' holds no checksum"):
        read_run(run, [0, 1])


def test_a_measure_whose_name_is_no_text_is_named(run: Path) -> None:
    change(run / "seed0/test/metrics.json", definitions={"loss": {"name": 1, "limits": [0, 1]}})
    with pytest.raises(LavishError, match=r"metrics\.json: key 'definitions'"):
        read_evaluation(run / "seed0")
