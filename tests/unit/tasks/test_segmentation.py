"""The segmentation task: what counts, what is chosen on validation, what streams and sound do, and its numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from lavish.config.schema import RunConfig
from lavish.config.validation import parse
from lavish.cost.counter import count, example_clips
from lavish.data.formats.base import NOT_ANNOTATED
from lavish.errors import LavishError
from lavish.learner.build import build_model
from lavish.learner.uninitialised import skip_initialisation
from lavish.models.interfaces import Stream, StreamFeatures
from lavish.tasks.base import EncodedBatch, FeatureShape
from lavish.tasks.registry import build_task
from lavish.tasks.segmentation import Segmentation, Segmented
from lavish.training.jobs import RunInputs, evaluate, provide_weights, train
from tests.stores import run_values, write_store

CLIPS, SEGMENTS, SIZE = 3, 2, 16


def shape(
    streams: tuple[Stream, ...] = ("visual", "audio"), widths: list[int] | None = None, **more: Any
) -> FeatureShape:
    values: dict[str, Any] = {
        "stages": [(8, 2, 2)] * 4,
        "token_width": 8,
        "classes": ["sounding object"],
        "vocabulary": 0,
        "segments": SEGMENTS,
        "frame_size": SIZE,
    }
    return FeatureShape(widths=widths or [8] * len(streams), streams=streams, **values | more)


def task(given: FeatureShape | None = None, **options: Any) -> Segmentation:
    torch.manual_seed(0)
    built = build_task("segmentation", given or shape(), {"channels": 8, "levels": 2} | options)
    assert isinstance(built, Segmentation)
    return built


def encoded(streams: tuple[Stream, ...] = ("visual", "audio"), seed: int = 0) -> EncodedBatch:
    generator = torch.Generator().manual_seed(seed)
    features = {}
    for stream in streams:
        tokens = torch.randn(CLIPS * SEGMENTS, 5, 8, generator=generator)  # a class token before four patches
        features[stream] = StreamFeatures(tokens[:, 0], tokens, (tokens,) * 4, ((2, 2),) * 4)
    return EncodedBatch(features, [features[stream].pooled.unflatten(0, (CLIPS, SEGMENTS)) for stream in streams])


def masks(annotated: tuple[int, ...] = (1, 1)) -> dict[str, Tensor]:
    """Clip 0 has its object on the left, clip 1 above, clip 2 nowhere; segments that are not annotated hold 255."""
    truth = torch.zeros(CLIPS, SEGMENTS, SIZE, SIZE, dtype=torch.uint8)
    truth[0, :, :, :8], truth[1, :, :8] = 1, 1
    for segment, there in enumerate(annotated):
        if not there:
            truth[:, segment] = 255
    return {"masks": truth, "annotated": torch.tensor(annotated).bool().repeat(CLIPS).nonzero().squeeze(1)}


def logits_of(truth: Tensor, high: float = 4.0, low: float = -4.0) -> Tensor:
    return torch.where(truth.flatten(0, 1) == 1, high, low)


def test_a_perfect_prediction_scores_one_and_an_inverse_one_zero() -> None:
    head, targets = task(), masks()
    columns = head.score(Segmented(logits_of(targets["masks"])), targets)
    np.testing.assert_allclose(columns["score"], 1, atol=1e-6)
    assert columns["F_score_published"].tolist() == pytest.approx([1, 1, 0])  # no object: 0, as published
    assert head.summarise(columns) == pytest.approx(
        {"mIoU_validation_threshold": 1.0, "F_score": 1.0, "F_score_published": 2 / 3}, abs=1e-6
    )
    columns = head.score(Segmented(-logits_of(targets["masks"])), targets)
    np.testing.assert_allclose(columns["score"], 0, atol=1e-6)


def test_only_annotated_frames_count() -> None:
    head = task()
    logits = logits_of(masks()["masks"]).unflatten(0, (CLIPS, SEGMENTS))
    logits[:, 1] *= -1  # all wrong where nobody looks
    columns = head.score(Segmented(logits.flatten(0, 1)), masks((1, 0)))
    np.testing.assert_allclose(columns["score"], 1, atol=1e-6)
    assert columns["annotated_frames"].tolist() == [1, 1, 1]
    np.testing.assert_allclose(columns["F_score"][:2], 1)
    np.testing.assert_allclose(head.score(Segmented(logits.flatten(0, 1)), masks())["score"], 0.5, atol=1e-6)
    first = Segmented(logits[:, 0])
    assert head.loss(first, masks((1, 0))) == head.loss(Segmented(logits.flatten(0, 1)), masks((1, 0)))
    assert head.loss(Segmented(logits[:0, 0]), masks((0, 0))) == 0


def test_scores_do_not_depend_on_the_batch() -> None:
    head, targets = task(), masks((1, 0))
    logits = torch.randn(CLIPS * SEGMENTS, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    whole = head.score(Segmented(logits), targets)
    parts = [
        head.score(
            Segmented(logits[clip * SEGMENTS : (clip + 1) * SEGMENTS]), {"masks": targets["masks"][clip : clip + 1]}
        )
        for clip in range(CLIPS)
    ]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in whole}
    for name, column in whole.items():
        np.testing.assert_array_equal(joined[name], column, err_msg=name)
    assert head.summarise(joined) == head.summarise(whole)


def test_the_threshold_is_chosen_on_validation_and_saved() -> None:
    head, targets = task(), masks()
    # An unsure model: right order, all probabilities below 0.5.
    unsure = Segmented(logits_of(targets["masks"], high=-1.0, low=-3.0))
    columns = head.score(unsure, targets)
    assert columns["score"].tolist() == pytest.approx([0, 0, 1], abs=1e-6)
    np.testing.assert_array_equal(columns["mIoU_validation_threshold"], columns["score"])
    assert head.summarise(columns)["F_score"] == 0
    head.calibrate(columns)
    assert 0.048 < head.iou_threshold.item() < 0.269  # between both probabilities
    assert 0.048 < head.f_threshold.item() < 0.269
    calibrated = head.score(unsure, targets)
    np.testing.assert_allclose(calibrated["mIoU_validation_threshold"], 1, atol=1e-6)
    np.testing.assert_allclose(calibrated["F_score"][:2], 1)
    assert np.isnan(calibrated["F_score"][2])  # without an object
    np.testing.assert_array_equal(calibrated["score"], columns["score"])
    other = task()
    other.load_state_dict(head.state_dict())
    assert (other.iou_threshold, other.f_threshold) == (head.iou_threshold, head.f_threshold)


def test_the_f_score_of_a_split_takes_no_threshold_from_it() -> None:
    head, targets = task(), masks()
    head.calibrate(head.score(Segmented(logits_of(targets["masks"], high=3.0, low=1.0)), targets))
    # On the evaluated split every probability is below the threshold, in the right order.
    columns = head.score(Segmented(logits_of(targets["masks"], high=-1.0, low=-3.0)), targets)
    assert head.summarise(columns)["F_score"] == 0
    assert head.summarise(columns)["F_score_published"] == pytest.approx(2 / 3)


def test_training_decodes_annotated_frames_alone_with_the_same_gradients() -> None:
    head, inputs = task(), masks((1, 0))
    output = head(encoded(), inputs)
    assert output.logits.shape == (CLIPS, SIZE, SIZE)
    head.loss(output, inputs).backward()
    found = [parameter.grad.clone() for parameter in head.parameters() if parameter.grad is not None]
    head.zero_grad()
    head.eval()
    whole = head(encoded(), inputs)
    assert whole.logits.shape == (CLIPS * SEGMENTS, SIZE, SIZE)
    head.loss(whole, inputs).backward()
    expected = [parameter.grad for parameter in head.parameters() if parameter.grad is not None]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_batch_without_masks_trains_nothing() -> None:
    head, inputs = task(), masks((0, 0))
    loss = head.loss(head(encoded(), inputs), inputs)
    loss.backward()
    assert loss == 0


def test_the_loss_is_binary_cross_entropy_over_pixels() -> None:
    head, targets = task(), masks()
    logits = torch.randn(CLIPS * SEGMENTS, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    expected = functional.binary_cross_entropy(logits.sigmoid(), targets["masks"].flatten(0, 1).float())
    torch.testing.assert_close(head.loss(Segmented(logits), targets), expected)
    # Under autocast probabilities stay float32.
    columns = head.score(Segmented(logits.bfloat16()), targets)
    assert columns["score"].dtype == np.float64


@pytest.mark.parametrize("streams", [("visual",), ("audio",)])
def test_a_single_stream_is_decoded_alone(streams: tuple[Stream, ...]) -> None:
    head = task(shape(streams), tpavi=True).eval()
    assert len(head.interactions) == (2 if streams == ("audio",) else 0)
    given = encoded(streams)
    logits = head(given, masks()).logits
    assert logits.shape == (CLIPS * SEGMENTS, SIZE, SIZE)
    changed = {stream: encoded(streams, seed=1).streams[stream] for stream in streams}
    assert not torch.equal(head(EncodedBatch(changed, given.features), masks()).logits, logits)


def test_the_audio_stream_reaches_masks_through_the_maps_or_through_tpavi_only() -> None:
    one, other = encoded(), encoded(seed=1)
    mixed = EncodedBatch(one.streams, [one.features[0], other.features[1]])
    plain, reading = task().eval(), task(tpavi=True).eval()
    assert torch.equal(plain(one, masks()).logits, plain(mixed, masks()).logits)
    for interaction in reading.interactions:
        torch.nn.init.ones_(interaction.batch_norm.weight)
    assert not torch.equal(reading(one, masks()).logits, reading(mixed, masks()).logits)


def test_tpavi_reads_frames_without_a_mask_too() -> None:
    head, inputs = task(tpavi=True), masks((1, 0))
    given = encoded()
    output = head(given, inputs)
    assert output.logits.shape == (CLIPS, SIZE, SIZE)
    sound = given.features[1].clone().requires_grad_()
    for interaction in head.interactions:
        torch.nn.init.ones_(interaction.batch_norm.weight)
    head.loss(head(EncodedBatch(given.streams, [given.features[0], sound]), inputs), inputs).backward()
    assert sound.grad is not None
    assert sound.grad[:, 1].abs().sum() > 0


@pytest.mark.parametrize("widths", [[8, 8, 5], [8, 5]], ids=["join", "replace"])
def test_a_separate_audio_encoder_reaches_masks_through_tpavi(widths: list[int]) -> None:
    assert not task().interactions
    joined = shape(widths=widths, separate_audio=True)
    with pytest.raises(LavishError, match=r"audio_encoder\.use: .* set task\.options\.tpavi to true"):
        task(joined)
    head = task(joined, tpavi=True).eval()
    assert len(head.interactions) == 2
    assert head.audio.in_features == 5
    given = encoded()
    heard = EncodedBatch(given.streams, [*given.features[: len(widths) - 1], torch.randn(CLIPS, SEGMENTS, 5)])
    assert head(heard, masks()).logits.shape == (CLIPS * SEGMENTS, SIZE, SIZE)


@pytest.mark.parametrize("matching", ["divergence", "cosine"])
def test_the_matching_loss_follows_its_equation(matching: str) -> None:
    head, inputs = task(tpavi=True, matching=matching, matching_weight=0.25), masks((1, 0))
    output = head(encoded(), inputs)
    assert output.logits.shape == (CLIPS * SEGMENTS, SIZE, SIZE)  # all frames are compared
    terms = []
    for maps, audio in zip(output.maps, output.audio, strict=True):
        v, side = maps.relu(), maps.shape[-1]
        if matching == "divergence":
            pooled = functional.avg_pool2d(output.logits[:, None], SIZE // side)
            q = (v * pooled.sigmoid()).mean((2, 3)).softmax(-1)
            p = audio.softmax(-1)
            terms.append((p * (p / q).log()).sum())
        else:
            covered = functional.avg_pool2d(output.logits.sigmoid()[:, None], SIZE // side) > 0.5
            m = (v * covered).sum((2, 3)) / (covered.sum((2, 3)) + 1e-6)
            norms = m.norm(dim=-1).clamp(min=1e-8) * audio.norm(dim=-1).clamp(min=1e-8)
            terms.append(-(((m * audio).sum(-1) / norms).clamp(min=0) + 1e-6).log().mean())
    plain = task(tpavi=True)
    expected = plain.loss(output, inputs) + 0.25 * torch.stack(terms).mean()
    torch.testing.assert_close(head.loss(output, inputs), expected)
    head.loss(output, inputs).backward()
    assert head.interactions[0].align.weight.grad is not None


def test_matching_needs_tpavi_where_there_is_sound() -> None:
    with pytest.raises(LavishError, match=r"task\.options\.matching: .* set task\.options\.tpavi to true"):
        task(matching="divergence")
    assert task(shape(("visual",)), matching="divergence").matching == "none"


def test_predicted_masks_are_probabilities() -> None:
    head, targets = task(), masks()
    shown = head.predicted_masks(Segmented(logits_of(targets["masks"])), targets)
    assert shown["predicted"].shape == shown["truth"].shape == (CLIPS, SEGMENTS, SIZE, SIZE)
    assert torch.equal(shown["predicted"] > 0.5, shown["truth"] == 1)


def test_published_numbers_of_parameters() -> None:
    stages = [(192, 48, 48), (384, 24, 24), (768, 12, 12), (1536, 6, 6)]
    given = shape(widths=[1536, 1536], stages=stages, frame_size=192)
    with skip_initialisation():
        published = build_task("segmentation", given, {"unused_layers": "counted"})
        with_tpavi = build_task("segmentation", given, {"tpavi": True, "unused_layers": "counted"})
        visual = build_task(
            "segmentation", shape(("visual",), [1536], stages=stages, frame_size=192), {"unused_layers": "counted"}
        )

    def total(head: Any) -> int:
        return sum(parameter.numel() for parameter in head.parameters()) + head.unused_parameters()

    # Decoder with RCU'_4, stage projections, and the linear map of the audio feature: 20.51 M.
    assert total(published) == 19_214_529 + 1_094_656 + 196_736
    assert total(with_tpavi) == 19_214_529 + 1_094_656 + 196_736 + 4 * 165_760
    assert total(visual) == 19_214_529 + 1_094_656
    assert build_task("segmentation", shape(), {"channels": 8, "levels": 2}).unused_parameters() == 0


@pytest.mark.parametrize("tpavi", [False, True])
def test_every_operator_of_the_head_is_counted(tpavi: bool) -> None:
    values = run_values(task={"name": "segmentation", "options": {"channels": 8, "levels": 2, "tpavi": tpavi}})
    values["data"] = values["data"] | {"num_classes": 1, "format": "avsbench_s4"}  # type: ignore[operator]
    config = RunConfig.model_validate(values)
    statistics = {"frames": {"mean": [0.5] * 3, "std": [0.5] * 3}, "log_mels": {"mean": 0.0, "std": 1.0}}
    model = build_model(config, classes=["sounding object"], vocabulary=0, statistics=statistics, weights=None)
    counts = count(model, example_clips(model, config.data), config.data.segments)
    assert counts["head_params"] == sum(parameter.numel() for parameter in model.task.parameters())
    # By hand, of one image: ViT maps 2 x 2 to a pyramid of 4 x 4 and 2 x 2; dilation 3 alone stays within 4 x 4.
    projections = 4 * 16 * (10 + 16)
    resampling = 10 * (2 * 2 * 4 + 2 * 4 * 4) + 4 * (16 * 8 + 64 * 8 + 256 * 4)
    necks = 16 * (9 + 1) * 10 * 8 + 4 * 16 * 8
    units = 9 * 8 * 8 * 2 * (16 + 16 + 4)
    last = 64 * 9 * 8 * 4 + 256 * 9 * 4 * 8 + 256 * 8
    extra = counts["macs_by_module"]["model.task"] - SEGMENTS * (projections + resampling + necks + units + last)
    assert extra > 0 if tpavi else extra == 0


def test_it_is_trained_evaluated_and_calibrated_by_the_common_code(tmp_path: Path) -> None:
    for seed, (split, clips) in enumerate({"train": 24, "val": 12, "test": 12}.items()):
        # The object fills the left half of bright images (class 1 or 2 of the store's), and is nowhere in dark ones.
        labels = np.random.default_rng(seed).integers(0, 3, (clips, SEGMENTS))
        truth = np.zeros((clips, SEGMENTS, SIZE, SIZE), np.uint8)
        truth[..., :8] = (labels > 0)[..., None, None]
        if split == "train":
            truth[:, 1:] = NOT_ANNOTATED
        write_store(tmp_path / split, clips=clips, seed=seed, masks=truth)
    values = run_values(
        task={"name": "segmentation", "options": {"channels": 16, "levels": 3}},
        training={"epochs": 4, "batch_size": 4, "lr_adapter": 0.01, "lr_head": 0.01},
    )
    values["data"] = values["data"] | {"format": "avsbench_s4"}  # type: ignore[operator]
    config = parse(RunConfig, values, "test")
    provide_weights(config.backbone, tmp_path / "vit.safetensors")
    inputs = RunInputs(config, 0, tmp_path, tmp_path / "vit.safetensors")
    train(inputs, tmp_path / "seed0")
    evaluate(inputs, "test", tmp_path / "seed0")
    metrics = json.loads((tmp_path / "seed0/test/metrics.json").read_text())
    assert metrics["metric"] == "mIoU"
    assert metrics["value"] > 0.7
    assert set(metrics["measures"]) == {measure.name for measure in Segmentation.measures}
    assert metrics["measures"]["F_score"] > 0.7
    kept = load_file(tmp_path / "seed0/best.safetensors")
    assert 0 < kept["task.iou_threshold"] < 1
    assert kept["task.iou_threshold"] != 0.5
    assert 0 < kept["task.f_threshold"] < 1
