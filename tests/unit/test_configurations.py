"""The configuration files of the repository, resolved: what each of them says of each task."""

from __future__ import annotations

from pathlib import Path

import pytest

from lavish.config import RunConfig
from lavish.experiments import load, task_defaults

CONFIG = Path("config/config.yaml")
TASKS = ("event_localization", "segmentation_s4", "segmentation_ms3", "question_answering", "action_recognition")


@pytest.fixture(autouse=True)
def repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])


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


@pytest.mark.parametrize("task", TASKS)
def test_av_pairs_changes_the_assets_and_numbers_alone(task: str) -> None:
    pairs, default = of(task, "av_pairs"), of(task)
    assert pairs.data.compose is not None
    assert default.data.compose is not None
    assert pairs.data.compose.assets.kind == "folder"
    data = {"name", "compose", "num_classes", "vocabulary"}
    assert pairs.data.model_dump(exclude=data) == default.data.model_dump(exclude=data)
    assert pairs.model_dump(exclude={"data"}) == default.model_dump(exclude={"data"})


@pytest.mark.parametrize("task", TASKS)
def test_the_papers_sets_lie_on_disk(task: str) -> None:
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


def test_every_table_of_the_default_can_be_resolved() -> None:
    loaded = load([CONFIG])
    assert {"ablation", "ave", "avs", "avqa", "action", "cost"} <= set(loaded.tables)
    assert not loaded.missing
    for name, figure in ((name, loaded.figure(name)) for name in loaded.figures):
        assert figure.runs, name
