"""Which runs read features that are computed once, and under which names."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from lavish.config.schema import BackboneConfig, KeptFeatures, RunConfig
from lavish.config.validation import parse
from lavish.learner.frozen_features import FeatureLayout
from lavish.models.backbones.build import build_backbone
from lavish.planning.frozen_features import LARGEST, frozen_features, row_bytes
from lavish.planning.identities import Identities
from tests.stores import run_values

VIT: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 5, "num_heads": 2}
SWIN: dict[str, Any] = {"img_size": 32, "embed_dim": 8, "depths": [1, 1, 2], "num_heads": [1, 2, 2], "window_size": 2}


def names(**changes: Any) -> dict[str, str]:
    """Return the names of a run's features by stream."""
    config = parse(RunConfig, run_values(adapter={"method": "none"}) | changes, "test")
    identities = Identities()
    identities.needs_inputs = False
    return {stream: found.name for stream, found in frozen_features(identities.run(config)).items()}


def backbone(**changes: Any) -> dict[str, Any]:
    return {"backbone": {**run_values()["backbone"], **changes}}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("model", "spec"),
    [
        ("vit", VIT),
        ("vit", {**VIT, "class_token": False, "global_pool": "avg"}),
        ("vit", {**VIT, "reg_tokens": 3}),
        ("swin", SWIN),
        ("swinv2", {**SWIN, "patch_size": 2}),
    ],
)
@pytest.mark.parametrize("kept", get_args(KeptFeatures))
def test_the_plan_knows_the_size_of_a_row(model: str, spec: dict[str, Any], kept: KeptFeatures) -> None:
    config = BackboneConfig.model_validate({"model": model, "spec": spec, "weights": {"source": "random"}})
    layout = FeatureLayout(build_backbone(model, spec, 32), (32, 32), kept)
    assert row_bytes(config, (32, 32), kept) == 4 * layout.width


@pytest.mark.parametrize(
    "changes",
    [
        {"adapter": {"method": "lavish"}},
        backbone(tune_norms=True),
        backbone(stochastic_depth=True),
        {"training": {"precision": "bf16"}},
    ],
)
def test_runs_whose_features_change_or_are_not_float32_have_none(changes: dict[str, Any]) -> None:
    assert set(names()) == {"visual", "audio"}
    assert not names(**changes)


def test_maps_are_kept_if_they_are_small_and_pooled_features_always() -> None:
    segmentation = {"task": {"name": "segmentation", "options": {"channels": 8, "levels": 1}}}
    assert set(names(**segmentation)) == {"visual", "audio"}
    side = 8 * int((LARGEST / (4 * 16 * 4)) ** 0.5 + 1)
    data = {**run_values()["data"], "frame_size": side}  # type: ignore[dict-item]
    assert set(names(**segmentation, data=data)) == {"audio"}
    assert set(names(data=data)) == {"visual", "audio"}
    named = {"backbone": {"model": "vit_base_patch16_224.augreg_in21k", "weights": {"source": "random"}}}
    assert set(names(**segmentation, **named)) == {"audio"}
    assert not names(**segmentation, **named, modalities="visual")


def test_each_stream_has_the_features_of_its_own_backbone() -> None:
    other = {"model": "vit", "spec": {**VIT, "in_chans": 1}, "weights": {"source": "random"}}
    shared, separate = names(), names(backbones={"audio": other})
    assert separate["visual"] == shared["visual"]
    assert separate["audio"] != shared["audio"]
    assert names(backbones={"audio": other}, modalities="audio") == {"audio": separate["audio"]}


def test_runs_that_differ_above_the_backbone_share_features() -> None:
    both = names()
    assert names(modalities="audio") == {"audio": both["audio"]}
    assert names(modalities="visual") == {"visual": both["visual"]}
    assert names(training={"epochs": 9, "lr_head": 0.5}, fusion={"direction": "none"}) == both
    actions = names(task={"name": "action_recognition"})
    assert actions["audio"] == both["audio"]
    assert actions["visual"] != both["visual"]
    questions = {**run_values()["data"], "format": "music_avqa", "vocabulary": 5}  # type: ignore[dict-item]
    assert names(task={"name": "question_answering"}, data=questions)["visual"] == actions["visual"]


@pytest.mark.parametrize(
    ("changes", "streams"),
    [
        ({"normalisation": {"frames": "imagenet"}}, {"visual"}),
        ({"normalisation": {"frames": "train", "audio": (1.0, 2.0)}}, {"audio"}),
        ({"training": {"cpu_threads": 2}}, {"visual", "audio"}),
        ({"training": {"cpu_dispatch": "native"}}, {"visual", "audio"}),
        (backbone(positions="linear"), {"visual", "audio"}),
        (backbone(weights={"source": "random", "seed": 1}), {"visual", "audio"}),
    ],
)
def test_what_features_depend_on_is_in_their_names(changes: dict[str, Any], streams: set[str]) -> None:
    before, after = names(), names(**changes)
    assert {stream for stream in before if before[stream] != after[stream]} == streams
