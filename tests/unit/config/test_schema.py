"""Configuration: merging, errors that name the key, identities, options read from source."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lavish.config.hashing import digest
from lavish.config.merging import merge
from lavish.config.options import defines, option_model, task_measures
from lavish.config.schema import DataConfig, RunConfig, SpectrogramConfig
from lavish.config.sources import available
from lavish.config.validation import parse
from lavish.errors import LavishError, did_you_mean
from tests.stores import run_values


def error_of(**changes: object) -> str:
    with pytest.raises(LavishError) as caught:
        parse(RunConfig, run_values(**changes), "row 'x' of table y")
    return str(caught.value)


def test_a_misspelt_key_is_named_with_the_nearest_valid_one():
    message = error_of(trainning={"epochs": 1})
    assert "row 'x' of table y" in message
    assert "unknown key 'trainning' (did you mean 'training'?)" in message


def test_a_misspelt_key_inside_an_alternative_is_named():
    message = error_of(backbone={"model": "vit", "weights": {"source": "file", "pth": "x"}})
    assert "unknown key 'backbone.weights.file.pth' (did you mean 'path'?)" in message


def test_a_misspelt_option_of_an_adapter_is_named():
    message = error_of(adapter={"method": "lavish", "options": {"latent": 3}})
    assert "method 'lavish' has no option 'latent' (did you mean 'latents'?)" in message


def test_an_option_of_the_wrong_type_is_named():
    message = error_of(adapter={"method": "lavish", "options": {"gate_order": "sideways"}})
    assert "option 'gate_order' of method 'lavish'" in message


def test_unknown_methods_and_tasks_are_named():
    assert "unknown method 'lavsh' (did you mean 'lavish'?)" in error_of(adapter={"method": "lavsh"})
    assert "unknown task 'event_localisation' (did you mean 'event_localization'?)" in error_of(
        task={"name": "event_localisation"}
    )


def test_no_task_is_the_default():
    values = run_values()
    del values["task"]
    with pytest.raises(LavishError, match="missing key 'task'"):
        parse(RunConfig, values, "test")
    assert "missing key 'task.name'" in error_of(task={"options": {}})


def test_a_value_out_of_range_is_named():
    assert "key 'training.epochs'" in error_of(training={"epochs": 0})


@pytest.mark.parametrize("both", [{"root": "x", "compose": None}, {"root": None}])
def test_data_has_one_source(both):
    data = run_values()["data"] | both | ({} if both["root"] is None else {"compose": COMPOSE})
    assert "exactly one of `root`" in error_of(data=data)


def test_audio_encoder_and_data_need_the_same_spectrograms():
    weights = {"source": "random"}
    message = error_of(
        audio_encoder={"kind": "transformer", "weights": weights, "spec": {"mel_bins": 24, "frames": 16}}
    )
    assert "audio_encoder.spec.mel_bins is 24, but data.spectrogram.mel_bins is 16" in message
    spectrogram = {"mel_bins": 16, "frames": 16, "filter_bank": "slaney", "low_hz": 50.0}
    message = error_of(
        data=run_values()["data"] | {"spectrogram": spectrogram},
        audio_encoder={"kind": "transformer", "weights": weights, "spec": {"mel_bins": 16, "frames": 16}},
    )
    assert "remove filter_bank, low_hz from data.spectrogram" in message


def test_filters_end_at_half_the_sample_rate():
    data = run_values()["data"]
    for values in ({"high_hz": 8001.0}, {"low_hz": 8000.0}, {"low_hz": 50.0, "high_hz": 40.0}):
        assert "at most half the sample rate (8000 Hz)" in error_of(data=data | {"spectrogram": values})


def test_keys_of_the_filters_are_recorded_only_where_they_are_set():
    """Stores and records of earlier versions have none of them."""
    keys = ["sample_rate", "mel_bins", "shift_ms", "length_ms", "frames", "window_seconds", "window_margin"]
    assert list(SpectrogramConfig().model_dump(mode="json")) == keys
    changed = {"filter_bank": "slaney", "low_hz": 50.0, "high_hz": 7000.0}
    assert list(SpectrogramConfig.model_validate(changed).model_dump(mode="json")) == [*keys, *changed]


def test_only_pictures_have_a_quality_and_the_form_is_recorded_only_where_it_is_set():
    data = run_values()["data"]
    message = error_of(data=data | {"store": {"frames": "raw", "quality": 80}})
    assert "raw frames have no `quality`: remove it" in message
    assert "'raw', 'jpeg' or 'webp'" in error_of(data=data | {"store": {"frames": "png"}})
    assert "key 'data.store.quality'" in error_of(data=data | {"store": {"frames": "jpeg", "quality": 101}})
    assert "store" not in DataConfig.model_validate(data | {"store": {"frames": "raw"}}).model_dump(mode="json")
    chosen = {"frames": "webp", "quality": 75}
    assert DataConfig.model_validate(data | {"store": chosen}).model_dump(mode="json")["store"] == chosen


COMPOSE = {
    "assets": {"kind": "procedural", "instances": {"train": 1, "val": 1, "test": 1}},
    "clips": {"train": 1, "val": 1, "test": 1},
}


def test_merge_combines_mappings():
    assert merge({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"c": 3}, "d": [2]}) == {"a": {"b": 1, "c": 3}, "d": [2]}


def test_merge_replaces_the_mapping_of_another_alternative():
    base = {"adapter": {"method": "lavish", "options": {"latents": 2}}}
    assert merge(base, {"adapter": {"method": "none"}}) == {"adapter": {"method": "none"}}
    kept = merge(base, {"adapter": {"options": {"groups": 4}}})
    assert kept["adapter"]["options"] == {"latents": 2, "groups": 4}


def test_merge_combines_mappings_without_alternatives():
    base = {"data": {"name": "composed", "format": "ave", "segments": 3}, "schedule": {"kind": "cosine", "warmup": 0.3}}
    merged = merge(base, {"data": {"name": "av_pairs"}, "schedule": {"kind": "constant"}})
    assert merged["data"] == {"name": "av_pairs", "format": "ave", "segments": 3}
    assert merged["schedule"] == {"kind": "constant"}
    assert merge({"task": {"name": "a", "options": {"x": 1}}}, {"task": {"name": "b"}}) == {"task": {"name": "b"}}


def test_digest_depends_on_values_not_on_their_order():
    first = parse(RunConfig, run_values(), "")
    assert digest(first) == digest(parse(RunConfig, dict(reversed(run_values().items())), ""))
    assert digest(first) != digest(first, 1)
    changed = parse(RunConfig, run_values(training={"epochs": 4, "batch_size": 5}), "")
    assert digest(first) != digest(changed)


def test_every_method_has_options_with_type_and_default():
    for kind in ("methods", "tasks"):
        assert available(kind)
        for method in available(kind):
            option_model(kind, method)()


def test_measures_of_every_task_are_read_from_its_source():
    from lavish.tasks.registry import task_class

    for name in available("tasks"):
        task = task_class(name)
        assert list(task_measures(name).values()) == [task.metric, *task.measures]


@pytest.mark.parametrize("name", available("tasks"))
def test_overridden_functions_of_tasks_are_read_from_their_source(name):
    from lavish.tasks.base import Task
    from lavish.tasks.registry import task_class

    assert defines("tasks", name, "predicted_masks") == (task_class(name).predicted_masks is not Task.predicted_masks)


def test_options_are_read_without_importing_torch():
    code = (
        "import sys; from lavish.config.schema import RunConfig; from lavish.config.options import option_model; "
        "option_model('methods', 'lavish'); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_did_you_mean():
    assert did_you_mean("valu", ["value", "other"]) == " (did you mean 'value'?)"
    assert did_you_mean("xyz", ["b", "a"]) == " (one of: a, b)"


def test_another_model_drops_the_keys_of_the_former_one():
    old = {"model": "vit", "spec": {"depth": 2}, "weights": {"source": "random"}}
    assert merge({"backbone": old}, {"backbone": {"model": "swinv2_x"}}) == {"backbone": {"model": "swinv2_x"}}
    assert merge(old, {"model": "vit", "positions": "linear"}) == {**old, "positions": "linear"}


@pytest.mark.parametrize("model", ["eva", "ast", "eva02_tiny_patch14_224.mim_in22k", "vit_small_patch16_dinov3.x"])
def test_backbones_that_are_supported(model):
    values = parse(RunConfig, run_values(backbone={"model": model, "weights": {"source": "random"}}), "test")
    assert values.backbone.model == model


def test_a_backbone_that_is_not_supported():
    message = error_of(backbone={"model": "beit_base_patch16_224", "weights": {"source": "random"}})
    assert "'beit_base_patch16_224' is no ViT or Swin: use a timm name vit_*, deit*, eva_*, eva02_*, swin_*" in message


def test_an_explicit_model_has_no_pretraining_classifier():
    backbone = {"model": "vit", "weights": {"source": "random"}, "classifier": "counted"}
    assert "an explicit 'vit' has no pretraining classifier" in error_of(backbone=backbone)


@pytest.mark.parametrize("part", ["backbone", "audio_encoder"])
def test_only_the_tokens_of_a_vit_are_scaled(part):
    weights = {"source": "pretrain", "recipe": {"samples": 8, "epochs": 1, "token_norm": 2.0}}
    values = {"backbone": {"model": "swinv2"}, "audio_encoder": {"kind": "transformer", "use": "none"}}[part]
    assert "token_norm scales a 'vit', not a" in error_of(**{part: {**values, "weights": weights}})


def test_a_counted_classifier_affects_no_other_identity():
    values = parse(RunConfig, run_values(), "test").model_dump(mode="json")
    assert "classifier" not in values["backbone"]
