"""What an evaluation writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet

from lavish.config.measures import Measure
from lavish.training.evaluation import Evaluation, write_evaluation

METRIC = Measure("accuracy")
DISTANCE = Measure("distance", "m", (0.0, None), higher_is_better=False)
RESULT = Evaluation(
    METRIC,
    0.5,
    ["-a", "ü#2", ""],
    {
        "score": np.array([0.0, 0.5, 1.0]),
        "labels": np.array([[0, 1], [2, 3], [4, 5]])[:, ::-1],
        "accuracy_audio": np.array([np.nan, 1.0, 0.25], np.float32),
        "kind": np.array(["audio", "visual", "both"]),
        "right": np.array([True, False, True]),
        "_curves": np.zeros((3, 2, 2)),
    },
    {"accuracy_audio": 0.625, "accuracy_visual": float("nan")},
    (METRIC, DISTANCE),
)


def test_columns_come_back_as_they_were(tmp_path: Path) -> None:
    write_evaluation(RESULT, tmp_path, {"seed": 1})
    table = pyarrow.parquet.read_table(tmp_path / "predictions.parquet").to_pydict()
    assert list(table) == ["clip", "score", "labels", "accuracy_audio", "kind", "right"], (
        "what begins with _ is not kept"
    )
    assert table["clip"] == RESULT.clips and table["kind"] == ["audio", "visual", "both"]
    assert table["right"] == [1, 0, 1]
    assert table["labels"] == [[1, 0], [3, 2], [5, 4]]
    assert np.isnan(table["accuracy_audio"][0]) and table["accuracy_audio"][1:] == [1.0, 0.25]


def test_a_measure_that_nothing_counts_for_is_left_out(tmp_path: Path) -> None:
    write_evaluation(RESULT, tmp_path, {"seed": 1})
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["measures"] == {"accuracy_audio": 0.625}
    assert (metrics["metric"], metrics["value"], metrics["units"]) == ("accuracy", 0.5, 3)


def test_what_each_measure_is_stands_beside_its_number(tmp_path: Path) -> None:
    write_evaluation(RESULT, tmp_path, {"seed": 1})
    definitions = json.loads((tmp_path / "metrics.json").read_text())["definitions"]
    assert list(definitions) == ["accuracy", "distance"]
    assert definitions["distance"] == {
        "name": "distance", "unit": "m", "limits": [0.0, None], "higher_is_better": False, "threshold": "none",
    }  # fmt: skip


def test_writing_does_not_import_pandas(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.unit.training.test_evaluation import *;"
        f"write_evaluation(RESULT, Path({str(tmp_path)!r}), {{}}); assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
