"""Resolution of configuration files into runs, data, weights and tables, and their identities."""

from __future__ import annotations

import copy
import csv
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lavish.config.hashing import canonical_json, digest
from lavish.config.schema import (
    AudioEncoderConfig,
    BackboneConfig,
    Config,
    DataConfig,
    FusionConfig,
    NormalisationConfig,
    RunConfig,
    TrainingConfig,
)
from lavish.config.validation import parse
from lavish.errors import LavishError
from lavish.planning import identities
from lavish.planning.experiments import Experiments, load
from lavish.planning.identities import MissingInput, Run
from lavish.planning.parameter_budgets import Match
from lavish.reporting.tables import write_table

CONFIG = Path("config/config.yaml")
TABLE = Path("config/tables/small.yaml")
TASK = "event_localization"
S4 = "segmentation_s4"
FIGURE = {"kind": "metric_against_cost", "title": "", "section": "All"}
ROWS: list[dict[str, Any]] = [
    {"variant": "lavish", "label": "LAVISH", "set": {}, "published": ["known"]},
    {"variant": "avish", "set": {"adapter": {"options": {"latents": 0}}}},
]

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the embedded default, one small table and one published number."""
    repository = Path(__file__).parents[3]
    (tmp_path / "config/tables").mkdir(parents=True)
    shutil.copy(repository / CONFIG, tmp_path / CONFIG)
    monkeypatch.chdir(tmp_path)
    change(CONFIG, lambda values: values.update(tables=["small"]))
    Path("config/published.csv").write_text("id,table,method,value\nknown,ave,LAVISH,81.1\n")
    table = {"title": "Small", "task": "event_localization", "baseline": "lavish", "columns": ["metric"]}
    write(TABLE, {**table, "sections": [{"title": "All", "rows": copy.deepcopy(ROWS)}]})
    return tmp_path


def write(file: Path, values: Any) -> None:
    file.write_text(yaml.safe_dump(values))


def change(file: Path, edit: Change) -> None:
    values = yaml.safe_load(file.read_text())
    edit(values)
    write(file, values)


def with_rows(*rows: dict[str, Any]) -> None:
    change(TABLE, lambda values: values["sections"][0].update(rows=list(rows)))


def run(variant: str, loaded: Experiments | None = None) -> Run:
    found = loaded or load([CONFIG])
    row = next(row for row in found.table("small").spec["sections"][0]["rows"] if row["variant"] == variant)
    return next(run for run in found.runs.values() if run.folder == row["runs"][TASK]["folder"])


def refused(*files: Path, overrides: dict[str, Any] | None = None) -> str:
    with pytest.raises(LavishError) as caught:
        load([CONFIG, *files], overrides)
    return str(caught.value)


# --- resolving ---


def test_rows_contain_only_changes() -> None:
    lavish, avish = run("lavish").config, run("avish").config
    assert avish.adapter.options == {**lavish.adapter.options, "latents": 0}
    assert avish.model_copy(update={"adapter": lavish.adapter}) == lavish


def test_a_row_may_repeat_a_variant_under_another_label() -> None:
    with_rows(*ROWS, {"variant": "lavish", "label": "Once more"})
    loaded = load([CONFIG])
    rows = loaded.table("small").spec["sections"][0]["rows"]
    assert [row["label"] for row in rows] == ["LAVISH", "avish", "Once more"]
    assert rows[0]["runs"] == rows[2]["runs"]
    assert len(loaded.table("small").runs) == 2


def test_tables_share_equal_runs_with_different_names() -> None:
    change(CONFIG, lambda values: values.update(tables=["small", "another"]))
    shutil.copy(TABLE, "config/tables/another.yaml")
    change(
        Path("config/tables/another.yaml"),
        lambda values: values["sections"][0]["rows"][1].update(variant="without_latents"),
    )
    loaded = load([CONFIG])
    assert len(loaded.runs) == 2
    assert loaded.table("small").runs == loaded.table("another").runs
    shared = loaded.table("small").runs[1].name
    assert {(label.table, label.variant) for label in loaded.labels if label.run == shared} == {
        ("small", "avish"),
        ("another", "without_latents"),
    }


def test_options_at_their_defaults_are_part_of_the_configuration() -> None:
    with_rows(*ROWS, {"variant": "explicit", "set": {"adapter": {"options": {"latent_init": "uniform"}}}})
    assert run("explicit") is not run("avish")
    assert run("explicit").name == run("lavish").name
    assert "norm_before" in run("lavish").config.adapter.options


def test_another_kind_of_assets_replaces_their_configuration(tmp_path: Path) -> None:
    (tmp_path / "assets/cat/images").mkdir(parents=True)
    (tmp_path / "assets/cat/images/image.png").write_bytes(b"image")
    Path("more.yaml").write_text("defaults: {data: {compose: {assets: {kind: folder, root: assets}}}}")
    folder_assets = run("lavish", load([CONFIG, Path("more.yaml")])).config.data.compose.assets
    assert folder_assets.kind == "folder"
    assert len(folder_assets.sha256) == 64


def test_only_rows_that_use_the_audio_encoder_have_one() -> None:
    with_rows(*ROWS, {"variant": "joined", "set": {"audio_encoder": {"use": "join"}}})
    assert run("lavish").config.audio_encoder is None
    assert run("lavish").audio_encoder is None
    assert run("joined").config.audio_encoder.use == "join"
    assert run("joined").audio_encoder.kind == "audio_encoder"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name,value\nknown,1\n", "line 2: other columns than in the first line, or no 'id'"),
        (b"id,value\nknown,1,2\n", "line 2: other columns than in the first line, or no 'id'"),
        (b"id,value\nknown\n", "line 2: other columns than in the first line, or no 'id'"),
        (b"id,value\nknown,1\nknown,2\n", "line 3: id 'known' is there twice: remove one"),
        (b"id,value\nknown,\xff\n", "not a table .'utf-8' codec"),
    ],
)
def test_a_wrong_table_of_published_numbers_is_named(content: bytes, message: str) -> None:
    Path("config/published.csv").write_bytes(content)
    with pytest.raises(LavishError, match=rf"config/published\.csv.*{message}"):
        load([CONFIG])


def test_published_numbers_and_facts_reach_the_table() -> None:
    spec = load([CONFIG]).table("small").spec
    assert spec["sections"][0]["rows"][0]["published"] == [
        {"id": "known", "table": "ave", "method": "LAVISH", "value": "81.1"}
    ]
    assert "1000/300/2200 clips" in spec["facts"]["data"]
    assert "pretrained in the workflow" in spec["facts"]["backbone"]
    assert json.loads(canonical_json(spec)) == spec


def test_select_on_test_is_marked_and_changes_what_a_training_reads() -> None:
    with_rows(*ROWS, {"variant": "published", "set": {"select_on": "test"}})
    assert run("lavish").training_splits == ("train", "val")
    assert run("published").training_splits == ("train", "test")
    rows = load([CONFIG]).table("small").spec["sections"][0]["rows"]
    assert [row["runs"][TASK]["select_on"] for row in rows] == ["val", "val", "test"]


def test_resolved_configuration_passes_through_the_command_line_unchanged() -> None:
    config = run("avish").config
    assert parse(RunConfig, json.loads(canonical_json(config)), "--config") == config


def test_a_figure_has_only_its_section() -> None:
    other = {"title": "Other", "rows": [{"variant": "v2a", "set": {"fusion": {"direction": "v2a"}}}]}
    figure = {"kind": "metric_against_cost", "title": "Figure", "section": "Other"}
    change(TABLE, lambda values: values.update(sections=[*values["sections"], other], figures={"cost": figure}))
    drawn = load([CONFIG]).figure("cost")
    assert [run.config.fusion.direction for run in drawn.runs] == ["v2a"]
    assert [section["title"] for section in drawn.spec["sections"]] == ["Other", "Baseline"]


# --- several tasks ---


def of_both_tasks(*rows: dict[str, Any], **more: Any) -> None:
    columns = ["metric", "difference", "metric@segmentation_s4", "mean:F_score@segmentation_s4"]
    change(TABLE, lambda values: values.update(columns=columns, **more))
    with_rows(*(rows or ROWS))


def test_a_row_is_run_on_every_task_of_the_columns() -> None:
    of_both_tasks()
    loaded = load([CONFIG])
    spec = loaded.table("small").spec
    [row, _] = spec["sections"][0]["rows"]
    assert list(row["runs"]) == [TASK, S4]
    assert row["runs"][S4]["folder"].startswith("results/runs/segmentation-")
    assert spec["titles"] == {TASK: "AVE", S4: "S4"}
    assert {run.config.task.name for run in loaded.table("small").runs} == {"event_localization", "segmentation"}
    assert {name.rpartition("-")[0] for name in loaded.data} == {"ave", "avsbench_s4"}
    assert "1000/300/2200 clips" in spec["facts"]["data"]
    assert "composed (AVSBENCH-S4 layout)" in spec["facts"]["data"]


def test_a_row_may_be_of_some_tasks_only() -> None:
    of_both_tasks(*ROWS, {"variant": "audio", "set": {"modalities": "audio"}, "tasks": [TASK]})
    rows = load([CONFIG]).table("small").spec["sections"][0]["rows"]
    assert [list(row["runs"]) for row in rows] == [[TASK, S4], [TASK, S4], [TASK]]


def test_a_row_of_a_table_of_costs_may_have_a_task_of_its_own() -> None:
    with_rows(*ROWS, {"variant": "masks", "set": {}, "task": S4})
    change(TABLE, lambda values: values.update(columns=["trainable_params"]))
    rows = load([CONFIG]).table("small").spec["sections"][0]["rows"]
    assert [(row["task"], list(row["runs"])) for row in rows] == [(TASK, [TASK]), (TASK, [TASK]), (S4, [S4])]


def test_a_figure_has_only_its_task() -> None:
    masks = {"kind": "predicted_masks", "title": "Masks", "section": "All", "task": S4}
    of_both_tasks(*ROWS, {"variant": "audio", "set": {"modalities": "audio"}, "tasks": [TASK]})
    change(TABLE, lambda values: values.update(figures={"masks": masks, "cost": FIGURE}))
    loaded = load([CONFIG])
    figure = loaded.figure("masks")
    assert figure.draws_predictions
    assert not loaded.figure("cost").draws_predictions
    assert [row["variant"] for row in figure.spec["sections"][0]["rows"]] == ["lavish", "avish"]
    assert {run.config.task.name for run in figure.runs} == {"segmentation"}
    assert figure.spec["task"] == S4


# --- backbones of the configuration ---


BACKBONES = [
    {"name": "vit", "label": "ViT", "set": {}},
    {"name": "deep", "label": "deeper", "set": {"backbone": {"spec": {"depth": 8}}}},
]


def with_backbones(*rows: dict[str, Any]) -> None:
    change(CONFIG, lambda values: values.update(backbones=BACKBONES))
    with_rows(*rows)


def test_a_row_is_repeated_on_each_backbone() -> None:
    row = {"variant": "direct", "label": "Direct", "set": ROWS[1]["set"], "each_backbone": True}
    with_backbones(ROWS[0], row)
    loaded = load([CONFIG])
    rows = loaded.table("small").spec["sections"][0]["rows"]
    assert [(row["variant"], row["label"]) for row in rows] == [
        ("lavish", "LAVISH"), ("direct_vit", "Direct, ViT"), ("direct_deep", "Direct, deeper"),
    ]  # fmt: skip
    deep = run("direct_deep", loaded).config
    assert deep.backbone.spec["depth"] == 8
    assert deep.adapter.options["latents"] == 0


def test_a_repeated_variant_on_each_backbone_shares_runs() -> None:
    with_backbones(*ROWS, {"variant": "lavish", "each_backbone": True})
    rows = load([CONFIG]).table("small").spec["sections"][0]["rows"]
    assert [row["label"] for row in rows] == ["LAVISH", "avish", "LAVISH, ViT", "LAVISH, deeper"]
    assert rows[2]["runs"] == rows[0]["runs"]
    assert rows[2]["published"] == []


PARTS = [
    {"name": "10", "label": "10 %", "set": {"data": {"fraction": 0.1}, "training": {"passes": 10}}},
    {"name": "100", "label": "100 %", "set": {}},
]


def with_parts(**changes: Any) -> None:
    def edit(values: dict[str, Any]) -> None:
        rows = [
            {key: value for key, value in row.items() if key != "published"} for row in values["sections"][0]["rows"]
        ]
        values["sections"][0] |= {"rows": rows, "each": PARTS, **changes}
        values["baseline"] = "lavish_100"

    change(TABLE, edit)


def test_a_section_is_repeated_with_each_change() -> None:
    whole = {variant: run(variant).name for variant in ("lavish", "avish")}
    with_parts(baseline="lavish")
    change(TABLE, lambda values: values.update(figures={"f": {**FIGURE, "kind": "learning_curve"}}))
    loaded = load([CONFIG])
    sections = loaded.table("small").spec["sections"]
    assert [section["title"] for section in sections] == ["All: 10 %", "All: 100 %"]
    assert [[row["variant"] for row in section["rows"]] for section in sections] == [
        ["lavish_10", "avish_10"], ["lavish_100", "avish_100"],
    ]  # fmt: skip
    assert [row["label"] for section in sections for row in section["rows"]] == ["LAVISH", "avish"] * 2
    assert [row["baseline"] for section in sections for row in section["rows"]] == (
        ["lavish_10"] * 2 + ["lavish_100"] * 2
    )
    folders = [row["runs"][TASK]["folder"].removeprefix("results/runs/") for row in sections[1]["rows"]]
    assert folders == [*whole.values()], "without a change they are the same runs"
    part = loaded.run(sections[0]["rows"][1]["runs"][TASK]["folder"].removeprefix("results/runs/")).config
    assert (part.data.fraction, part.training.passes, part.adapter.options["latents"]) == (0.1, 10, 0)
    assert loaded.table("small").spec["figures"]["f"]["section"] == ["All: 10 %", "All: 100 %"]
    assert len(loaded.figure("f").runs) == 4


def test_a_repeated_row_without_a_definition_repeats_one_from_above() -> None:
    again = {"title": "Again", "rows": [{"variant": "avish", "label": "Once more"}], "each": PARTS}
    change(TABLE, lambda values: values["sections"].append(again))
    rows = load([CONFIG]).table("small").spec["sections"]
    assert [row["rows"][0]["variant"] for row in rows] == ["lavish", "avish_10", "avish_100"]
    assert rows[2]["rows"][0]["runs"] == rows[0]["rows"][1]["runs"]


def test_a_size_is_matched_within_a_repeated_section(monkeypatch: pytest.MonkeyPatch) -> None:
    matched = {"variant": "lora", "set": {"adapter": {"method": "lora"}}, "match_parameters_of": "lavish"}
    with_parts(rows=[{"variant": "lavish", "set": {}}, matched])
    targets = []
    monkeypatch.setattr(
        "lavish.planning.experiments.sizes",
        lambda requests: targets.extend(requests) or {name: Match(3, 10, 10, 8) for name in requests},
    )
    sections = load([CONFIG]).table("small").spec["sections"]
    assert len(targets) == 2
    assert [section["rows"][1]["runs"][TASK]["settings"]["size"] for section in sections] == ["rank 3", "rank 3"]


def test_a_table_may_have_more_seeds() -> None:
    change(TABLE, lambda values: values.update(seed_factor=3))
    assert load([CONFIG], {"seeds": [0, 4]}).table("small").seeds == [0, 4, 5, 6, 7, 8]
    change(TABLE, lambda values: values.update(seed_factor=1))
    assert load([CONFIG], {"seeds": [3, 1]}).table("small").seeds == [3, 1]


def test_rows_that_fix_a_source_of_variance_are_runs_of_their_own() -> None:
    before = run("lavish").name
    half = {"data": {"fraction": 0.5}}
    with_rows(
        *ROWS,
        {"variant": "half", "set": half},
        {"variant": "all", "set": {**half, "randomise": ["composition", "order", "initialisation"]}},
        {"variant": "order", "set": {**half, "randomise": ["order"]}},
        {"variant": "nothing", "set": {**half, "randomise": []}},
    )
    loaded = load([CONFIG])
    names = {variant: run(variant, loaded).name for variant in ("lavish", "half", "all", "order", "nothing")}
    assert names["lavish"] == before
    assert names["all"] == names["half"], "in whichever order they are named"
    assert len({*names.values()}) == 4
    assert "randomise" not in run("all", loaded).config.model_dump(mode="json")


def test_an_overlay_replaces_the_backbones() -> None:
    with_backbones(*ROWS, {"variant": "lavish", "each_backbone": True})
    Path("more.yaml").write_text("backbones: [{name: one, label: One, set: {}}]")
    rows = load([CONFIG, Path("more.yaml")]).table("small").spec["sections"][0]["rows"]
    assert [row["variant"] for row in rows] == ["lavish", "avish", "lavish_one"]


def test_a_backbone_in_the_defaults_is_not_replaced_by_that_of_a_task() -> None:
    """The embedded default has smaller patches for segmentation; a backbone of one's own has its own."""
    change(TABLE, lambda values: values.update(task=S4))
    named = {"defaults": {"backbone": {"model": "vit_tiny_patch16_224.x", "weights": {"source": "random"}}}}
    message = refused(overrides=named)
    assert "with tasks.segmentation_s4" in message
    assert "key 'backbone.weights.random.recipe': 'random' has no 'recipe': remove it" in message
    assert "tasks.segmentation_s4.backbone does not fit: change it, or set it to null" in message
    runs = load([CONFIG], {**named, "tasks": {S4: {"backbone": None}}}).runs.values()
    assert {one.config.backbone.model for one in runs} == {"vit_tiny_patch16_224.x"}


# --- identity ---


def names(*overrides: dict[str, Any]) -> tuple[set[str], set[str], set[str], set[str]]:
    loaded = load([CONFIG], overrides[0] if overrides else None)
    return set(loaded.composed), set(loaded.data), set(loaded.weights), set(loaded.runs)


def changed(overrides: dict[str, Any]) -> list[bool]:
    return [old.isdisjoint(new) for old, new in zip(names(), names(overrides), strict=True)]


@pytest.mark.parametrize(
    ("defaults", "expected"),
    [
        # what changes:                                         composed prepared weights runs
        ({"training": {"epochs": 7}}, [False, False, False, True]),
        ({"fusion": {"direction": "none"}}, [False, False, False, True]),
        ({"backbone": {"tune_norms": True}}, [False, False, False, True]),
        ({"backbone": {"weights": {"recipe": {"seed": 1}}}}, [False, False, True, True]),
        ({"data": {"frame_size": 64}}, [False, True, False, True]),
        ({"data": {"store": {"frames": "jpeg"}}}, [False, True, False, True]),
        ({"data": {"store": {"frames": "raw", "quality": 90}}}, [False, False, False, False]),
        ({"data": {"compose": {"seed": 1}}}, [True, True, False, True]),
        ({"training": {"epochs": 3}}, [False, False, False, False]),  # the default
    ],
)
def test_a_change_affects_only_dependent_identities(defaults: dict[str, Any], expected: list[bool]) -> None:
    assert changed({"defaults": defaults}) == expected


def test_form_and_quality_of_frames_are_part_of_the_identity_of_prepared_data() -> None:
    forms = [{}, {"frames": "jpeg"}, {"frames": "webp"}, {"frames": "jpeg", "quality": 80}]
    stores = [names({"defaults": {"data": {"store": form}}})[1] for form in forms]
    assert len(set.union(*stores)) == len(forms) * len(stores[0])
    # Raw stores have the names that they had before there was a choice.
    [data] = [data for data in load([CONFIG]).data.values() if data.config.format == "ave"]
    content = data.config.model_dump(
        mode="json", exclude={"name", "root", "compose", "max_lost", "store"}, exclude_defaults=True
    )
    assert data.name == f"ave-{digest('prepared', content, data.composed, identities.RECIPE_VERSION)}"


def test_captions_say_that_frames_are_pictures() -> None:
    facts = [
        load([CONFIG], {"defaults": {"data": {"store": form}}}).table("small").spec["facts"]["data"]
        for form in ({}, {"frames": "webp", "quality": 70})
    ]
    assert facts[1] == facts[0] + ", frames stored as WEBP of quality 70"


def test_seeds_labels_and_columns_do_not_affect_identities() -> None:
    before = names()
    change(TABLE, lambda values: values.update(title="Another", columns=["metric", "difference"]))
    change(TABLE, lambda values: values["sections"][0]["rows"][0].update(label="Another"))
    assert names({"seeds": [5]}) == before


def test_recipe_version_is_part_of_every_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    before = names()
    monkeypatch.setattr(identities, "RECIPE_VERSION", identities.RECIPE_VERSION + 1)
    assert all(old.isdisjoint(new) for old, new in zip(before, names(), strict=True))


def official(root: Path, annotation: str = "text") -> dict[str, Any]:
    (root / "AVE").mkdir(parents=True)
    (root / "Annotations.txt").write_text(f"header\n{annotation}&clip&good&0&10\n")
    for name in ("trainSet.txt", "valSet.txt", "testSet.txt"):
        (root / name).write_text(f"{annotation}&clip&good&0&10\n")
    (root / "AVE/clip.mp4").write_bytes(b"video")
    return {"tasks": {TASK: {"data": {"root": str(root), "compose": None, "num_classes": 28}}}}


def test_identity_of_a_data_set_on_disk_depends_on_content_not_path(tmp_path: Path) -> None:
    here, there = names(official(tmp_path / "here")), names(official(tmp_path / "there"))
    other = names(official(tmp_path / "other", "another text"))
    assert here == there
    assert here[1].isdisjoint(other[1])
    assert here[3].isdisjoint(other[3])
    assert not here[0]  # nothing to compose


def test_identity_of_a_data_set_on_disk_covers_what_its_lists_name(tmp_path: Path) -> None:
    overrides = official(tmp_path / "ave")
    before = names(overrides)
    (tmp_path / "ave/AVE.zip").write_bytes(b"the archive it came from")
    (tmp_path / "ave/AVE/unlisted.mp4").write_bytes(b"another video")
    (tmp_path / "ave/ms3_meta_data.csv").write_text("of another data set in the same folder")
    os.mkfifo(tmp_path / "ave/pipe")
    assert names(overrides) == before
    (tmp_path / "ave/AVE/clip.mp4").write_bytes(b"another")
    assert names(overrides)[1].isdisjoint(before[1])


def test_labels_places_and_tolerances_do_not_affect_identities(tmp_path: Path) -> None:
    overrides = official(tmp_path / "ave")
    before = names(overrides)
    overrides["tasks"][TASK]["data"] |= {"name": "mine", "max_lost": 0.5}
    assert names(overrides) == before


def test_a_job_on_another_machine_does_not_look_at_the_data(tmp_path: Path) -> None:
    overrides = official(tmp_path / "ave")
    planned = names(overrides)
    for file in (tmp_path / "ave").rglob("*.*"):
        file.unlink()
    loaded = load([CONFIG], overrides, trust_checksums=True)
    assert set(loaded.runs) == planned[3]


DEFAULTS = {
    "training": {
        "epochs": 50, "batch_size": 2, "batch_of": "units", "accumulate": 1, "lr_adapter": 5e-5, "lr_head": 4e-6,
        "optimizer": "adam", "weight_decay": 0.0, "patience": 5, "precision": "float32", "deterministic": True,
        "cpu_threads": 1, "cpu_dispatch": "avx2",
        "schedule": {"kind": "constant", "warmup": 0.0, "factor": 0.35, "every": 3},
    },
    "fusion": {"direction": "both", "position": "default", "arrangement": "default", "layers": "all"},
    "normalisation": {"frames": "imagenet", "audio": "train"},
    "data": {
        "format": "ave", "vocabulary": 0, "segments": 10, "segment_seconds": 1.0, "frame_size": 224,
        "spectrogram": {
            "sample_rate": 16000, "mel_bins": 48, "shift_ms": 20.0, "length_ms": 25.0, "frames": 48,
            "window_seconds": 1.0, "window_margin": 0.1,
        },
    },
    "backbone": {"stochastic_depth": False, "tune_norms": False, "positions": "bicubic", "classifier": "dropped"},
    "audio_encoder": {"use": "join"},
}  # fmt: skip
"""Identities leave out what is at its default, so a default that changes must raise RECIPE_VERSION (and this text)."""


def test_defaults_that_identities_leave_out_are_those_of_the_recipe() -> None:
    models = {
        "training": TrainingConfig, "fusion": FusionConfig, "normalisation": NormalisationConfig, "data": DataConfig,
        "backbone": BackboneConfig, "audio_encoder": AudioEncoderConfig,
    }  # fmt: skip
    assert identities.RECIPE_VERSION == 4
    for key, expected in DEFAULTS.items():
        fields = models[key].model_fields
        for name, value in expected.items():
            default = fields[name].get_default(call_default_factory=True)
            assert (default.model_dump(mode="json") if isinstance(default, Config) else default) == value, (key, name)


def test_rows_that_recompute_are_runs_of_their_own() -> None:
    before = run("lavish").name
    row = {"variant": "recomputed", "set": {"training": {"recompute": "adapters"}}}
    with_rows(*ROWS, row, {"variant": "kept", "set": {"training": {"recompute": "none"}}})
    assert run("kept").name == run("lavish").name == before
    assert run("recomputed").name != before
    assert "recompute" not in run("kept").config.model_dump(mode="json")["training"]


def test_a_misspelt_task_is_refused(tmp_path: Path) -> None:
    more = tmp_path / "more.yaml"
    write(more, {"tasks": {"event_localisation": {"data": {"num_classes": 28}}}})
    message = refused(Path("config/config.yaml"), more)
    assert "tasks.event_localisation does not say which task it is (did you mean 'event_localization'?)" in message


def test_rows_with_a_part_of_the_clips_are_runs_of_their_own_on_the_same_store() -> None:
    before = run("lavish")
    with_rows({"variant": "part", "set": {"data": {"fraction": 0.1}}}, *ROWS)
    part, whole = run("part"), run("lavish")
    assert part.name != whole.name == before.name
    assert part.config.data.fraction == 0.1
    assert part.data == whole.data == before.data, "whichever row comes first"


def test_code_is_part_of_the_identity_of_its_runs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with_rows(*ROWS, {"variant": "lora", "set": {"adapter": {"method": "lora", "options": {}}}})
    before = {variant: run(variant).name for variant in ("lavish", "avish", "lora")}
    digest_of = identities.code_digest
    monkeypatch.setattr(
        identities, "code_digest", lambda kind, name: "edited" if name == "lora" else digest_of(kind, name)
    )
    after = {variant: run(variant).name for variant in before}
    assert [variant for variant in before if before[variant] != after[variant]] == ["lora"]


def test_identity_of_a_weights_file_depends_on_content_not_path(tmp_path: Path) -> None:
    def weights(name: str, content: bytes) -> dict[str, Any]:
        file = tmp_path / name
        file.write_bytes(content)
        return {"defaults": {"backbone": {"weights": {"source": "file", "path": str(file)}}}}

    one = weights("one.safetensors", b"one")
    assert names(one) == names(weights("two.safetensors", b"one"))
    assert names(one)[2].isdisjoint(names(weights("three.safetensors", b"three"))[2])
    assert run("lavish", load([CONFIG], one)).config.backbone.weights.sha256 is not None


# --- errors ---


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda t: t.update(baseline="lavsh"), "key 'baseline': no row defines 'lavsh' (did you mean 'lavish'?)"),
        (lambda t: t.update(task="event_localisation"), "unknown task 'event_localisation' (did you mean 'event_loc"),
        (lambda t: t.update(columns=["metrc"]), "key 'columns.0': unknown column 'metrc' (did you mean 'metric'?)"),
        (lambda t: t.update(columns=["metric@segmentaton_s4"]), "unknown task 'segmentaton_s4' (did you mean 'segment"),
        (
            lambda t: t.update(columns=["metric", "mean:F_scor@segmentation_s4"]),
            "column 'mean:F_scor@segmentation_s4': task 'segmentation_s4' has no measure 'F_scor' (did you mean 'F_sc",
        ),
        (
            lambda t: t.update(figures={"f": {**FIGURE, "kind": "breakdown", "measures": ["acc"]}}),
            "figure 'f': task 'event_localization' has no measure 'acc'",
        ),
        (
            lambda t: t.update(figures={"f": {**FIGURE, "task": "segmentation_s4"}}),
            "no column is of task 'segmentation_",
        ),
        (
            lambda t: t["sections"][0]["rows"][1].update(tasks=["segmentation_s4"]),
            "row 'avish': no column is of task 'segmentation_s4'",
        ),
        (lambda t: t["sections"][0]["rows"][1].update(task="segmentation_s4"), "row 'avish' has another task"),
        (
            lambda t: (
                t.update(columns=["metric", "metric@segmentation_s4"]),
                t["sections"][0]["rows"][0].update(tasks=["segmentation_s4"]),
            ),
            "key 'baseline': row 'lavish' is not run on task 'event_localization'",
        ),
        (
            lambda t: t["sections"][0]["rows"][1].update(each_backbone=True, published=["known"]),
            "belong to one backbone",
        ),
        (
            lambda t: t["sections"][0].update(each=PARTS),
            "rows of a section with `each` have neither `published` numbers nor `each_backbone`",
        ),
        (
            lambda t: t["sections"][0].update(baseline="lavsh"),
            "section 'All': key 'baseline': no row defines 'lavsh' (did you mean 'lavish'?)",
        ),
        (
            lambda t: t.update(columns=["trainable_params", "ppt"]),
            "column 'ppt' summarises the columns 'metric' and 'm",
        ),
        (
            lambda t: t["sections"][0]["rows"][1].update(set={"randomise": ["order", "composition"]}),
            "`randomise` has 'composition', the draw of data.fraction, but all clips are used: give a fraction below 1",
        ),
        (
            lambda t: t["sections"][0]["rows"][1].update(set={"randomise": ["order", "initialisation"]}),
            "`randomise` names all that a seed changes anyway: remove the key",
        ),
        (lambda t: t.update(published_only=[{"label": "M", "published": ["known"]}]), "needs the column 'published'"),
        (
            lambda t: t.update(columns=["metric", "published"], published_only=[{"label": "M", "published": ["knwn"]}]),
            "published_only 'M': config/published.csv has no id 'knwn'",
        ),
        (lambda t: t.update(colums=[]), "unknown key 'colums' (did you mean 'columns'?)"),
        (lambda t: t.update(figures={"f": {**FIGURE, "section": "Al"}}), "figure 'f': unknown section 'Al' (did"),
        (
            lambda t: t.update(figures={"f": {**FIGURE, "kind": "predicted_masks"}}),
            "figure 'f': row 'lavish': task 'event_localization' predicts no masks: choose another kind of figure",
        ),
        (
            lambda t: t.update(
                columns=["metric", "metric@segmentation_s4"],
                figures={"f": {**FIGURE, "kind": "predicted_masks", "task": "segmentation_s4", "segment": 1}},
            ),
            "figure 'f': segment 1 is counted from 0, but clips of row 'lavish' have data.segments: 1",
        ),
        (
            lambda t: t.update(
                columns=["metric", "metric@segmentation_s4"],
                figures={"f": {**FIGURE, "kind": "predicted_masks", "task": "segmentation_s4", "clips": 9}},
            ),
            "key 'figures.f.predicted_masks.clips': 9 clips, but predictions of 8 clips are stored",
        ),
        (
            lambda t: (
                t.update(
                    columns=["metric", "metric@segmentation_s4"],
                    figures={"f": {**FIGURE, "section": "One", "task": "segmentation_s4"}},
                ),
                t["sections"].append(
                    {"title": "One", "rows": [{"variant": "one", "set": {}, "tasks": ["event_localization"]}]}
                ),
            ),
            "figure 'f': no row of section 'One' is run on task 'segmentation_s4'",
        ),
        (
            lambda t: t["sections"][0]["rows"][1].update(set_by_task={"event_localisation": {}}),
            "row 'avish': key 'set_by_task': unknown task 'event_localisation' (did you mean 'event_localization'?)",
        ),
        (lambda t: t["sections"][0]["rows"].append({"variant": "avsh"}), "row 'avsh': refers to a variant that no row"),
        (lambda t: t["sections"][0]["rows"].append({"variant": "avish", "set": {}}), "row 'avish': defined twice"),
        (lambda t: t["sections"][0]["rows"][0].update(published=["knwn"]), "row 'lavish': config/published.csv has no"),
        (
            lambda t: t["sections"][0]["rows"][1].update(set={"fusion": {"directon": "none"}}),
            "row 'avish':\n  unknown key 'fusion.directon' (did you mean 'direction'?)",
        ),
        (
            lambda t: t["sections"][0]["rows"][1].update(set={"adapter": {"method": "lavsh"}}),
            "row 'avish':\n  key 'adapter': unknown method 'lavsh' (did you mean 'lavish'?)",
        ),
    ],
)
def test_messages_name_table_row_and_the_nearest_valid_name(edit: Change, expected: str) -> None:
    change(TABLE, edit)
    message = refused()
    assert message.startswith("config/tables/small.yaml:")
    assert expected in message


def test_errors_in_the_defaults_do_not_name_a_row() -> None:
    message = refused(overrides={"defaults": {"data": {"frame_sze": 64}}})
    assert message.splitlines() == [
        "config/config.yaml: defaults with tasks.event_localization:",
        "  unknown key 'data.frame_sze' (did you mean 'frame_size'?)",
    ]


def test_messages_name_all_merged_files() -> None:
    Path("more.yaml").write_text("sedes: [1]")
    assert (
        refused(Path("more.yaml")) == "config/config.yaml + more.yaml:\n  unknown key 'sedes' (did you mean 'seeds'?)"
    )


@pytest.mark.parametrize("content", ["seeds: [0", "- a\n- b\n", ""])
def test_files_without_a_mapping(content: str) -> None:
    Path("more.yaml").write_text(content)
    assert refused(Path("more.yaml")).startswith("more.yaml: ")


def test_each_backbone_needs_backbones() -> None:
    with_rows(*ROWS, {"variant": "lavish", "each_backbone": True})
    change(CONFIG, lambda values: values.pop("backbones"))
    assert "row 'lavish' is for each backbone, but the configuration has no `backbones`" in refused()


def test_missing_files() -> None:
    assert refused(Path("absent.yaml")) == "there is no configuration file absent.yaml"
    assert refused(overrides={"tables": ["smal"]}) == (
        "config/config.yaml: key 'tables': there is no config/tables/smal.yaml (did you mean 'small'?)"
    )
    Path("config/published.csv").write_text("id,table\n" + "x" * 140000 + ",ave\n")
    assert refused().startswith("config/published.csv: not a table (field larger than")
    Path("config/published.csv").unlink()
    assert refused().startswith("there is no config/published.csv")


def test_a_seed_listed_twice() -> None:
    assert refused(overrides={"seeds": [0, 1, 1]}) == "config/config.yaml: key 'seeds': 1 is listed more than once"


def test_two_tables_with_figures_of_the_same_name() -> None:
    change(TABLE, lambda values: values.update(figures={"cost": FIGURE}))
    shutil.copy(TABLE, "config/tables/another.yaml")
    assert "figure 'cost' is also one of table 'small'" in refused(overrides={"tables": ["small", "another"]})


def test_missing_data_is_an_error_only_when_the_table_is_requested(tmp_path: Path) -> None:
    root = tmp_path / "AVE"
    loaded = load([CONFIG], {"tasks": {TASK: {"data": {"root": str(root), "compose": None, "num_classes": 28}}}})
    assert loaded.table_names == ["small"]
    with pytest.raises(MissingInput, match=r"table 'small' cannot be made: .*no folder .*AVE; .*ECCV 2018"):
        loaded.table("small")


def without_s4(root: Path) -> Experiments:
    """Load the small table on two tasks, one of which has no data on this machine."""
    change(TABLE, lambda t: t.update(columns=["metric", f"metric@{S4}", f"difference@{S4}"]))
    return load([CONFIG], {"tasks": {S4: {"data": {"root": str(root), "compose": None, "num_classes": 1}}}})


def test_a_table_excludes_the_runs_of_a_second_task_without_data(tmp_path: Path) -> None:
    masks = {"kind": "predicted_masks", "title": "Masks", "section": "All", "task": S4}
    change(TABLE, lambda values: values.update(figures={"masks": masks, "cost": FIGURE}))
    loaded = without_s4(tmp_path / "AVSBench")
    assert not loaded.missing
    table = loaded.table("small")
    assert {run.name.split("-")[0] for run in table.runs} == {TASK}
    for row in table.spec["sections"][0]["rows"]:
        assert set(row["runs"]) == {TASK}
        assert row["missing"] == {S4: f"data missing: {tmp_path}/AVSBench"}
    assert "there is no folder" in table.spec["facts"]["missing"]
    assert loaded.figure_names == ["cost"]
    assert loaded.figure("cost").runs == table.runs
    with pytest.raises(MissingInput, match=r"figure 'masks' cannot be made: .*no folder .*AVSBench; "):
        loaded.figure("masks")


def test_cells_give_the_reason_of_a_missing_result(tmp_path: Path) -> None:
    change(TABLE, lambda values: values["sections"][0]["rows"][0].pop("published"))
    write_table(without_s4(tmp_path / "AVSBench").table("small").spec, tmp_path / "table")
    text = (tmp_path / "table.md").read_text()
    reason = f"data missing: {tmp_path}/AVSBench"
    assert all(line.count(reason) == 2 for line in text.splitlines() if line.startswith(("| LAVISH", "| avish")))
    assert text.count(reason) == 4
    assert "- Missing: data set 'composed' (avsbench_s4): there is no folder" in text
    lines = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert [line["status"].count(reason) for line in lines] == [1, 1]
    assert S4 not in lines[0]["runs"]


def test_missing_assets_and_weights(tmp_path: Path) -> None:
    assets = {"kind": "folder", "root": str(tmp_path / "pairs")}
    with pytest.raises(MissingInput, match=r"no folder .*pairs; it must contain one folder per class"):
        load([CONFIG], {"defaults": {"data": {"compose": {"assets": assets}}}}).table("small")
    weights = {"source": "file", "path": str(tmp_path / "vit.safetensors")}
    with pytest.raises(MissingInput, match=r"no weights file .*vit\.safetensors; set weights\.path"):
        load([CONFIG], {"defaults": {"backbone": {"weights": weights}}}).table("small")


def test_a_data_set_with_another_checksum(tmp_path: Path) -> None:
    overrides = official(tmp_path / "ave")
    overrides["tasks"][TASK]["data"]["sha256"] = "0" * 64
    message = refused(overrides=overrides)
    assert f"the checksum over {tmp_path / 'ave'} is" in message
    assert "data.sha256 says 000" in message


def test_unknown_names_are_answered_with_the_nearest() -> None:
    loaded = load([CONFIG])
    for look_up in (loaded.table, loaded.figure, loaded.run, loaded.data_set, loaded.composition, loaded.weights_named):
        with pytest.raises(LavishError, match=r"the configuration has no .* 'nonsense'"):
            look_up("nonsense")


def test_planning_imports_neither_torch_nor_snakemake() -> None:
    import subprocess

    code = "import sys, lavish.planning.experiments; print({'torch', 'snakemake', 'pandas'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


@pytest.mark.parametrize("found", [True, False])
def test_the_device_follows_the_machine_only_if_asked(monkeypatch: pytest.MonkeyPatch, found: bool) -> None:
    monkeypatch.setattr("lavish.planning.experiments.gpu_is_visible", lambda: found)
    automatic = load([CONFIG], {"device": "auto"})
    assert (automatic.device, automatic.device_setting) == ("cuda" if found else "cpu", "auto")
    assert load([CONFIG]).device == load([CONFIG], {"device": "cpu"}).device == "cpu"
    assert load([CONFIG], {"device": "cuda"}).device == "cuda"
    assert load([CONFIG]).runs.keys() == automatic.runs.keys()


@pytest.mark.parametrize("setting", [{"device": "cuda"}, {"cache_features": "none"}])
def test_features_of_the_frozen_backbone_are_read_on_a_cpu_unless_switched_off(setting: dict[str, str]) -> None:
    with_rows(*ROWS, {"variant": "none", "set": {"adapter": {"method": "none"}}})
    default, other = load([CONFIG]), load([CONFIG], setting)
    frozen = [run for run in default.runs.values() if default.frozen_features(run)]
    assert frozen
    for run in frozen:
        assert not other.frozen_features(run)
        # A job that has read them keeps them as inputs.
        for features in default.frozen_features(run).values():
            assert other.features_named(features.name) == features
