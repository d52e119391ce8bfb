"""Question answering: loss, accuracies by type, one stream removed, separate audio encoders, sizes and costs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from torch import Tensor, nn

from lavish.config.schema import RunConfig
from lavish.config.validation import parse
from lavish.cost import counter as cost
from lavish.data.formats.music_avqa import TYPES, WORD_SLOTS
from lavish.data.store.batches import Batch
from lavish.errors import LavishError
from lavish.learner.build import build_model
from lavish.learner.model import AudioVisualModel
from lavish.models.interfaces import Stream, StreamFeatures
from lavish.tasks.base import EncodedBatch, FeatureShape
from lavish.tasks.question_answering import Answers, QuestionAnswering
from lavish.training.jobs import RunInputs, evaluate, provide_weights, train
from tests.stores import run_values, write_store

CLIPS, SEGMENTS, GRID, TOKEN, WORDS, ANSWERS = 2, 3, (2, 2), 6, 9, ["yes", "no", "two"]
BOTH: tuple[Stream, ...] = ("visual", "audio")


def shape(streams: tuple[Stream, ...] = BOTH, widths: list[int] | None = None, **changes: int) -> FeatureShape:
    return FeatureShape(
        widths=widths or [TOKEN] * len(streams),
        stages=[(TOKEN, *GRID)],
        token_width=changes.pop("token_width", TOKEN),
        classes=[""] * changes.pop("answers", len(ANSWERS)),
        vocabulary=changes.pop("vocabulary", WORDS),
        segments=SEGMENTS,
        frame_size=16,
        streams=streams,
    )


def head(streams: tuple[Stream, ...] = BOTH, widths: list[int] | None = None, **options: float) -> QuestionAnswering:
    torch.manual_seed(0)
    return QuestionAnswering(shape(streams, widths), **{"width": 8, **options}).eval()


def encoded(
    streams: tuple[Stream, ...] = BOTH, more: list[Tensor] | None = None, negatives: bool = False, replace: bool = False
) -> EncodedBatch:
    """Return features of a batch, class tokens in front of the patches."""
    torch.manual_seed(1)
    tokens = {stream: torch.randn(CLIPS * SEGMENTS, 1 + math.prod(GRID), TOKEN) for stream in streams}
    features = {stream: StreamFeatures(x[:, 0], x, (x,), (GRID,)) for stream, x in tokens.items()}
    pooled = [features[s].pooled.unflatten(0, (CLIPS, SEGMENTS)) for s in streams if not (replace and s == "audio")]
    return EncodedBatch(
        features,
        [*pooled, *(more or [])],
        rows=torch.tensor([0, 1, 1]),
        negatives=torch.randn(CLIPS * SEGMENTS, math.prod(GRID), TOKEN) if negatives else None,
    )


@pytest.fixture
def asked() -> dict[str, Tensor]:
    torch.manual_seed(2)
    return {
        "questions": torch.randint(0, WORDS + 1, (3, WORD_SLOTS)),
        "answers": torch.tensor([2, 0, 1]),
        "types": torch.tensor([0, 3, 8]),
    }


def test_loss_is_that_of_answers_and_half_that_of_matches() -> None:
    logits = torch.tensor([[1.0, 0, 0], [0, 2, 0]])
    matches = torch.randn(2, 1, 2, 2)  # one clip of two segments
    targets = {"answers": torch.tensor([0, 2])}
    answers = -(logits.log_softmax(1)[0, 0] + logits.log_softmax(1)[1, 2]) / 2
    sure = matches.log_softmax(-1)
    # Frames of other clips are class 0, the clip's own are class 1.
    match = -(sure[0, 0, :, 0].sum() + sure[1, 0, :, 1].sum()) / 4
    task = head()
    torch.testing.assert_close(task.loss(Answers(logits, None), targets), answers)
    torch.testing.assert_close(task.loss(Answers(logits, matches), targets), answers + 0.5 * match)
    torch.testing.assert_close(head(match_weight=2.0).loss(Answers(logits, matches), targets), answers + 2 * match)


def test_measures_are_the_types_of_the_data_set() -> None:
    names = ["_".join(("accuracy", *kind)).lower().replace("-", "_") for kind in TYPES]
    groups = ["_".join(("accuracy", group)).lower().replace("-", "_") for group in dict.fromkeys(t[0] for t in TYPES)]
    assert [measure.name for measure in QuestionAnswering.measures] == groups + names


def test_accuracies_by_hand() -> None:
    nan = float("nan")
    logits = torch.eye(3)[[0, 1, 2, 0, 0]]
    # Two on counting what is heard, of which one is right; one on where something is seen; two on what is both, one of
    # which has an answer that training does not know.
    targets = {"answers": torch.tensor([0, 0, 2, 0, -1]), "types": torch.tensor([0, 0, 3, 5, 8])}
    task = head()
    columns = task.score(Answers(logits, None), targets)
    assert columns["score"].tolist() == [1, 0, 1, 1, 0]
    assert columns["prediction"].tolist() == [0, 1, 2, 0, 0]
    assert columns["answer"].tolist() == [0, 0, 2, 0, -1]
    assert columns["type"].tolist() == [0, 0, 3, 5, 8]
    np.testing.assert_array_equal(columns["accuracy_audio"], [1, 0, nan, nan, nan])
    np.testing.assert_array_equal(columns["accuracy_audio_visual"], [nan, nan, nan, 1, 0])
    np.testing.assert_array_equal(columns["accuracy_audio_counting"], [1, 0, nan, nan, nan])
    np.testing.assert_array_equal(columns["accuracy_audio_visual_counting"], [nan, nan, nan, 1, nan])
    found = task.summarise(columns)
    assert found.keys() == {measure.name for measure in task.measures}
    expected = {
        "accuracy_audio": 0.5,
        "accuracy_visual": 1.0,
        "accuracy_audio_visual": 0.5,
        "accuracy_audio_counting": 0.5,
        "accuracy_visual_location": 1.0,
        "accuracy_audio_visual_counting": 1.0,
        "accuracy_audio_visual_temporal": 0.0,
    }
    assert {name: value for name, value in found.items() if not math.isnan(value)} == expected


@pytest.mark.parametrize(
    ("streams", "widths", "more", "replace"),
    [
        (BOTH, [TOKEN, TOKEN], 0, False),
        (BOTH, [TOKEN, TOKEN, 5], 5, False),  # a separate audio encoder joins
        (BOTH, [TOKEN, 5], 5, True),  # it replaces
        (("visual",), [TOKEN, 5], 5, False),
        (("visual",), [TOKEN], 0, False),
        (("audio",), [TOKEN], 0, False),
        (("audio",), [5], 5, True),
    ],
)
def test_every_layer_is_trained_whatever_streams_there_are(
    streams: tuple[Stream, ...], widths: list[int], more: int, replace: bool, asked: dict[str, Tensor]
) -> None:
    task = head(streams, widths, width=32).train()  # wide enough that no ReLU is dead
    assert task.negatives == ("visual" in streams and sum(widths) > TOKEN)
    extra = [torch.randn(CLIPS, SEGMENTS, more)] if more else []
    output = task(encoded(streams, extra, negatives=task.negatives, replace=replace), asked)
    assert output.logits.shape == (3, len(ANSWERS))
    assert (output.matches is None) == (not task.negatives)
    task.loss(output, asked).backward()
    assert [name for name, p in task.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_frames_of_other_clips_are_wanted_only_for_a_match_that_counts() -> None:
    assert head().negatives
    assert not head(match_weight=0.0).negatives
    assert not head(("visual",)).negatives


def test_patches_are_grounded_and_class_tokens_are_not(asked: dict[str, Tensor]) -> None:
    task = head(("visual",))
    features = encoded(("visual",))
    before = task(features, asked).logits
    features.streams["visual"].tokens[:, 0] += 1
    assert torch.equal(task(features, asked).logits, before)
    features.streams["visual"].tokens[:, 1] += 1
    assert not torch.allclose(task(features, asked).logits, before)


def test_a_data_set_without_questions_is_refused() -> None:
    with pytest.raises(LavishError, match=r"needs questions.*data\.format: music_avqa.*data\.vocabulary"):
        QuestionAnswering(shape(vocabulary=0))


def test_unused_layers_are_counted_on_request() -> None:
    sizes = shape(BOTH, [1536, 1536], token_width=1536, vocabulary=92, answers=42)
    task = QuestionAnswering(sizes, unused_layers="counted")
    used = sum(parameter.numel() for parameter in task.parameters())
    # Written out: two 128 -> 512, 2048 -> 512, 1024 -> 512, four 512 -> 512 linear layers and a layer norm.
    unused = 2 * 129 * 512 + 2049 * 512 + 1025 * 512 + 4 * 513 * 512 + 2 * 512
    assert task.unused_parameters() == unused == 2_757_632
    assert used + unused == 12_182_188  # the 12.18 M of facts on the published code
    assert QuestionAnswering(sizes).unused_parameters() == 0


def model(modalities: str = "audio_visual") -> tuple[AudioVisualModel, RunConfig]:
    values = run_values(task={"name": "question_answering", "options": {"width": 8}}, modalities=modalities)
    config = parse(RunConfig, values, "test")
    statistics = {"frames": {"mean": [0.5] * 3, "std": [0.5] * 3}, "log_mels": {"mean": 0.0, "std": 1.0}}
    return build_model(config, classes=ANSWERS, vocabulary=WORDS, statistics=statistics, weights=None), config


def test_costs_by_hand() -> None:
    learner, config = model()
    found = cost.count(learner, cost.example_clips(learner, config.data), config.data.segments)
    d, token, segments = 8, learner.encoder.backbone.feature_dim, config.data.segments
    patches = (config.data.frame_size // 8) ** 2
    question = WORD_SLOTS * 8 * d * d + 2 * d * d  # four gates of input and state; their final state
    sound = segments * (token * d + d * d)
    grounding = segments * (patches * (token * d + 2 * d) + 2 * d * d)
    attention = 2 * (d * d + segments * 2 * d * d + segments * 2 * d + 3 * d * d)
    answer = 2 * d * d + d * len(ANSWERS)
    norms = 2 * 5 * d
    inside = found["macs_by_module"]["model.encoder"]
    assert found["total_macs"] - inside == question + sound + grounding + attention + answer + norms


def test_products_of_recurrences_are_counted() -> None:
    class Recurrent(nn.Module):
        def __init__(self, **options: bool | int) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 5, batch_first=True, **options)

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(x)[0]

    x = torch.zeros(2, 7, 3)
    assert cost._count(Recurrent(), (x,)).total() == 2 * 7 * 4 * 5 * (3 + 5)
    both = 2 * 7 * 2 * 4 * 5 * ((3 + 5) + (10 + 5))
    assert cost._count(Recurrent(num_layers=2, bidirectional=True), (x,)).total() == both


@pytest.mark.parametrize("modalities", ["audio_visual", "visual", "audio"])
def test_a_training_step_from_pixels_and_spectrograms(modalities: str, asked: dict[str, Tensor]) -> None:
    learner, config = model(modalities)
    rng = np.random.default_rng(0)
    size, segments = config.data.frame_size, config.data.segments
    sound = config.data.spectrogram
    frames = torch.from_numpy(rng.integers(0, 255, (2, CLIPS, segments, size, size, 3), dtype=np.uint8))
    batch = Batch(
        frames=None if modalities == "audio" else frames[0],
        log_mels=None if modalities == "visual" else torch.randn(CLIPS, segments, sound.mel_bins, sound.frames),
        audio_features=None,
        targets=asked,
        units=np.arange(3),
        rows=torch.tensor([1, 0, 1]),
        negatives=frames[1] if learner.task.negatives else None,
    )
    output = learner.train()(batch)
    learner.task.loss(output, asked).backward()
    trained = [p for p in learner.parameters() if p.requires_grad]
    assert trained
    assert all(p.grad is not None for p in trained)
    assert len(learner.task.score(output, asked)["score"]) == 3


def test_training_and_evaluation_of_questions_that_share_clips(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, clips in {"train": 12, "val": 6, "test": 6}.items():
        # Not in the order of clips, and not as many for each; the word that is asked decides the answer.
        units = rng.permutation(np.repeat(np.arange(clips), rng.integers(1, 6, clips)))
        word = rng.integers(1, 3, len(units))
        questions = np.repeat(word[:, None], WORD_SLOTS, axis=1)
        targets = {"questions": questions, "answers": word - 1, "types": np.arange(len(units)) % 9}
        write_store(tmp_path / split, clips=clips, units=units, targets=targets, vocabulary=5)
    changes = {"epochs": 8, "batch_size": 8, "lr_adapter": 0.01, "lr_head": 0.01}
    task = {"name": "question_answering", "options": {"width": 16}}
    config = parse(RunConfig, run_values(task=task, training=changes), "test")
    provide_weights(config.backbone, tmp_path / "vit.safetensors")
    run = tmp_path / "run"
    inputs = RunInputs(config, 0, tmp_path, tmp_path / "vit.safetensors")
    train(inputs, run)
    evaluate(inputs, "test", run)

    metrics = json.loads((run / "test" / "metrics.json").read_text())
    columns = pyarrow.parquet.read_table(run / "test" / "predictions.parquet").to_pydict()
    stored = np.load(tmp_path / "test" / "targets.npz")
    assert metrics["value"] > 0.9
    assert metrics["units"] == len(stored["answers"])
    assert columns["answer"] == stored["answers"].tolist()
    assert columns["type"] == stored["types"].tolist()
    assert columns["clip"] == [f"-clip{clip:03d}" for clip in np.load(tmp_path / "test" / "units.npy")]
    right = np.array(columns["prediction"]) == stored["answers"]
    assert metrics["measures"].keys() == {measure.name for measure in QuestionAnswering.measures}
    assert metrics["measures"]["accuracy_audio"] == right[stored["types"] < 2].mean()
    assert metrics["measures"]["accuracy_audio_visual_temporal"] == right[stored["types"] == 8].mean()
