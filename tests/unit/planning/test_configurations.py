"""The configuration files of the repository, resolved for each task."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lavish.config.schema import RunConfig
from lavish.config.sources import available
from lavish.planning import identities
from lavish.planning.experiments import Experiments, load, task_defaults

CONFIG = Path("config/config.yaml")
TASKS = ("event_localization", "segmentation_s4", "segmentation_ms3", "question_answering", "action_recognition")


@pytest.fixture(autouse=True)
def repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])


def of(task: str, *overlays: str) -> RunConfig:
    return task_defaults([CONFIG, *(Path(f"config/{name}.yaml") for name in overlays)], task)


@pytest.mark.parametrize("task", TASKS)
def test_composed_sets_differ_in_their_layout_and_share_their_assets(task: str) -> None:
    default, common = of(task).data, of("event_localization").data
    assert default.compose is not None
    assert common.compose is not None
    assert default.compose.assets == common.compose.assets
    assert (default.frame_size, default.spectrogram) == (common.frame_size, common.spectrogram)
    assert (default.format == common.format) == (task == "event_localization")


@pytest.mark.parametrize("task", TASKS)
def test_smoke_is_small_for_every_task(task: str) -> None:
    smoke = of(task, "smoke")
    assert smoke.data.compose is not None
    assert smoke.data.compose.clips.train == 24
    assert smoke.data.compose.assets.instances.train == 4
    assert smoke.training.epochs == 1
    assert smoke.data.format == of(task).data.format


def test_learning_curves_end_at_the_runs_of_other_tables() -> None:
    loaded = load([CONFIG], {"tuning": "none"})  # learning curves are not tuned
    whole = loaded.table("little_data").spec["sections"][-1]
    assert whole["title"] == "Training clips: 100 %"
    others = {run.folder for table in ("ablation", "peft") for run in loaded.table(table).runs}
    folders = [row["runs"]["event_localization"]["folder"] for row in whole["rows"]]
    assert len(folders) == 6 and others.issuperset(folders)
    for section in loaded.table("little_data").spec["sections"]:
        for row in section["rows"]:
            config = loaded.run(row["runs"]["event_localization"]["folder"].removeprefix("results/runs/")).config
            assert config.data.fraction * config.training.passes == 1


def test_sources_of_variance_differ_in_nothing_else() -> None:
    loaded = load([CONFIG])
    table = loaded.table("variance")
    assert len(table.seeds) == 2 * len(loaded.table("ave").seeds)
    *halves, whole = [run.config for run in table.runs]
    assert {one.model_dump_json(exclude={"randomise"}) for one in halves} == {
        halves[0].model_dump_json(exclude={"randomise"})
    }
    assert [len(one.randomise) for one in halves] == [3, 1, 1, 1, 0]
    assert whole == loaded.run(loaded.table("ave").runs[3].name).config
    assert halves[0].data.fraction == 0.5


@pytest.mark.parametrize("task", TASKS)
def test_av_pairs_changes_only_assets_and_numbers(task: str) -> None:
    pairs, default = of(task, "av_pairs"), of(task)
    assert pairs.data.compose is not None
    assert default.data.compose is not None
    assert pairs.data.compose.assets.kind == "folder"
    data = {"name", "compose", "num_classes", "vocabulary"}
    assert pairs.data.model_dump(exclude=data) == default.data.model_dump(exclude=data)
    assert pairs.model_dump(exclude={"data"}) == default.model_dump(exclude={"data"})


@pytest.mark.parametrize("task", TASKS)
def test_the_data_sets_of_the_paper_are_on_disk(task: str) -> None:
    data = of(task, "paper").data
    assert data.compose is None
    assert str(data.root).startswith("data/")
    assert data.name == "official"


@pytest.mark.parametrize(
    ("task", "latents", "reduction", "groups", "batch_norm", "lr", "head", "batch", "epochs", "audio"),
    [
        ("event_localization", 2, 8, 2, True, 5e-5, 4e-6, 2, 50, (-4.9848, 3.7080)),
        ("segmentation_s4", 16, 4, 2, False, 1e-4, 1e-4, 4, 30, (-5.2105, 3.5918)),
        ("segmentation_ms3", 16, 4, 2, False, 1e-4, 1e-4, 4, 30, (-5.2105, 3.5918)),
        ("question_answering", 64, 8, 4, False, 8e-5, 8e-5, 1, 30, (-5.3853, 3.5929)),
    ],
)
def test_published_settings(
    task: str,
    latents: int,
    reduction: int,
    groups: int,
    batch_norm: bool,
    lr: float,
    head: float,
    batch: int,
    epochs: int,
    audio: tuple[float, float],
) -> None:
    config = of(task, "paper")
    options = {"latents": latents, "reduction": reduction, "groups": groups, "batch_norm": batch_norm}
    assert options.items() <= config.adapter.options.items()
    training = config.training
    assert (training.lr_adapter, training.lr_head, training.batch_size, training.epochs) == (lr, head, batch, epochs)
    assert training.schedule.kind == ("step" if task == "question_answering" else "constant")
    assert training.schedule.warmup == 0
    assert config.normalisation.audio == audio
    assert config.backbone.tune_norms == (task == "question_answering")


@pytest.fixture(scope="module")
def paper_tables(tmp_path_factory: pytest.TempPathFactory) -> Experiments:
    """The paper's tables on folders that exist."""
    folder = tmp_path_factory.mktemp("official")
    (folder / "clip.mp4").write_bytes(b"video")
    tasks = {task: {"data": {"root": str(folder)}} for task in TASKS}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(__file__).parents[3])
        patch.setattr(identities, "_listed_files", lambda _, root: root.iterdir())
        return load([CONFIG, Path("config/paper.yaml")], {"tasks": tasks})


SWIN, VIT = (192, 192), (224, 128)
"""Pixels of frames and bins of spectrograms."""
AVE, AVE_VIT, AVS, AVQA = (-4.9848, 3.7080), (-4.1426, 3.2001), (-5.2105, 3.5918), (-5.3853, 3.5929)


@pytest.mark.parametrize("size", ["l", "b"])
@pytest.mark.parametrize(
    ("table", "task", "family", "sizes", "frames", "shift", "window", "audio"),
    [
        ("ave", "event_localization", "swin", SWIN, 192, 5.2, 1.0, AVE),
        ("ave", "event_localization", "vit", VIT, 102, 10.0, 1.0, AVE_VIT),
        ("avs", "segmentation_s4", "swin", SWIN, 192, 10.0, 1.0, AVS),
        ("avs", "segmentation_s4", "vit", VIT, 102, 10.0, 1.0, AVS),
        ("avs", "segmentation_ms3", "swin", SWIN, 192, 10.0, 1.0, AVS),
        ("avs", "segmentation_ms3", "vit", VIT, 102, 10.0, 1.0, AVS),
        ("avqa", "question_answering", "swin", SWIN, 192, 10.0, 1.95, AVQA),
        ("avqa", "question_answering", "vit", VIT, 192, 10.0, 1.95, AVQA),
        ("action", "action_recognition", "swin", SWIN, 192, 5.2, 1.0, AVE),
        ("action", "action_recognition", "vit", VIT, 102, 10.0, 1.0, AVE_VIT),
    ],
)
def test_published_settings_on_each_backbone(
    paper_tables: Experiments,
    size: str,
    table: str,
    task: str,
    family: str,
    sizes: tuple[int, int],
    frames: int,
    shift: float,
    window: float,
    audio: tuple[float, float],
) -> None:
    found = paper_tables.table(table)
    rows = {row["variant"]: row for section in found.spec["sections"] for row in section["rows"]}
    folder = rows[f"lavish_{family}_{size}"]["runs"][task]["folder"]
    config = next(run.config for run in found.runs if run.folder == folder)
    spectrogram = config.data.spectrogram
    assert (config.data.frame_size, spectrogram.mel_bins) == sizes
    assert (spectrogram.frames, spectrogram.shift_ms, spectrogram.window_seconds) == (frames, shift, window)
    # The published settings of 1.95 s drop one analysis frame of a window.
    assert 1000 * window - spectrogram.length_ms < (frames + 1) * shift
    assert config.normalisation.audio == audio


def test_every_table_of_the_default_can_be_resolved() -> None:
    loaded = load([CONFIG])
    assert {"ablation", "ave", "avs", "avqa", "action", "cost"} <= set(loaded.tables)
    assert not loaded.missing
    for name, figure in ((name, loaded.figure(name)) for name in loaded.figures):
        assert figure.runs, name


def test_every_method_has_a_row_in_the_comparison() -> None:
    compared = {run.config.adapter.method for run in load([CONFIG]).table("peft").runs}
    assert compared == {"none", *available("methods")}


def test_rows_at_the_budget_are_close_to_it_or_named() -> None:
    loaded = load([CONFIG])
    table = loaded.table("peft")
    said = table.spec["facts"]["matched_sizes"]
    found = {match["target"]: match for match in json.loads(Path("results/matched_sizes.json").read_text()).values()}
    assert 87_337 in found
    assert "are closest to its 87,337" in said
    rows = {label.run for label in loaded.labels if label.table == "peft" and label.variant.endswith("_matched")}
    matched = [run for run in table.runs if run.name in rows]
    assert len(matched) >= 8
    assert {run.config.task.name for run in matched} == {"event_localization"}
