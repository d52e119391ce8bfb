"""The job of the results page: what it reads, and the command that it is given."""

from __future__ import annotations

from pathlib import Path

from harness import Workflow
from test_graph import Graph


def test_the_page_is_made_of_all_tables_and_part_of_everything(finished: Workflow) -> None:
    assert (finished.folder / "results/site/index.html").is_file()
    jobs = [line.split()[0] for line in (finished.folder / "jobs.txt").read_text().splitlines()]
    assert jobs.count("site") == 1


def test_the_page_waits_for_the_results_of_every_table(finished: Workflow) -> None:
    graph = Graph(finished, "results/site")
    [site] = graph.jobs("site")
    needed = graph.ancestors(site)
    assert set(graph.jobs("evaluate")) | set(graph.jobs("cost")) | set(graph.jobs("train")) <= needed
    assert not graph.jobs("table") and not graph.jobs("figure")


def test_example_masks_of_figures_are_made_for_the_page(tmp_path: Path) -> None:
    graph = Graph(Workflow.with_default_configuration(tmp_path), "results/site")
    [site] = graph.jobs("site")
    assert set(graph.jobs("examples")) <= graph.ancestors(site)
    assert len(graph.jobs("examples")) > 4


def test_the_page_knows_how_its_runs_are_planned(edited: Workflow) -> None:
    more = edited.folder / "more.yaml"
    more.write_text("seeds: [0, 1]\n")
    shown = edited.call(
        "results/site", "--dry-run", "--printshellcmds", "--forcerun", "site", "--config", "device=cpu",
        "--configfile", str(more),
    ).stdout  # fmt: skip
    assert "lavish site --table .snakemake/lavish/table_small-" in shown
    assert "--invocation='--configfile more.yaml --config device=cpu'" in shown
