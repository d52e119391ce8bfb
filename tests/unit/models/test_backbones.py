"""Backbones taken apart equal timm's own forward pass; frozen means frozen."""

from __future__ import annotations

import re

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
        ("swin", SMALL_SWIN, 32),
        ("swin", {**SMALL_SWIN, "window_size": 3}, 32),  # which does not divide the grid
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


@pytest.mark.parametrize(("name", "spec"), [("vit", SMALL_VIT), ("swin", SMALL_SWIN), ("swinv2", SMALL_SWIN)])
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


@pytest.mark.parametrize("name", ["swin", "swinv2"])
@pytest.mark.parametrize("window", [4, 3])
def test_attention_layer_by_layer_equals_timms(name, window):
    """Also where windows are padded: timm pads the tokens, whose queries, keys and values are then the biases."""
    torch.manual_seed(0)
    backbone = build_backbone(name, {**SMALL_SWIN, "window_size": window}, 32).eval()
    with torch.no_grad():
        for parameter in backbone.model.parameters():
            parameter.normal_(0, 0.5)
        tokens = backbone.embed(torch.randn(2, 3, 32, 32))
        for index in range(2):  # the second block has shifted windows
            layers = backbone.attention_layers(index, tokens)
            layer = next(layers)
            while True:
                try:
                    layer = layers.send(layer.layer(layer.tokens))
                except StopIteration as end:
                    torch.testing.assert_close(end.value, backbone.attention(index, tokens), atol=1e-5, rtol=1e-4)
                    break


@pytest.mark.parametrize("name", ["swin", "swinv2"])
def test_no_attention_matrix_of_a_frozen_swin_is_kept_for_the_gradient(name):
    backbone = build_backbone(name, SMALL_SWIN, 32)
    tokens = torch.randn(2, 64, 8, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        backbone.attention(1, tokens).sum().backward()  # a shifted block: four windows of 16 patches, two heads
    matrices = [x for x in saved if x.shape[-2:] == (16, 16)]
    # Only the bias, float32, which all images share.
    assert {x.untyped_storage().nbytes() for x in matrices} == {4 * 4 * 2 * 16 * 16}


@pytest.mark.parametrize("name", ["swin", "swinv2"])
def test_what_depends_on_frozen_parameters_alone_is_computed_once_and_not_saved(name, monkeypatch):
    backbone = build_backbone(name, SMALL_SWIN, 32)
    keys = set(backbone.state_dict())
    calls = []
    compute = type(backbone)._window_bias
    monkeypatch.setattr(type(backbone), "_window_bias", lambda own, index: calls.append(index) or compute(own, index))
    images = torch.randn(1, 3, 32, 32)
    for _ in range(2):
        backbone(images)
    assert calls == list(range(backbone.num_blocks))
    assert set(backbone.state_dict()) == keys
    for parameter in backbone.blocks[1].attn.parameters():
        parameter.requires_grad_(True)
    backbone(images).sum().backward()
    assert calls[backbone.num_blocks :] == [1]
    assert all(parameter.grad is not None for parameter in backbone.blocks[1].attn.parameters())
    with torch.no_grad():
        before = backbone.double()(images.double())
    torch.testing.assert_close(before, backbone.float()(images).double().detach(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["swin", "swinv2"])
def test_weights_that_are_loaded_after_a_forward_pass_are_used(name):
    first, second = (build_backbone(name, SMALL_SWIN, 32) for _ in range(2))
    with torch.no_grad():
        for parameter in second.parameters():
            parameter += torch.randn_like(parameter)
    images = torch.randn(1, 3, 32, 32)
    assert not torch.equal(first(images), second(images))
    first.load_state_dict(second.state_dict())
    assert torch.equal(first(images), second(images))


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


@pytest.mark.parametrize("name", ["vit", "eva"])
def test_published_stretching_of_positions_includes_the_class_token(name):
    backbone = build_backbone(name, SMALL_VIT, 32, positions="linear").eval()
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
        (
            lambda tensors: tensors.pop("blocks.1.mlp.fc1.weight"),
            r"1 not in the file \('blocks\.1\.mlp\.fc1\.weight'\)",
        ),
        (lambda tensors: tensors.update(surplus=torch.ones(1)), r"1 only in the file \('surplus'\)"),
        (lambda tensors: tensors.update({"norm.weight": torch.ones(3)}), r"1 of another shape \('norm\.weight'\)"),
    ],
    ids=["missing", "unknown", "other shape"],
)
def test_a_named_model_is_never_loaded_in_part(tmp_path, change, message):
    """timm alone would leave a missing tensor as it was drawn and say so in a log that nobody reads."""
    tensors = timm.create_model("deit_tiny_patch16_224").state_dict()
    change(tensors)
    path = tmp_path / "deit.safetensors"
    save_file(tensors, path)
    with pytest.raises(LavishError, match=rf"deit\.safetensors does not fit .*{message}"):
        build_backbone("deit_tiny_patch16_224", {}, 224, weights=path)


def test_what_does_not_fit_is_listed_from_both_sides(tmp_path):
    path = tmp_path / "deit.safetensors"
    tensors = timm.create_model("deit_tiny_patch16_224").state_dict()
    save_file({name.replace("attn.proj", "attn.out"): tensor for name, tensor in tensors.items()}, path)
    with pytest.raises(LavishError) as caught:
        build_backbone("deit_tiny_patch16_224", {}, 224, weights=path)
    assert "24 not in the file ('blocks.0.attn.proj.bias', 'blocks.0.attn.proj.weight', " in str(caught.value)
    assert "24 only in the file ('blocks.0.attn.out.bias', 'blocks.0.attn.out.weight', " in str(caught.value)


@pytest.mark.parametrize("others", ["", "text"])
@pytest.mark.parametrize("prefix", ["module.", "model.", "state_dict.", "model.module.", "visual.trunk."])
def test_prefixes_of_wrappers_are_removed(tmp_path, prefix, others):
    saved = timm.create_model("vit_tiny_patch16_224")
    tensors = {f"{prefix}{name}": tensor for name, tensor in saved.state_dict().items()}
    if others:
        tensors["logit_scale"] = torch.ones(1)
    save_file(tensors, tmp_path / "w.safetensors")
    loaded = build_backbone("vit_tiny_patch16_224", {}, 224, weights=tmp_path / "w.safetensors").model
    assert torch.equal(loaded.blocks[3].mlp.fc1.weight, saved.blocks[3].mlp.fc1.weight)
    assert torch.equal(loaded.pos_embed, saved.pos_embed)


def test_a_file_of_several_models_is_refused(tmp_path):
    tensors = timm.create_model("vit_tiny_patch16_224").state_dict()
    both = {
        f"{prefix}{name}": tensor.clone() for name, tensor in tensors.items() for prefix in ("teacher.", "student.")
    }
    save_file(both, tmp_path / "w.safetensors")
    with pytest.raises(LavishError, match=r"w\.safetensors holds several models \('student\.', 'teacher\.'\)"):
        build_backbone("vit_tiny_patch16_224", {}, 224, weights=tmp_path / "w.safetensors")


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_half_precision_is_loaded_as_float32(tmp_path, precision):
    saved = timm.create_model("vit_tiny_patch16_224").state_dict()
    save_file({name: tensor.to(precision) for name, tensor in saved.items()}, tmp_path / "w.safetensors")
    loaded = build_backbone("vit_tiny_patch16_224", {}, 224, weights=tmp_path / "w.safetensors").model.state_dict()
    for name, tensor in loaded.items():
        assert torch.equal(tensor, saved[name].to(precision).float())


def swin_in_microsofts_names(tensors):
    """A Swin as Microsoft publishes it: patch merging at the end of a stage, a plain head, and buffers."""
    published = {
        re.sub(r"layers\.(\d)\.downsample", lambda found: f"layers.{int(found[1]) - 1}.downsample", name).replace(
            "head.fc.", "head."
        ): tensor
        for name, tensor in tensors.items()
    }
    second = any("cpb_mlp" in name for name in tensors)
    return published | {
        "layers.0.blocks.0.attn.relative_position_index": torch.zeros(64, 64, dtype=torch.long),
        **({"layers.0.blocks.0.attn.relative_coords_table": torch.zeros(1, 15, 15, 2)} if second else {}),
        "layers.0.blocks.1.attn_mask": torch.zeros(64, 64, 64),
    }


@pytest.mark.parametrize(
    ("name", "size", "prefix"),
    [
        ("swinv2_tiny_window8_256.ms_in1k", 256, ""),
        ("swinv2_tiny_window8_256.ms_in1k", 256, "model."),
        ("swin_tiny_patch4_window7_224.ms_in1k", 224, "model."),
    ],
)
def test_swins_in_microsofts_names_give_the_features_of_timms_conversion(tmp_path, name, size, prefix):
    torch.manual_seed(0)
    saved = timm.create_model(name).eval()
    published = swin_in_microsofts_names(saved.state_dict())
    save_file({f"{prefix}{key}": tensor for key, tensor in published.items()}, tmp_path / "w.safetensors")
    backbone = build_backbone(name, {}, size, weights=tmp_path / "w.safetensors").eval()
    assert all(torch.equal(tensor, saved.state_dict()[key]) for key, tensor in backbone.model.state_dict().items())
    images = torch.randn(1, 3, size, size)
    with torch.no_grad():
        difference = backbone.encode(images) - saved.forward_features(images).flatten(1, 2)
    assert difference.abs().max() < 1e-5


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("deit_tiny_distilled_patch16_224", {}),
        ("deit3_small_patch16_224", {"ls1.gamma": "gamma_1", "ls2.gamma": "gamma_2"}),
        ("vit_base_patch32_clip_224", {}),
        ("vit_base_patch16_siglip_gap_224", {"head": "attn_pool"}),
    ],
)
def test_published_names_of_plain_transformers_are_read(tmp_path, name, published):
    tensors = {}
    for key, tensor in timm.create_model(name, num_classes=3).state_dict().items():
        for present, earlier in published.items():
            key = key.replace(present, earlier)
        tensors[key] = tensor
    save_file(tensors, tmp_path / "w.safetensors")
    loaded = build_backbone(name, {}, 224, weights=tmp_path / "w.safetensors").model
    assert torch.equal(loaded.blocks[1].attn.qkv.weight, tensors["blocks.1.attn.qkv.weight"])


@pytest.mark.parametrize(
    ("name", "spec", "message"),
    [
        ("vit_base_patch17_224", {}, r"timm knows no 'vit_base_patch17_224' \(did you mean"),
        ("swinv2_cr_tiny_ns_224", {}, r"another architecture"),
        ("vit", {"widht": 3}, r"backbone.spec does not fit 'vit'"),
        ("vit", {**SMALL_VIT, "global_pool": "prr"}, r"'vit' pools by 'prr', which is not supported"),
        ("eva", {"widht": 3}, r"backbone.spec does not fit 'eva'"),
    ],
)
def test_models_that_cannot_be_are_refused(name, spec, message):
    with pytest.raises(LavishError, match=message):
        build_backbone(name, spec, 224)


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "deit3_small_patch16_224"])
def test_positions_that_are_no_sequence_are_not_resized_as_one(name):
    """A linear resize would drop the distillation token, or take a patch's position for the class token's."""
    with pytest.raises(LavishError, match=rf"'{name}' .* set backbone\.positions to bicubic"):
        build_backbone(name, {}, 224, positions="linear")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"embed_dim": 32}, r".* of another shape \('cls_token', .* instead of \("),
        ({"depth": SMALL_VIT["depth"] - 1}, r"VisionTransformer .* 12 not in the file \('blocks\.3\..*, \.\.\.\)"),
        ({"depth": SMALL_VIT["depth"] + 1}, r"VisionTransformer .* 12 only in the file \('blocks\.4\..*, \.\.\.\)"),
    ],
)
def test_weights_of_another_model_are_refused(tmp_path, other, message):
    path = tmp_path / "other.safetensors"
    save_file(build_backbone("vit", SMALL_VIT | other, 32).model.state_dict(), path)
    with pytest.raises(LavishError, match=rf"other\.safetensors does not fit this {message}.*backbone\.spec"):
        build_backbone("vit", SMALL_VIT, 32, weights=path)
