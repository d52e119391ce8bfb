"""The results page in a browser: tables, filters, plots, runs, and who can use it."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lavish.reporting.tables import write_table

TABLE = "#table-methods table.results"
DESKTOP = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@pytest.fixture
def page(open_page: Callable[..., Any]) -> Any:
    return open_page(**DESKTOP)


def labels(page: Any) -> list[str]:
    return page.locator(f"{TABLE} tbody th").all_inner_texts()


def headings(page: Any) -> list[str]:
    return [text.strip() for text in page.locator(f"{TABLE} thead th").all_inner_texts()]


def head(page: Any, text: str) -> Any:
    return page.locator(f"{TABLE} thead th", has_text=text).first


def test_a_click_and_the_keyboard_sort(page: Any) -> None:
    assert labels(page)[0] == "LAVISH"
    head(page, "mIoU validation threshold (%), S4").click()
    assert labels(page)[0] == "CoLA"
    head(page, "mIoU validation threshold (%), S4").click()
    assert labels(page)[-1] == "CoLA"
    button = head(page, "Accuracy").get_by_role("button")
    button.focus()
    page.keyboard.press("Enter")
    assert head(page, "Accuracy").get_attribute("aria-sort") == "descending"
    numbers = [float(text.split(" ±")[0]) for text in page.locator(f"{TABLE} tbody td:nth-child(3) a").all_inner_texts()
               if "±" in text]  # fmt: skip
    assert numbers == sorted(numbers, reverse=True) and len(numbers) == 4


def test_filters_hide_rows_and_columns_of_all_tables(page: Any) -> None:
    page.get_by_label("Method", exact=True).select_option("each stream alone")
    assert labels(page) == ["LoRA", "Not run"]
    assert page.locator("#table-cost").is_hidden()
    assert page.locator(".filters output").inner_text() == "2 rows"
    page.get_by_label("Backbone").select_option("swin")
    assert labels(page) == ["LoRA"]
    page.get_by_role("button", name="Show all").click()
    page.wait_for_function("document.querySelector('.filters output').textContent === '7 rows'")
    assert len(labels(page)) == 5
    page.get_by_label("Task", exact=True).select_option(label="S4")
    assert not [text for text in headings(page) if "AVE" in text]
    assert "mIoU validation threshold (%), S4" in headings(page)
    page.get_by_label("Task", exact=True).select_option(label="AVE")
    assert not [text for text in headings(page) if "S4" in text]


def test_the_budget_is_compared_with_the_baseline(page: Any) -> None:
    budgets = page.get_by_label("Budget").locator("option").all_inner_texts()
    assert budgets == ["all", "as the baseline (±10 %)", "not known"]
    page.get_by_label("Budget").select_option("not known")
    assert labels(page) == ["Not run"]


def test_columns_can_be_shown_and_hidden_with_the_keyboard(page: Any) -> None:
    assert "Total GMACs, AVE" not in headings(page)
    page.locator("#table-methods").get_by_role("button", name="Columns").focus()
    page.keyboard.press("Enter")
    page.locator(".dt-button-collection").get_by_role("button", name="Total GMACs, AVE").focus()
    page.keyboard.press("Enter")
    assert "Total GMACs, AVE" in headings(page)
    page.locator(".dt-button-collection").get_by_role("button", name="Section").click()
    page.keyboard.press("Escape")
    assert "Section" not in headings(page)


def test_search_finds_rows(page: Any) -> None:
    page.locator("#table-methods").get_by_label("Search", exact=True).fill("cola")
    assert labels(page) == ["CoLA"]


def test_cells_are_those_of_the_markdown(page: Any, specs: list[dict[str, Any]], tmp_path: Path) -> None:
    write_table(specs[0], tmp_path / "table")
    lines = [line.split("|")[1:-1] for line in (tmp_path / "table.md").read_text().splitlines() if line[:2] == "| "]
    printed = {cell.strip() for line in lines for cell in line}
    cells = page.evaluate(
        """table => [...document.querySelectorAll(`${table} tbody td:not(:nth-child(2))`)].map(cell => {
            const shown = cell.cloneNode(true);
            shown.querySelectorAll("abbr").forEach(mark => mark.remove());
            return shown.textContent.trim();
        })""",
        TABLE,
    )
    assert len(cells) > 20
    assert not [cell for cell in cells if cell not in printed]


def test_missing_results_are_said_in_cells(page: Any) -> None:
    row = page.locator(f"{TABLE} tbody tr", has_text="Not run")
    assert row.get_by_text("not run: seed0/record.json is missing").count() >= 2


def test_text_from_files_is_no_markup(page: Any) -> None:
    assert "Frozen <b>backbone</b>" in labels(page)


def test_bars_show_intervals(page: Any) -> None:
    row = page.locator(f"{TABLE} tbody tr", has_text="CoLA")
    cell = row.locator("td[data-low]").first
    assert float(cell.get_attribute("data-low")) < float(cell.get_attribute("data-order"))
    bar = cell.locator(".bar").bounding_box()
    assert bar["width"] > 40


def test_significant_differences_are_marked(page: Any) -> None:
    row = page.locator(f"{TABLE} tbody tr", has_text="CoLA")
    assert row.locator("abbr").all_inner_texts() == ["**"]
    assert row.locator("abbr").get_attribute("title") == "significant: corrected p < 0.01"


def test_two_measures_are_plotted_with_the_front(page: Any) -> None:
    plots = page.locator("#table-methods .plots")
    plots.locator("summary").click()
    plots.get_by_label("Across").select_option(label="Adapter GMACs, AVE")
    plots.get_by_label("Up").select_option(label="mIoU validation threshold (%), S4")
    page.wait_for_selector("#table-methods .plot svg[viewBox]")
    points = page.locator("#table-methods .plot .mark-symbol.role-mark path")
    page.wait_for_function("document.querySelectorAll('#table-methods .plot .mark-symbol.role-mark path').length === 4")
    # LAVISH costs least, CoLA is best; the others cost more than CoLA.
    described = [point.get_attribute("aria-label") for point in points.all()]
    assert sorted(text.split(":")[0] for text in described if "on the Pareto front" in text) == ["CoLA", "LAVISH"]
    assert page.locator("#table-methods .plot .mark-rule.role-mark line").count() == 4
    assert plots.locator(".said").inner_text().startswith("Plotted: the 4 rows")
    page.get_by_label("Method", exact=True).select_option("each stream alone")
    page.wait_for_function("document.querySelectorAll('#table-methods .plot .mark-symbol.role-mark path').length === 1")


@pytest.mark.parametrize(("kind", "lines"), [("learning curves", 4), ("searches", 4)])
def test_curves_of_the_shown_rows_are_plotted(page: Any, kind: str, lines: int) -> None:
    plots = page.locator("#table-methods .plots")
    plots.locator("summary").click()
    plots.get_by_label("Plot", exact=True).select_option(label=kind)
    page.wait_for_function(
        f"document.querySelectorAll('#table-methods .plot .mark-line.role-mark path').length === {lines}"
    )


def test_a_cell_opens_its_run(page: Any) -> None:
    link = page.locator(f"{TABLE} tbody tr", has_text="CoLA").locator("td a").nth(2)
    link.click()
    dialog = page.get_by_role("dialog")
    assert dialog.get_by_role("heading", level=2).inner_text() == "CoLA"
    command = dialog.locator("pre").first.inner_text()
    assert command.startswith("snakemake --cores all ")
    assert "segmentation_s4-cola/seed2/test/metrics.json --forcerun train --configfile config/smoke.yaml" in command
    assert dialog.get_by_role("row").count() >= 4
    page.wait_for_function("document.querySelectorAll('dialog .plot svg').length === 2")
    for summary, text in (("Configuration", "method: cola"), ("Command of the first training", "--seed 0")):
        dialog.get_by_text(summary, exact=True).click()
        assert text in dialog.locator("details[open]").last.inner_text() or text in dialog.inner_text()
    address = page.evaluate("location.hash")
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert page.evaluate("location.hash") == ""
    assert page.evaluate("document.activeElement.getAttribute('href')") == address


def test_the_address_of_a_run_opens_it(open_page: Callable[..., Any]) -> None:
    page = open_page("#run-event_localization-lora", **DESKTOP)
    assert page.get_by_role("dialog").get_by_role("heading", level=2).inner_text() == "LoRA"


def test_example_masks_have_descriptions(page: Any) -> None:
    examples = page.locator("#table-methods").locator("summary", has_text="Example masks, S4")
    examples.click()
    assert page.get_by_role("img", name="Mask predicted by CoLA, clip second").is_visible()
    assert page.locator("#table-methods .examples").get_by_text("not annotated").count() == 1
    widths = page.evaluate("[...document.querySelectorAll('#table-methods .examples img')].map(i => i.naturalWidth)")
    assert widths and min(widths) == 16


def test_the_best_row_of_s4_is_found_at_once(page: Any, specs: list[dict[str, Any]], tmp_path: Path) -> None:
    """Which is best on S4, whether it is significantly better than LAVISH, what it costs, and what repeats it."""
    write_table(specs[0], tmp_path / "table")
    [line] = [line for line in csv.DictReader((tmp_path / "table.csv").open()) if line["variant"] == "cola"]
    row = page.locator("#best tbody tr", has_text="S4")
    assert row.bounding_box()["y"] < 900
    best, rows, value, verdict, trainable, macs = row.locator("th, td").all_inner_texts()[1:7]
    assert (best, rows, trainable, macs) == ("CoLA", "4 of 5", "0.170", "0.00100")
    prefix = "segmentation_s4_mIoU_validation_threshold_"
    assert value.startswith(f"{100 * float(line[f'{prefix}mean']):.1f} ±")
    difference = verdict.removeprefix("significantly better than LAVISH: ").split(" **")[0]
    assert f"| {difference} |" in re.sub(" +", " ", (tmp_path / "table.md").read_text())
    row.get_by_text("Runs and command").click()
    assert "segmentation_s4-cola" in page.get_by_role("dialog").locator("pre").first.inner_text()
    ave = page.locator("#best tbody tr", has_text="AVE: Accuracy").locator("td").nth(3).inner_text()
    assert ave.startswith(("no row is better than LAVISH", "not significantly better than LAVISH"))


@pytest.mark.parametrize("options", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(open_page: Callable[..., Any], options: dict[str, Any], scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = open_page(color_scheme=scheme, **options)
    for details in page.locator("#table-methods details summary").all():
        details.click()
    page.wait_for_selector("#table-methods .plot svg")

    def violations() -> list[str]:
        found = axe.run(page).response["violations"]
        return [f"{one['id']} ({one['impact']}): {one['nodes'][0]['html']}" for one in found]

    assert not violations()
    page.evaluate("location.hash = 'run-segmentation_s4-cola'")
    page.wait_for_function("document.querySelectorAll('dialog .plot svg').length === 2")
    assert not violations()


def test_a_phone_scrolls_tables_and_not_the_page(open_page: Callable[..., Any]) -> None:
    page = open_page(**PHONE)
    for details in page.locator("details summary").all():
        details.click()
    page.wait_for_selector("#table-methods .plot svg")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert "Section" not in headings(page)
    frame = page.locator("#table-methods .scroll").first
    before = page.locator(f"{TABLE} tbody th").first.bounding_box()["x"]
    frame.evaluate("element => { element.scrollLeft = 200 }")
    assert page.locator(f"{TABLE} tbody th").first.bounding_box()["x"] == before
