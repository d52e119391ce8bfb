"""The report: tables, figures and the records of their trainings."""

from __future__ import annotations

import zipfile

from harness import Workflow


def test_the_report_contains_tables_and_the_records_of_their_trainings(edited: Workflow) -> None:
    result = edited.call("--report", "report.zip")
    assert result.returncode == 0, result.stdout
    with zipfile.ZipFile(edited.folder / "report.zip") as report:
        names = [name.rpartition("/")[2] for name in report.namelist()]
        page = report.read("report/report.html").decode()
    assert {"table_small.md", "table_small.csv", "small_figure.svg"} <= set(names)
    assert names.count("record.json") == names.count("metrics.json") == 4 * 2
    assert names.count("cost.json") == 4
    runs = [path.name for path in (edited.folder / "results/runs").iterdir() if path.is_dir()]
    assert len(runs) == 4
    for run in runs:
        # The page lists a run's files under the name of the run, which the table's CSV gives for each row.
        assert f'"{run}": ["results/runs/{run}/cost.json"' in page
        assert f'"results/runs/{run}/seed1/record.json"' in page
