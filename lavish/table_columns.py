"""The columns a table can have, each in one place: what it reads, its headings, its cells, its CSV fields, its note.

A new column is one entry of :data:`COLUMNS`. Cells hold plain text; tables.py turns it into markdown or LaTeX.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lavish.comparison import LEVEL_TEXT, Comparison, Difference, Missing, PublishedNumber, Row
from lavish.records import Cost, RunResult, TrainingRecord

NOTHING = "–"
Value = str | int | float | None


@dataclass(frozen=True)
class Column:
    """One entry of a table's `columns`; it may print several columns.

    `headings` and `cells` have the same length. `fields` gives this column's part of a CSV line (None: empty). `note`
    explains the column in the caption.
    """

    reads: frozenset[str]
    headings: Callable[[Comparison], tuple[str, ...]]
    cells: Callable[[Row, PublishedMarks], tuple[str, ...]]
    fields: Callable[[Row], dict[str, Value]]
    note: Callable[[Comparison], str]


@dataclass(frozen=True)
class PublishedMarks:
    """Numbers of the footnotes that say where published values come from, in order of appearance."""

    numbers: Mapping[str, int]

    @classmethod
    def of(cls, comparison: Comparison) -> PublishedMarks:
        ids = dict.fromkeys(published.id for row in comparison.rows for published in row.spec.published)
        return cls({name: number for number, name in enumerate(ids, start=1)})


def percent(share: float, digits: int = 1) -> str:
    """Return a share as a percentage without its sign: 0.8132 -> '81.3'."""
    return f"{100 * share:.{digits}f}"


def points(difference: float) -> str:
    """Return a difference of shares in percentage points, with its sign: -0.004 -> '−0.4'."""
    text = f"{100 * difference:+.1f}".replace("-", "−")
    return text[1:] if float(text[1:]) == 0 else text


def significant(value: float, digits: int = 4) -> str:
    """Return a positive number with `digits` significant digits, one less below 1, and never in scientific notation.

    So 238.8, 11.29, 0.170 and 0.00299.
    """
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    return f"{value:.{max(0, digits - 1 - magnitude - (magnitude < 0))}f}"


def p_value(p: float) -> str:
    """Return a p-value with the digits that matter to a decision."""
    if p < 0.001:
        return "< 0.001"
    return f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def _metric_headings(comparison: Comparison) -> tuple[str, ...]:
    metric = comparison.metric
    return (f"{metric[0].upper()}{metric[1:]} (%)", f"{LEVEL_TEXT} interval")


def _metric_cells(row: Row, _: PublishedMarks) -> tuple[str, ...]:
    if row.interval is None:
        return (_reason(row.run), NOTHING)
    spread = "" if row.interval.spread is None else f" ± {percent(row.interval.spread)}"
    return (
        f"{percent(row.interval.mean)}{spread}",
        f"[{percent(row.interval.low)}, {percent(row.interval.high)}]",
    )


def _metric_fields(row: Row) -> dict[str, Value]:
    fields: dict[str, Value] = dict.fromkeys(("metric", "mean", "std", "low", "high"))
    if isinstance(row.run, RunResult) and row.interval is not None:
        result = row.interval
        fields |= {"metric": row.run.metric, "mean": result.mean, "std": result.spread}
        fields |= {"low": result.low, "high": result.high}
    return fields


def _metric_note(comparison: Comparison) -> str:
    seeds, units = comparison.spec.seeds, " or ".join(f"{count}" for count in comparison.units) or "no"
    listed = ", ".join(str(seed) for seed in seeds)
    if len(seeds) == 1:
        return (
            f"One seed ({listed}), {units} test clips. The intervals ({LEVEL_TEXT}, bootstrap over test clips) hold "
            "for this one training; how much another seed would differ is not known."
        )
    return (
        f"Mean ± standard deviation over {len(seeds)} seeds ({listed}), {units} test clips. The intervals "
        f"({LEVEL_TEXT}) come from a bootstrap over test clips and seeds, corrected for the number of seeds "
        "(variances of the two-way layout, Student's t)."
    )


def _difference_headings(_: Comparison) -> tuple[str, ...]:
    return ("Difference (points)", "p (Holm)")


def _difference_cells(row: Row, _: PublishedMarks) -> tuple[str, ...]:
    if row.is_baseline:
        return ("baseline", NOTHING)
    if not isinstance(row.difference, Difference):
        return (_reason(row.difference), NOTHING)
    test = row.difference.test
    return (
        f"{points(test.difference)} [{points(test.low)}, {points(test.high)}]",
        p_value(row.difference.p_holm),
    )


def _difference_fields(row: Row) -> dict[str, Value]:
    fields: dict[str, Value] = dict.fromkeys(("difference", "difference_low", "difference_high", "p", "p_holm"))
    if isinstance(row.difference, Difference):
        test = row.difference.test
        fields |= {"difference": test.difference, "difference_low": test.low, "difference_high": test.high}
        fields |= {"p": test.p, "p_holm": row.difference.p_holm}
    return fields


def _difference_note(comparison: Comparison) -> str:
    over = "test clips and seeds" if len(comparison.spec.seeds) > 1 else "test clips (one seed: two trainings compared)"
    count = comparison.comparisons
    return (
        f"Differences are to '{comparison.baseline.spec.label}', in percentage points with {LEVEL_TEXT} interval, "
        f"paired by test clip and seed. p: two-sided paired test over {over}, Holm-corrected for the "
        f"{count} comparison{'' if count == 1 else 's'} of this table (a variant listed twice is compared once); the "
        "intervals are not corrected."
    )


def _cost_column(heading: str, key: str, unit: float, note: str) -> Column:
    def count(row: Row) -> int | None:
        if not isinstance(row.cost, Cost):
            return None
        return row.cost.others[key] if key in row.cost.others else getattr(row.cost, key, None)

    def cells(row: Row, _: PublishedMarks) -> tuple[str, ...]:
        value = count(row)
        return (_reason(row.cost) if value is None else significant(value / unit),)

    return Column(
        reads=frozenset({"cost"}),
        headings=lambda _: (heading,),
        cells=cells,
        fields=lambda row: {key: count(row)},
        note=lambda _: note,
    )


def _setting_column(heading: str, key: str) -> Column:
    def cells(row: Row, _: PublishedMarks) -> tuple[str, ...]:
        value = row.spec.settings.get(key)
        return (NOTHING if value is None else str(value),)

    return Column(
        reads=frozenset(),
        headings=lambda _: (heading,),
        cells=cells,
        fields=lambda row: {key: row.spec.settings.get(key)},
        note=lambda _: "",
    )


def _measured_column(heading: str, key: str, measure: Callable[[tuple[TrainingRecord, ...]], float | None]) -> Column:
    def value(row: Row) -> float | None:
        return measure(row.run.records) if isinstance(row.run, RunResult) else None

    def cells(row: Row, _: PublishedMarks) -> tuple[str, ...]:
        if not isinstance(row.run, RunResult):
            return (_reason(row.run),)
        measured = value(row)
        return ("not measured" if measured is None else significant(measured, 3),)

    def note(comparison: Comparison) -> str:
        devices = sorted(
            {record.device for row in comparison.rows if isinstance(row.run, RunResult) for record in row.run.records}
        )
        return f"Step time and memory were measured while training on {', '.join(devices) or 'no device'}."

    return Column(
        reads=frozenset({"scores"}),
        headings=lambda _: (heading,),
        cells=cells,
        fields=lambda row: {key: value(row)},
        note=note,
    )


def _step_milliseconds(records: tuple[TrainingRecord, ...]) -> float:
    return 1000 * statistics.median(record.step_seconds_median for record in records)


def _peak_gibibytes(records: tuple[TrainingRecord, ...]) -> float | None:
    known = [record.peak_memory_bytes for record in records if record.peak_memory_bytes is not None]
    return max(known) / 2**30 if known else None


def published_source(published: PublishedNumber) -> str:
    """Return the footnote of a published number."""
    return f"{published.method}, {published.encoders}, {published.table}. Source: {published.source}."


def _published_cells(row: Row, marks: PublishedMarks) -> tuple[str, ...]:
    cells = [
        f"{published.metric} {published.value}{_selection(published)} [{marks.numbers[published.id]}]"
        for published in row.spec.published
    ]
    return ("; ".join(cells) or NOTHING,)


def _selection(published: PublishedNumber) -> str:
    """How the checkpoint of a published result was selected; costs have none."""
    return "" if "GFLOPs" in published.metric else f", {published.selection or 'selection not stated'}"


def _published_fields(row: Row) -> dict[str, Value]:
    keys = ("id", "metric", "value", "selection", "source")
    return {
        f"published_{key}": " | ".join(getattr(published, key) for published in row.spec.published) or None
        for key in keys
    }


def _reason(result: object) -> str:
    return result.reason if isinstance(result, Missing) else NOTHING


_PARAMETERS = "Trainable and total parameters in millions (M); total includes the frozen backbone and encoders."
_MULTIPLY_ADDS = (
    "Costs count each multiply-add once, for one clip at batch 1 (1 GMAC = 10⁹ multiply-adds): the adapters alone, "
    "and everything that runs for a clip; normalisation layers are counted as fvcore does."
)
_WITHOUT_NORMS = (
    "'Without norms' counts the multiply-adds of matrix products and convolutions alone, which is how the paper's 11 "
    "and 217 GFLOPs are made. The other columns count as fvcore does, with 5 for each element that passes a layer norm "
    "and 2 for a batch norm. Softmax, activations, additions and gates are in neither."
)
_CLASSIFIER = "'Classifier' has the parameters of the backbone's pretraining classifier that are part of the total."
_PICTURE = (
    "'One picture' has the multiply-adds of the backbone alone on one picture, its classifier included where it is "
    "counted, as fvcore counts them."
)

COLUMNS: dict[str, Column] = {
    "backbone": _setting_column("Backbone", "backbone"),
    "latents": _setting_column("Latent tokens", "latents"),
    "direction": _setting_column("Direction", "direction"),
    "position": _setting_column("Position", "position"),
    "metric": Column(frozenset({"scores"}), _metric_headings, _metric_cells, _metric_fields, _metric_note),
    "difference": Column(
        frozenset({"scores", "differences"}),
        _difference_headings,
        _difference_cells,
        _difference_fields,
        _difference_note,
    ),
    "trainable_params": _cost_column("Trainable params (M)", "trainable_params", 1e6, _PARAMETERS),
    "total_params": _cost_column("Total params (M)", "total_params", 1e6, _PARAMETERS),
    "adapter_gmacs": _cost_column("Adapter GMACs", "adapter_macs", 1e9, _MULTIPLY_ADDS),
    "total_gmacs": _cost_column("Total GMACs", "total_macs", 1e9, _MULTIPLY_ADDS),
    "adapter_gmacs_without_norms": _cost_column(
        "Adapter GMACs without norms", "adapter_macs_without_norms", 1e9, _WITHOUT_NORMS
    ),
    "total_gmacs_without_norms": _cost_column(
        "Total GMACs without norms", "total_macs_without_norms", 1e9, _WITHOUT_NORMS
    ),
    "classifier_params": _cost_column("Classifier (M)", "classifier_params", 1e6, _CLASSIFIER),
    "backbone_gmacs": _cost_column("One picture (GMACs)", "backbone_macs", 1e9, _PICTURE),
    "step_time": _measured_column("Step (ms)", "step_milliseconds_median", _step_milliseconds),
    "peak_memory": _measured_column("Peak memory (GiB)", "peak_memory_gibibytes", _peak_gibibytes),
    "published": Column(
        reads=frozenset(),
        headings=lambda _: ("Published",),
        cells=_published_cells,
        fields=_published_fields,
        note=lambda _: (
            "Published numbers are printed as their sources give them, on the sources' data and by their protocol; "
            "none was measured here."
        ),
    ),
}

TEXT = ("backbone", "direction", "position", "published")
"""Columns of words, aligned to the left."""

ALWAYS = ("metric", "difference", "trainable_params", "total_params", "adapter_gmacs", "total_gmacs", "published")
"""Columns whose fields the CSV of a table with results holds even where the table does not print them.

Measured times are not among them: they differ from one execution to the next.
"""
