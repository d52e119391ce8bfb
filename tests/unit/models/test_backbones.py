"""Backbones taken apart equal timm's own forward pass; frozen means frozen."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file

from lavish.errors import LavishError
from lavish.models.backbones.base import stretch_linear
from lavish.models.backbones.build import build_backbone

SMALL_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 4, "num_heads": 2}
SMALL_SWIN = {"img_size": 32, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4}


@pytest.mark.parametrize(
    ("name", "spec", "size"),
    [
        ("vit", SMALL_VIT, 32),
        ("vit", {**SMALL_VIT, "global_pool": "avg", "class_token": False}, 32),
        ("vit", {**SMALL_VIT, "reg_tokens": 2, "init_values": 0.1, "pre_norm": True}, 32),
        ("swinv2", SMALL_SWIN, 32),
        ("deit_tiny_patch16_224", {}, 224),
    ],
)
def test_taken_apart_equals_the_whole(name, spec, size):
    torch.manual_seed(0)
    backbone = build_backbone(name, spec, size).eval()
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        whole = backbone.model.forward_head(backbone.model.forward_features(images), pre_logits=True)
        torch.testing.assert_close(backbone(images), whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "spec"), [("vit", SMALL_VIT), ("swinv2", SMALL_SWIN)])
def test_widths_stages_and_maps(name, spec):
    backbone = build_backbone(name, spec, 32)
    tokens = backbone.embed(torch.randn(2, 3, 32, 32))
    grids = backbone.grid_sizes((32, 32))
    for index in range(backbone.num_blocks):
        tokens = backbone.enter(index, tokens)
        assert tokens.shape[-1] == backbone.widths[index] == backbone.attention(index, tokens).shape[-1]
        rows, columns = grids[index]
        assert tokens.shape[1] == rows * columns + backbone.num_prefix_tokens
    assert backbone.stage_ends[-1] == backbone.num_blocks - 1


def test_swin_residual_branches_are_normed_last():
    backbone = build_backbone("swinv2", SMALL_SWIN, 32).eval()
    block = backbone.model.layers[0].blocks[1]
    torch.nn.init.normal_(block.norm1.weight)  # timm starts these norms at zero
    tokens = backbone.embed(torch.randn(2, 3, 32, 32))
    with torch.no_grad():
        grid = tokens.unflatten(1, (8, 8))
        expected = block(grid).flatten(1, 2)
        apart = tokens + backbone.attention(1, tokens)
        torch.testing.assert_close(apart + backbone.ffn(1, apart), expected)


def test_swin_refuses_another_image_size():
    backbone = build_backbone("swinv2", SMALL_SWIN, 32)
    with pytest.raises(LavishError, match=r"needs both streams at that size, not 32 x 48"):
        backbone.grid_sizes((32, 48))


def test_vit_reads_spectrograms_of_another_size():
    backbone = build_backbone("vit", SMALL_VIT, 32)
    tokens = backbone.embed(torch.randn(1, 3, 24, 43))  # 43 is no multiple of the patch
    assert tokens.shape == (1, 1 + 3 * 5, 16)
    assert backbone.grid_sizes((24, 43))[0] == (3, 5)


def test_published_stretching_of_positions_includes_the_class_token():
    backbone = build_backbone("vit", SMALL_VIT, 32, positions="linear").eval()
    images = torch.randn(1, 3, 24, 40)
    tokens = backbone.embed(images)
    model = backbone.model
    assert tokens.shape == (1, 16, 16)
    expected = model.cls_token[0, 0] + stretch_linear(model.pos_embed, 16)[0, 0]
    torch.testing.assert_close(tokens[0, 0], expected)
    ramp = torch.arange(4.0).view(1, 4, 1)
    torch.testing.assert_close(stretch_linear(ramp, 4), ramp)


def test_frozen_means_frozen():
    backbone = build_backbone("vit", {**SMALL_VIT, "drop_path_rate": 0.9}, 32).train()
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not any(module.training for module in backbone.model.modules())
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(backbone(images), backbone(images))


def test_stochastic_depth_of_the_published_practice_is_an_option():
    torch.manual_seed(0)
    backbone = build_backbone("vit", {**SMALL_VIT, "drop_path_rate": 0.9}, 32, stochastic_depth=True).train()
    images = torch.randn(8, 3, 32, 32)
    assert not torch.equal(backbone(images), backbone(images))
    backbone.eval()
    torch.testing.assert_close(backbone(images), backbone(images))


def test_tuned_norms_are_the_only_trainable_part():
    backbone = build_backbone("swinv2", SMALL_SWIN, 32, tune_norms=True)
    trainable = {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert trainable
    assert all("norm" in name for name in trainable)


def test_weights_from_a_file_are_those_of_the_file(tmp_path):
    torch.manual_seed(1)
    saved = build_backbone("vit", SMALL_VIT, 32)
    path = tmp_path / "vit.safetensors"
    save_file(saved.model.state_dict(), path)
    torch.manual_seed(2)
    loaded = build_backbone("vit", SMALL_VIT, 32, weights=path)
    for ours, theirs in zip(loaded.parameters(), saved.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_named_model_loads_a_local_file_with_timms_own_rules(tmp_path):
    torch.manual_seed(1)
    with_head = timm.create_model("deit_tiny_patch16_224", num_classes=1000)
    path = tmp_path / "deit.safetensors"
    save_file(with_head.state_dict(), path)
    backbone = build_backbone("deit_tiny_patch16_224", {}, 224, weights=path)
    assert torch.equal(backbone.model.blocks[0].attn.qkv.weight, with_head.blocks[0].attn.qkv.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("blocks.1.mlp.fc1.weight"), r"Missing key.*blocks\.1\.mlp\.fc1\.weight"),
        (lambda tensors: tensors.update(surplus=torch.ones(1)), r"Unexpected key.*surplus"),
        (lambda tensors: tensors.update({"norm.weight": torch.ones(3)}), r"size mismatch for norm\.weight"),
    ],
    ids=["missing", "unknown", "other shape"],
)
def test_a_named_model_is_never_loaded_in_part(tmp_path, change, message):
    """timm alone would leave a missing tensor as it was drawn and say so in a log that nobody reads."""
    tensors = timm.create_model("deit_tiny_patch16_224").state_dict()
    change(tensors)
    path = tmp_path / "deit.safetensors"
    save_file(tensors, path)
    with pytest.raises(LavishError, match=rf"deit\.safetensors: .*{message}"):
        build_backbone("deit_tiny_patch16_224", {}, 224, weights=path)


def test_a_loaded_model_keeps_no_second_copy_of_its_weights(tmp_path):
    path = tmp_path / "deit.safetensors"
    save_file(timm.create_model("deit_tiny_patch16_224", num_classes=0).state_dict(), path)
    model = build_backbone("deit_tiny_patch16_224", {}, 224, weights=path).model
    assert "state_dict" not in model.pretrained_cfg


@pytest.mark.parametrize(
    ("name", "spec", "message"),
    [
        ("vit_base_patch17_224", {}, r"timm knows no 'vit_base_patch17_224' \(did you mean"),
        ("swinv2_cr_tiny_ns_224", {}, r"another architecture"),
        ("vit", {"widht": 3}, r"backbone.spec does not fit 'vit'"),
    ],
)
def test_models_that_cannot_be_are_refused(name, spec, message):
    with pytest.raises(LavishError, match=message):
        build_backbone(name, spec, 224)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"embed_dim": 32}, r"tensor 'blocks\.0\.attn\.proj\.bias' has shape \(32,\) instead of \("),
        ({"depth": SMALL_VIT["depth"] - 1}, r"tensor 'blocks\..*' is missing for this VisionTransformer"),
        ({"depth": SMALL_VIT["depth"] + 1}, r"tensor 'blocks\..*' is unexpected for this VisionTransformer"),
    ],
)
def test_weights_of_another_model_are_refused(tmp_path, other, message):
    path = tmp_path / "other.safetensors"
    save_file(build_backbone("vit", SMALL_VIT | other, 32).model.state_dict(), path)
    with pytest.raises(LavishError, match=rf"other\.safetensors: {message}.*backbone\.spec"):
        build_backbone("vit", SMALL_VIT, 32, weights=path)
