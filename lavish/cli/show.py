"""`lavish show`: the inputs and the results of a run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lavish.config.measures import Measure
from lavish.errors import LavishError
from lavish.planning.run_labels import labels_of
from lavish.reporting.records import (
    MissingResult,
    TrainingRecord,
    read_cost,
    read_evaluation,
    read_record,
    read_run,
    seed_directories,
)
from lavish.reporting.searches import read_tuning

_CONFIG = Path("config/config.yaml")
# Filled in by the workflow, or paths: not choices of the configuration.
_NO_CHOICE = {"sha256", "root", "path", "code"}
_ABSENT = "-"


def show(run: Path, configfiles: Sequence[Path], *, full: bool) -> str:
    """Return the record of a run, or of one of its trainings, as text.

    Args:
        run: ``results/runs/<run>`` or ``results/runs/<run>/seed<k>``.
        configfiles: files merged into ``config/config.yaml`` for the comparison with the defaults.
        full: print the whole resolved configuration, not only the differences.

    Raises:
        LavishError: the folder is neither of the two, or a record is invalid.
    """
    if not run.is_dir():
        raise LavishError(f"there is no folder {run}: give results/runs/<run> or one of its seed<k>")
    if (run / "record.json").is_file():
        return _training(run, configfiles, full=full)
    seeds = list(seed_directories(run).values())
    if not seeds and not (run / "cost.json").is_file():
        raise LavishError(f"{run} is not a run: it has neither record.json nor seed<k>/ nor cost.json")
    return _run(run, seeds, configfiles, full=full)


def _training(folder: Path, configfiles: Sequence[Path], *, full: bool) -> str:
    record = read_record(folder)
    sections = [
        ("", [*_identity(folder.parent, record), ("seed", str(record.seed))]),
        ("Result", [*_selection(record), *_evaluations(folder), *_measures(folder)]),
        *_configuration(_task(folder.parent, record), record.values, configfiles, full=full),
        ("Read", list(_read(record.values))),
        ("Made with", list(_made_with(record))),
        ("Files", _files(folder)),
    ]
    return _text(sections)


def _run(folder: Path, seeds: Sequence[Path], configfiles: Sequence[Path], *, full: bool) -> str:
    records = {}
    trainings = []
    for seed in seeds:
        try:
            records[seed] = read_record(seed)
        except MissingResult:
            trainings.append((seed.name, "not finished: no record.json"))
            continue
        tested = dict(_evaluations(seed)).get("test", "not evaluated on test")
        selected = records[seed].best_value
        trainings.append((seed.name, f"{tested}; {selected:.4f} on {records[seed].selected_on}"))
    first = next(iter(records.values()), None)
    for seed, record in records.items():
        if first is not None and record.values.get("config") != first.values.get("config"):
            raise LavishError(
                f"{seed / 'record.json'}: another configuration than the other seeds': remove that folder"
            )
    sections: list[tuple[str, list[tuple[str, str]]]] = [("", list(_identity(folder, first)))]
    sections.append(("Trainings", [*trainings, *_over_seeds(folder, records)] or [("", "none")]))
    sections.append(("Cost", _cost(folder)))
    sections.append(("Hyperparameter search", list(_search(folder))))
    if first is not None:
        sections += _configuration(_task(folder, first), first.values, configfiles, full=full)
        sections.append(("Read", list(_read(first.values))))
        sections.append(("Made with", _differing(list(records.values()))))
    sections.append(("Files", _files(folder)))
    return _text(sections)


def _identity(run: Path, record: TrainingRecord | None) -> Iterator[tuple[str, str]]:
    yield "run", run.as_posix()
    for label in labels_of(run):
        named = "" if label.label == label.variant else f" ({label.label})"
        yield f"table {label.table}", f"variant {label.variant}{named}, task {label.task}"
    if record is not None:
        yield "recipe version", str(record.values.get("recipe_version", _ABSENT))


def _task(run: Path, record: TrainingRecord) -> str:
    """Return the key of a run's task in the configuration; for a run without labels the name of the task itself."""
    labels = labels_of(run)
    return labels[0].task if labels else str((record.values.get("config") or {}).get("task", {}).get("name"))


def _selection(record: TrainingRecord) -> Iterator[tuple[str, str]]:
    yield "metric", record.metric
    selected = f"{record.best_value:.4f}, epoch {record.best_epoch + 1} of {record.epochs}"
    yield f"selected on {record.selected_on}", selected


def _evaluations(folder: Path) -> Iterator[tuple[str, str]]:
    for split in ("val", "test", *sorted(path.name for path in folder.glob("test-*"))):  # those under conditions last
        if (folder / split / "metrics.json").is_file():
            evaluation = read_evaluation(folder, split)
            clips = len(set(evaluation.clips))
            units = "" if clips == len(evaluation.clips) else f"{len(evaluation.clips)} units of "
            yield split, f"{evaluation.value:.4f} ({units}{clips} clips)"


def _measures(folder: Path) -> Iterator[tuple[str, str]]:
    if (folder / "test/metrics.json").is_file():
        for name, value in read_evaluation(folder).measures.items():
            yield f"{name} (test)", f"{value:.4f}"


def _over_seeds(run: Path, records: Mapping[Path, TrainingRecord]) -> Iterator[tuple[str, str]]:
    """The mean over seeds and its interval, as a table prints them."""
    evaluated = [record.seed for seed, record in records.items() if (seed / "test/metrics.json").is_file()]
    if len(evaluated) < 2:
        return
    from lavish.reporting.statistics import clip_values, interval

    result = read_run(run, evaluated)
    metric = result.definitions.get(result.metric, Measure(result.metric))
    estimate = interval(clip_values(result.scores, result.clips), limits=metric.limits)
    assert estimate.std is not None
    yield (
        f"{result.metric} (test)",
        f"{estimate.mean:.4f} ± {estimate.std:.4f} over {len(evaluated)} seeds, "
        f"95 % interval {estimate.low:.4f} to {estimate.high:.4f}",
    )


def _cost(run: Path) -> list[tuple[str, str]]:
    try:
        cost = read_cost(run)
    except MissingResult:
        return [("cost.json", "not counted yet")]
    return [
        ("trainable parameters", f"{cost.trainable_params:,}"),
        ("total parameters", f"{cost.total_params:,}"),
        ("multiply-adds, adapters", f"{cost.adapter_macs:,} a clip"),
        ("multiply-adds, total", f"{cost.total_macs:,} a clip"),
    ]


def _search(run: Path) -> Iterator[tuple[str, str]]:
    tuning = read_tuning(run)
    if tuning is None:
        return
    values = ", ".join("diverged" if value is None else f"{value:.4f}" for value in tuning.trials)
    yield f"{len(tuning.trials)} trials", f"{values} on validation, seeds {', '.join(map(str, tuning.seeds))}"
    for key, value in tuning.values.items():
        edge = tuning.at_edge.get(key)
        yield key, f"{value}" + (f", the {edge} that was tried" if edge else "")


def _configuration(
    task: str, values: Mapping[str, Any], configfiles: Sequence[Path], *, full: bool
) -> list[tuple[str, list[tuple[str, str]]]]:
    config = values.get("config")
    if not isinstance(config, dict):
        return [("Configuration", [("", "the record has none")])]
    chosen = dict(_flat(config))
    whole = ("Configuration", list(chosen.items()))
    try:
        defaults = _defaults(task, configfiles)
    except LavishError as error:
        return [("Configuration", [*whole[1], ("", f"(not compared with the defaults: {error})")])]
    for key in chosen:
        # A backbone of the audio stream replaces the shared one; keys of a backbone that is not given are none.
        shared = defaults.get(key.replace("backbones.audio.", "backbone."))
        if key.startswith("backbones.") and shared is not None:
            defaults.setdefault(key, shared)
    changed = [
        (key, f"{chosen.get(key, _ABSENT)}  (default: {defaults.get(key, _ABSENT)})")
        for key in dict.fromkeys([*chosen, *defaults])
        if chosen.get(key, "null") != defaults.get(key, "null") and key.rpartition(".")[2] not in _NO_CHOICE
    ]
    names = " + ".join(str(file) for file in (_CONFIG, *configfiles))
    compared = (f"Differs from {names}", changed or [("", "nothing")])
    return [compared, whole] if full else [compared]


def _defaults(task: str, configfiles: Sequence[Path]) -> dict[str, str]:
    from lavish.planning.experiments import task_defaults

    defaults = task_defaults([_CONFIG, *configfiles], task)
    if defaults.audio_encoder is not None and defaults.audio_encoder.use == "none":
        defaults = defaults.model_copy(update={"audio_encoder": None})  # as a run resolves it
    return dict(_flat(defaults.model_dump(mode="json")))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value)


def _read(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    data = values.get("config", {}).get("data", {})
    if data.get("sha256"):
        yield "data set", f"sha256 {data['sha256']}"
    for split, checksums in values.get("data", {}).items():
        for name, checksum in checksums.items():
            yield f"{split}/{name}", f"sha256 {checksum}"
    weights = dict(values.get("weights") or {})
    if weights:
        yield "weights", f"sha256 {weights.pop('sha256', _ABSENT)}"
        yield from ((f"weights, {key}", str(value)) for key, value in weights.items())
    for split, checksum in (values.get("audio_features") or {}).items():
        yield f"audio features, {split}", f"sha256 {checksum}"
    for stream, files in (values.get("frozen_features") or {}).items():
        yield from ((f"frozen {stream} features, {split}", f"sha256 {checksum}") for split, checksum in files.items())


def _made_with(record: TrainingRecord) -> Iterator[tuple[str, str]]:
    values = record.values
    git, machine = values.get("git"), values.get("machine") or {}
    if git:
        yield "git commit", f"{git.get('commit')}{' with uncommitted changes' if git.get('dirty') else ''}"
    else:
        yield "git commit", "none: the code lay outside a repository"
    yield "versions", ", ".join(f"{name} {version}" for name, version in values.get("versions", {}).items())
    yield "device", record.device
    yield "machine", ", ".join(str(machine[key]) for key in ("processor", "platform") if machine.get(key))
    yield "training time", f"{record.wall_seconds:.1f} s ({1000 * record.step_seconds_median:.1f} ms a step, median)"
    memory = record.peak_memory_bytes
    yield "peak memory", _ABSENT if memory is None else f"{memory / 2**20:,.0f} MiB"
    yield "finished", str(values.get("finished", _ABSENT))
    yield "command", shlex.join(map(str, machine.get("argv", []))) or _ABSENT


def _differing(records: Sequence[TrainingRecord]) -> list[tuple[str, str]]:
    """Return the environment of all trainings, per seed where they differ; commands differ by seed and are omitted."""
    lines: dict[str, dict[str, list[int]]] = {}
    for record in records:
        for key, value in _made_with(record):
            if key != "command":
                lines.setdefault(key, {}).setdefault(value, []).append(record.seed)
    shown = []
    for key, found in lines.items():
        for value, seeds in found.items():
            which = "" if len(found) == 1 else f", seed {', '.join(map(str, seeds))}"
            shown.append((key + which, value))
    return shown


def _files(folder: Path) -> list[tuple[str, str]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), f"{path.stat().st_size:,} bytes") for path in files]


def _text(sections: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> str:
    lines: list[str] = []
    for title, rows in sections:
        if lines:
            lines.append("")
        if title:
            lines.append(title)
        width = max((len(key) for key, _ in rows), default=0)
        lines += [f"  {key:<{width}}  {value}".rstrip() if key else f"  {value}" for key, value in rows]
    return "\n".join(lines)
