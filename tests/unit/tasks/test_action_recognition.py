"""Action recognition: what pooling sees, where things are, streams of all kinds, numbers made by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from lavish.config.schema import RunConfig
from lavish.config.validation import parse
from lavish.cost.counter import count, example_clips
from lavish.errors import LavishError
from lavish.learner.build import build_model
from lavish.learner.uninitialised import skip_initialisation
from lavish.models.interfaces import Stream, StreamFeatures
from lavish.tasks.action_recognition import ActionRecognition, _cells
from lavish.tasks.base import EncodedBatch, FeatureShape
from lavish.tasks.registry import build_task
from lavish.training.jobs import RunInputs, evaluate, provide_weights, train
from tests.stores import run_values, write_store

CLIPS, SEGMENTS, WIDTH, SEPARATE = 3, 4, 8, 5
BOTH: tuple[Stream, ...] = ("visual", "audio")


def shape(streams: tuple[Stream, ...] = BOTH, *, classes: int = 7, separate: str = "none") -> FeatureShape:
    pooled = [stream for stream in streams if not (stream == "audio" and separate == "replace")]
    return FeatureShape(
        widths=[WIDTH] * len(pooled) + ([] if separate == "none" else [SEPARATE]),
        stages=[(WIDTH, 2, 4)] * 4,
        token_width=WIDTH,
        classes=[f"class {index}" for index in range(classes)],
        vocabulary=0,
        segments=SEGMENTS,
        frame_size=16,
        streams=streams,
        separate_audio=separate != "none",
    )


def encoded(
    streams: tuple[Stream, ...] = BOTH, *, separate: str = "none", order: list[int] | None = None
) -> EncodedBatch:
    """Return features of clips with one class token and 2 x 4 patches per image; segments are put into `order`."""
    generator = torch.Generator().manual_seed(0)
    chosen = list(range(SEGMENTS)) if order is None else order
    features: dict[Stream, StreamFeatures] = {}
    for stream in streams:
        tokens = torch.randn(CLIPS, SEGMENTS, 9, WIDTH, generator=generator)[:, chosen].flatten(0, 1)
        features[stream] = StreamFeatures(tokens[:, 1:].mean(1), tokens, (tokens,) * 4, ((2, 4),) * 4)
    pooled = [
        features[stream].pooled.unflatten(0, (CLIPS, len(chosen)))
        for stream in streams
        if not (stream == "audio" and separate == "replace")
    ]
    if separate != "none":
        pooled.append(torch.randn(CLIPS, SEGMENTS, SEPARATE, generator=generator)[:, chosen])
    return EncodedBatch(features, pooled)


def task(given: FeatureShape | None = None, **options: Any) -> ActionRecognition:
    torch.manual_seed(0)
    built = build_task("action_recognition", given or shape(), options)
    assert isinstance(built, ActionRecognition)
    return built


@pytest.mark.parametrize("pooling", ["mean", "max", "attention"])
@pytest.mark.parametrize("grid", [1, 2])
@pytest.mark.parametrize(
    ("streams", "separate"),
    [
        (BOTH, "none"),
        (("visual",), "none"),
        (("audio",), "none"),
        (BOTH, "join"),
        (BOTH, "replace"),
        (("audio",), "replace"),
    ],
)
def test_any_streams_with_or_without_a_separate_encoder(
    pooling: str, grid: int, streams: tuple[Stream, ...], separate: str
) -> None:
    head = task(shape(streams, separate=separate), pooling=pooling, grid=grid, hidden=6)
    output = head(encoded(streams, separate=separate), {})
    assert output.shape == (CLIPS, 7)
    head.loss(output, {"labels": torch.tensor([0, 6, 3])}).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


@pytest.mark.parametrize(("pooling", "sees_order"), [("mean", False), ("max", False), ("attention", True)])
def test_only_attention_sees_the_order_of_steps(pooling: str, sees_order: bool) -> None:
    head = task(pooling=pooling)
    forwards, backwards = head(encoded(), {}), head(encoded(order=[3, 2, 1, 0]), {})
    assert torch.allclose(forwards, backwards, atol=1e-6) != sees_order


def test_pooling_by_hand() -> None:
    segments = torch.randn(2, SEGMENTS, 2 * WIDTH)
    assert torch.equal(task(pooling="mean")._pooled(segments), segments.mean(1))
    assert torch.equal(task(pooling="max")._pooled(segments), segments.max(1).values)
    head = task(pooling="attention")
    expected = []
    for clip in segments:
        placed = [clip[segment] + head.positions[segment] for segment in range(SEGMENTS)]
        weights = [math.exp((segment @ head.query).item() / math.sqrt(2 * WIDTH)) for segment in placed]
        expected.append(sum(weight * segment for weight, segment in zip(weights, placed, strict=True)) / sum(weights))
    assert torch.allclose(head._pooled(segments), torch.stack(expected), atol=1e-6)


def test_attention_pools_fewer_steps_than_it_has_positions_for() -> None:
    assert task(pooling="attention")(encoded(order=[0, 1]), {}).shape == (CLIPS, 7)


def test_a_grid_tells_places_apart_and_the_whole_picture_does_not() -> None:
    given = encoded(("visual",))
    tokens = given.streams["visual"].tokens.unflatten(1, (9,))
    # The right half of every image goes to the left; the class token stays.
    patches = tokens[:, 1:].unflatten(1, (2, 4)).roll(2, dims=2).flatten(1, 2)
    swapped = torch.cat([tokens[:, :1], patches], dim=1)
    moved = StreamFeatures(patches.mean(1), swapped, (swapped,) * 4, ((2, 4),) * 4)
    other = EncodedBatch({"visual": moved}, [moved.pooled.unflatten(0, (CLIPS, SEGMENTS))])
    whole, cells = (task(shape(("visual",)), pooling="max", grid=grid) for grid in (1, 2))
    assert torch.allclose(whole(given, {}), whole(other, {}), atol=1e-6)
    assert not torch.allclose(cells(given, {}), cells(other, {}), atol=1e-2)


def test_cells_are_averages_of_patches() -> None:
    maps = torch.arange(2 * 3 * 2 * 5, dtype=torch.float32).reshape(2, 3, 2, 5)
    cells = _cells(maps, 2).unflatten(1, (2, 2, 3))
    assert torch.equal(cells[:, 0, 0], maps[:, :, 0, :2].mean(-1))
    assert torch.equal(cells[:, 1, 1], maps[:, :, 1, 2:].mean(-1))
    assert cells.shape == (2, 2, 2, 3)


def test_loss_is_the_cross_entropy_against_smoothed_labels() -> None:
    logits, labels = torch.randn(CLIPS, 7), torch.tensor([1, 0, 6])
    truth = torch.full((CLIPS, 7), 0.3 / 7)
    truth[range(CLIPS), labels] += 0.7
    expected = -(truth * logits.log_softmax(1)).sum(1).mean()
    loss = task(label_smoothing=0.3).loss(logits.half(), {"labels": labels})
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(expected), abs=2e-3)


def test_scores_by_hand() -> None:
    logits = torch.tensor([[9, 8, 7, 6, 5, 4, 3], [9, 8, 7, 6, 5, 4, 3], [9, 8, 7, 6, 5, 4, 3], [1, 1, 1, 1, 1, 1, 1]])
    columns = task().score(logits.float(), {"labels": torch.tensor([0, 4, 5, 5])})
    assert columns["score"].tolist() == [1, 0, 0, 0]
    assert columns["top_5_accuracy"].tolist() == [1, 1, 0, 0]  # all alike: the first five classes
    assert columns["predictions"].tolist() == [0, 0, 0, 0]
    assert columns["labels"].tolist() == [0, 4, 5, 5]
    assert task().summarise(columns) == {"top_5_accuracy": 0.5}


@pytest.mark.parametrize("classes", [1, 3, 5])
def test_top_5_of_five_classes_or_fewer_is_always_right(classes: int) -> None:
    head = task(shape(classes=classes))
    columns = head.score(head(encoded(), {}), {"labels": torch.full((CLIPS,), classes - 1)})
    assert columns["top_5_accuracy"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": -1}, "task.options.hidden is -1"),
        ({"label_smoothing": 1.0}, "task.options.label_smoothing is 1: give at least 0 and less than 1"),
        ({"grid": 3}, "task.options.grid is 3, but the backbone's last map has 2 x 4 patches: give 1 to 2"),
        ({"grid": 0}, "task.options.grid is 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(LavishError, match=message):
        task(**options)


def configuration(**changes: Any) -> RunConfig:
    options = {"pooling": "attention", "grid": 2, "hidden": 8}
    values = run_values(task={"name": "action_recognition", "options": options}, **changes)
    return parse(RunConfig, values, "test")


@pytest.mark.parametrize("modalities", ["audio_visual", "visual", "audio"])
def test_training_and_evaluation(tmp_path: Path, modalities: str) -> None:
    labels = {}
    for seed, split in enumerate(("train", "val")):
        labels[split] = np.arange(12) % 2
        write_store(tmp_path / split, seed=seed, targets={"labels": labels[split]})
    config = configuration(modalities=modalities)
    provide_weights(config.backbone, tmp_path / "backbone.safetensors")
    inputs = RunInputs(config, 0, tmp_path, tmp_path / "backbone.safetensors")
    train(inputs, tmp_path / "run")
    evaluate(inputs, "val", tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "val" / "metrics.json").read_text())
    rows = pq.read_table(tmp_path / "run" / "val" / "predictions.parquet").to_pydict()
    assert rows["labels"] == labels["val"].tolist()
    assert metrics["value"] == pytest.approx(np.mean(np.array(rows["predictions"]) == labels["val"]))
    assert metrics["measures"] == {"top_5_accuracy": 1.0}


def test_cost_of_the_head_by_hand() -> None:
    config = configuration()
    statistics = {"frames": {"mean": [0.5] * 3, "std": [0.5] * 3}, "log_mels": {"mean": 0.0, "std": 1.0}}
    with skip_initialisation():
        model = build_model(config, classes=["a", "b"], vocabulary=0, statistics=statistics, weights=None)
    counted = count(model, example_clips(model, config.data), config.data.segments)
    width = 16 * (4 + 1)  # four cells and the audio stream
    assert counted["head_params"] == width + 2 * width + (width + 1) * 8 + (8 + 1) * 2
    # The query with every segment, the weighted sum of segments, and two linear layers.
    assert counted["macs_by_module"]["model.task"] == 2 * width + 2 * width + width * 8 + 8 * 2
