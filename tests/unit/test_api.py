"""The public Python API."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

import lavish
from lavish.config.sources import forget_files
from lavish.errors import LavishError
from lavish.planning.run_labels import RunLabel, update_index
from tests.external import METHOD, write

ROOT = Path(__file__).resolve().parents[2]
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
SCORES = np.array([[0.0, 0.5, 1.0], [1.0, 0.5, 0.0], [1.0, 1.0, 0.25]])


def test_importing_and_listing_does_not_import_torch() -> None:
    code = "import lavish, sys; lavish.available_methods(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_available_names() -> None:
    assert "lavish" in lavish.available_methods()
    assert "event_localization" in lavish.available_tasks()


def test_load_results(make_run: Any) -> None:
    run: Path = make_run("run", SCORES)
    frame = lavish.load_results(run.parent)
    assert frame["seed"].tolist() == [0, 1, 2]
    np.testing.assert_allclose(frame["value"], SCORES.mean(axis=1))
    assert set(frame["trainable_params"]) == {170_000}
    assert "measures.loss" in frame


def test_load_results_of_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(LavishError, match="is not a folder"):
        lavish.load_results(tmp_path / "none")


def test_load_results_names_what_runs_differ_in(make_run: Any) -> None:
    run: Path = make_run("segmentation-0a1b2c3d", SCORES)
    rows = [("avs", "frozen"), ("peft", "frozen"), ("peft", "none")]
    labels = [RunLabel(run.name, table, "segmentation_s4", variant, "Frozen") for table, variant in rows]
    update_index(run.parent / "index.csv", labels, ["avs", "peft"])
    for seed in (0, 1):
        file = run / f"seed{seed}/record.json"
        config = {
            "adapter": {"method": "none"},
            "backbone": {"model": "vit"},
            "fusion": {"direction": "both"},
            "modalities": "audio",
        }
        file.write_text(json.dumps(json.loads(file.read_text()) | {"config": config}))
    frame = lavish.load_results(run.parent)
    keys = ["task", "variant", "method", "backbone", "direction", "modalities"]
    expected = ["segmentation_s4", "frozen, none", "none", "vit", "both", "audio"]
    assert frame[frame["seed"] < 2][keys].drop_duplicates().to_numpy().tolist() == [expected]
    assert frame[frame["seed"] == 2]["method"].isna().all()


def test_compare(make_run: Any) -> None:
    a, b = make_run("a", SCORES), make_run("b", SCORES / 2)
    assert lavish.compare(a, b).difference == pytest.approx(SCORES.mean() / 2)


def test_compare_without_common_seeds(make_run: Any, tmp_path: Path) -> None:
    with pytest.raises(LavishError, match="no seed in common"):
        lavish.compare(make_run("a", SCORES), tmp_path / "none")


def encoder(**arguments: Any) -> Any:
    torch.manual_seed(0)
    return lavish.build_encoder("vit", **{"spec": VIT, "weights": "random", "segments": 2, **arguments})


def clips(clips: int = 3, segments: int = 2, spectrogram: tuple[int, int] = (32, 32)) -> tuple[Any, Any]:
    return torch.randn(clips, segments, 3, 32, 32), torch.randn(clips, segments, *spectrogram)


def test_encoder_features() -> None:
    features = encoder(spectrogram_size=(16, 40))(*clips(spectrogram=(16, 40)))
    assert features["visual"].pooled.shape == features["audio"].pooled.shape == (3, 2, 16)
    assert features["visual"].tokens.shape == (3, 2, 17, 16)
    assert features["audio"].tokens.shape == (3, 2, 11, 16)
    assert [stage.shape for stage in features["audio"].maps][-1] == (3, 2, 16, 2, 5)


def test_encoder_with_a_backbone_for_each_stream() -> None:
    spec = {**VIT, "img_size": [16, 40], "in_chans": 1, "embed_dim": 32, "depth": 3}
    audio = {"model": "vit", "spec": spec, "weights": "random"}
    built = encoder(audio_backbone=audio, recompute="blocks")
    inputs = clips(spectrogram=(16, 40))
    features = built(*inputs)
    assert built.feature_dims == {"visual": 16, "audio": 32}
    assert features["visual"].pooled.shape == (3, 2, 16)
    assert features["audio"].tokens.shape == (3, 2, 11, 32)
    plain = encoder(audio_backbone=audio)(*inputs)
    assert torch.equal(plain["audio"].pooled, features["audio"].pooled)
    cost = lavish.count_cost(built)
    assert cost.total_params > lavish.count_cost(encoder(spectrogram_size=(16, 40))).total_params


def test_features_of_segments_are_in_order() -> None:
    model = encoder(method="lora").eval()
    frames, audio = clips()
    whole, single = model(frames, audio), model(frames[1:2, 1:], audio[1:2, 1:])
    torch.testing.assert_close(whole["visual"].pooled[1, 1], single["visual"].pooled[0, 0])


def test_encoder_of_a_single_stream() -> None:
    model = encoder(modalities="audio")
    assert list(model(audio=clips()[1])) == ["audio"]
    with pytest.raises(LavishError, match="no other stream"):
        model(*clips())


def test_trainable_state_restores_an_encoder() -> None:
    first, second = encoder().eval(), encoder().eval()
    assert {id(p) for p in first.trainable_parameters()} == {id(p) for p in first.parameters() if p.requires_grad}
    with torch.no_grad():
        for parameter in first.trainable_parameters():
            parameter += 0.1
    inputs = clips()
    expected = first(*inputs)["visual"].pooled
    assert not torch.equal(second(*inputs)["visual"].pooled, expected)
    second.load_trainable_state(first.trainable_state())
    assert torch.equal(second(*inputs)["visual"].pooled, expected)
    with pytest.raises(LavishError, match="the given state does not fit"):
        encoder(method="lora").load_trainable_state(first.trainable_state())


def test_names_of_the_trainable_state_are_those_of_checkpoints() -> None:
    assert all(name.startswith("encoder.adapters.") for name in encoder().trainable_state())


def test_frozen_backbone_has_nothing_to_train() -> None:
    assert encoder(method="none").trainable_parameters() == []


def test_weights_of_a_file(tmp_path: Path) -> None:
    frozen = encoder(method="none").encoder.backbone.model
    save_file(frozen.state_dict(), tmp_path / "weights.safetensors")
    torch.manual_seed(1)
    loaded = lavish.build_encoder("vit", spec=VIT, weights=tmp_path / "weights.safetensors")
    for name, tensor in loaded.encoder.backbone.model.state_dict().items():
        assert torch.equal(tensor, frozen.state_dict()[name])


def test_pretrained_weights_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, str]] = []

    def download(repository: str, filename: str, revision: str) -> str:
        asked.append((repository, filename, revision))
        return str(tmp_path / "weights.safetensors")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    name = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    pretrained = timm.create_model(name, pretrained=False)
    save_file(pretrained.state_dict(), tmp_path / "weights.safetensors")
    built = lavish.build_encoder(name, weights={"source": "hub", "revision": "v1"})
    assert asked == [(f"timm/{name}", "model.safetensors", "v1")]
    assert built.sizes == {"visual": (224, 224), "audio": (224, 224)}
    assert torch.equal(built.encoder.backbone.model.blocks[3].attn.qkv.weight, pretrained.blocks[3].attn.qkv.weight)


def test_a_method_from_a_file(tmp_path: Path) -> None:
    try:
        model = encoder(method=write(tmp_path / "mean.py", METHOD), options={"width": 3})
    finally:
        forget_files()
    # 2 blocks, 2 sublayers, 2 streams
    assert sum(p.numel() for p in model.trainable_parameters()) == 8 * (2 * 16 * 3 + 3 + 16 + 1)


def test_cost_of_an_encoder() -> None:
    model = encoder(method="parallel", options={"reduction": 4}).train()
    cost = lavish.count_cost(model)
    trainable = sum(p.numel() for p in model.trainable_parameters())
    assert cost.trainable_params == cost.adapter_params == trainable
    assert cost.total_params == sum(p.numel() for p in model.parameters())
    assert lavish.count_cost(encoder(method="none")).total_macs == cost.total_macs - cost.adapter_macs
    assert lavish.count_cost(model, segments=4).total_macs == 2 * cost.total_macs
    assert model.training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "lavsh"}, r"unknown method 'lavsh' \(did you mean 'lavish'\?\)"),
        ({"options": {"latent": 2}}, r"no option 'latent' \(did you mean 'latents'\?\)"),
        ({"method": "lora", "direction": "a2v"}, "never reads the other stream"),
        ({"direction": "sideways"}, "key 'direction'"),
        ({"layers": "last 9"}, "the backbone has 2 blocks"),
        ({"weights": "absent.safetensors"}, "no weights at absent.safetensors"),
        ({"method": "absent.py"}, "there is no file absent.py"),
        ({"audio_backbone": {"modle": "vit"}}, r"(?s)build_encoder, audio_backbone.*modle"),
        ({"audio_backbone": {"model": "vit", "tune_norms": True}}, "audio_backbone: unknown key 'tune_norms'"),
        ({"recompute": "adaptors"}, r"recompute: 'adaptors' is unknown \(did you mean 'adapters'\?\)"),
        ({"audio_backbone": {"model": "vit"}, "modalities": "audio"}, "a single stream has one backbone"),
    ],
)
def test_errors_of_build_encoder(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(LavishError, match=message):
        encoder(**arguments)


def test_unknown_weights_tag() -> None:
    with pytest.raises(LavishError, match=r"vit_tiny_patch16_224\.nonsense': Invalid pretrained tag"):
        lavish.build_encoder("vit_tiny_patch16_224.nonsense", weights="random")


def test_sizes_of_a_rectangular_backbone() -> None:
    built = lavish.build_encoder("vit", spec={**VIT, "img_size": [16, 32]}, method="none", weights="random")
    assert built.sizes == {"visual": (16, 32), "audio": (16, 32)}


def test_random_weights_have_a_seed_and_leave_the_random_state_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, second, third = (
        lavish.build_encoder("vit", spec=VIT, method="none", weights={"source": "random", "seed": seed})
        for seed in (0, 1, 1)
    )
    assert torch.equal(torch.rand(1), expected)
    tensors = [model.encoder.backbone.model.blocks[0].attn.qkv.weight for model in (first, second, third)]
    assert torch.equal(tensors[1], tensors[2]) and not torch.equal(tensors[0], tensors[1])


def test_inputs_of_the_wrong_shape() -> None:
    frames, audio = clips()
    with pytest.raises(LavishError, match=r"`frames` is missing: give a tensor of shape \(B, S, 3, 32, 32\)"):
        encoder()(None, audio)
    with pytest.raises(LavishError, match=r"`audio` is of shape \(3, 2, 32, 31\)"):
        encoder()(frames, audio[..., 1:])
    with pytest.raises(LavishError, match="give the same clips and segments"):
        encoder()(frames, audio[:2])


def test_the_example_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state = torch.get_rng_state()
    loss = runpy.run_path(str(ROOT / "examples/plain_training_loop.py"))["loss"]
    torch.set_rng_state(state)
    assert loss < 1
    assert (tmp_path / "adapters.pt").is_file()


def test_the_documentation_shows_the_example() -> None:
    example = (ROOT / "examples/plain_training_loop.py").read_text()
    assert f"```python\n{example}```\n" in (ROOT / "docs/python_api.md").read_text()


def test_the_documentation_analyses_results(make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run: Path = make_run("event_localization-0a1b2c3d", SCORES)
    update_index(run.parent / "index.csv", [RunLabel(run.name, "ave", "event_localization", "a", "A")], ["ave"])
    shutil.copytree(run.parent, tmp_path / "shown/results")
    monkeypatch.chdir(tmp_path / "shown")
    page = (ROOT / "docs/python_api.md").read_text()
    (block,) = [text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "load_results" in text]
    names: dict[str, Any] = {"lavish": lavish}
    exec(block, names)
    assert len(names["results"]) == 3
