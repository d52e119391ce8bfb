"""Plain transformers taken apart: timm's CLIP, SigLIP, DINOv2, EVA-02 and DINOv3, and those of spectrograms."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional

from lavish.checks.method import BACKBONES, Subject, small_backbone
from lavish.config.schema import PretrainConfig
from lavish.errors import LavishError
from lavish.learner.encoder import TwoStreamEncoder
from lavish.models.backbones.base import Backbone, apply_all
from lavish.models.backbones.build import build_backbone, classifier_sizes
from lavish.models.interfaces import Stream
from lavish.training.pretraining.pictures import pretrain
from tests.unit.models.ast_reference import ast_features

NAMED = [
    "vit_xsmall_patch16_clip_224",  # norm before the first block, no bias of the patches
    "vit_base_patch32_clip_quickgelu_224",
    "vit_base_patch32_siglip_256",  # attention pooling, no class token
    "vit_small_patch14_reg4_dinov2",  # layer scale, registers
    "vit_small_patch16_dinov3",  # rotary positions in halves, no other ones, no biases of queries, keys and values
    "vit_small_plus_patch16_dinov3_qkvb",  # gated feed-forward layer, biases of queries and values
    "eva02_tiny_patch14_224",  # rotary and other positions, gate and value in one map
    "eva02_base_patch16_clip_224",  # separate maps for queries, keys, values, and the gate; norms inside
    "vit_small_patch16_rope_mixed_ape_224",  # frequencies of each block and head
    "vit_pe_core_tiny_patch16_384",  # attention pooling that reads the class token
    "test_vit4",  # root mean square norms
]


def random_images(backbone: Backbone, rows: int, columns: int, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, backbone.in_channels, rows, columns, generator=generator)


def sharpened(backbone: Backbone, spread: float = 0.3) -> Backbone:
    """Change all weights: what timm starts at zero or one, and logits near zero, would hide what they act on."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return backbone


def assert_timms(backbone: Backbone, images: torch.Tensor) -> None:
    """Check tokens and pooled features of a backbone against timm's own forward pass, whole and layer by layer."""
    model = backbone.model
    grids = backbone.grid_sizes((images.shape[2], images.shape[3]))
    with torch.no_grad():
        tokens = model.forward_features(images)
        torch.testing.assert_close(backbone.encode(images), tokens, atol=1e-5, rtol=1e-5)
        pooled = model.forward_head(tokens, pre_logits=True)
        torch.testing.assert_close(backbone(images), pooled, atol=1e-5, rtol=1e-5)
        x = apply_all(backbone.embed_layers(images))
        for index, grid in enumerate(grids):
            x = x + apply_all(backbone.attention_layers(index, x, grid))
            x = x + apply_all(backbone.ffn_layers(index, x, grid))
        torch.testing.assert_close(apply_all(backbone.final_layers(x)), tokens, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMED)
def test_named_models_taken_apart_equal_timms(name):
    torch.manual_seed(0)
    backbone = sharpened(build_backbone(name, {}, 0), 0.05)
    side = backbone.patch_size[0]
    for rows, columns in ((4, 4), (3, 6)):
        assert_timms(backbone, random_images(backbone, rows * side, columns * side))


@pytest.mark.parametrize("name", [name for name in BACKBONES if name.startswith(("vit", "eva", "ast"))])
def test_small_ones_taken_apart_equal_timms(name):
    backbone = sharpened(small_backbone(name))
    assert_timms(backbone, random_images(backbone, 32, 32))
    if name != "ast":  # timm would resample an AST's positions
        assert_timms(backbone, random_images(backbone, 24, 48))


@pytest.mark.parametrize("side", [112, 224, 518])
def test_real_features_equal_timms(shared, side):
    """DINOv2-derived weights, also at other sizes than that of their positions, 518 pixels."""
    path = shared / "weights/dinov2-derived-vits14/model.safetensors"
    if not path.is_file():
        pytest.skip(f"no weights at {path}")
    name = "vit_small_patch14_dinov2.lvd142m"
    backbone = build_backbone(name, {}, side, weights=path)
    theirs = timm.create_model(name, num_classes=0, dynamic_img_size=True, checkpoint_path=str(path)).eval()
    images = random_images(backbone, side, side, count=1)
    with torch.no_grad():
        tokens = theirs.forward_features(images)
        found = backbone.encode(images)
        assert (found - tokens).abs().max() < 1e-5 * tokens.abs().max()
        torch.testing.assert_close(backbone(images), tokens[:, 0], atol=1e-5, rtol=1e-5)


def test_added_tokens_have_no_rotary_position():
    backbone = sharpened(small_backbone("eva_registers"))
    with torch.no_grad():
        tokens = backbone.embed(random_images(backbone, 24, 48))
        added = torch.randn(2, 5, tokens.shape[2])
        first = backbone.attention(0, backbone.add_tokens(tokens, added), (3, 6))
        other = backbone.attention(0, backbone.add_tokens(tokens, added.flip(1)), (3, 6))
        torch.testing.assert_close(backbone.take_tokens(first, 5)[0], backbone.take_tokens(other, 5)[0])
        torch.testing.assert_close(backbone.take_tokens(first, 5)[1], backbone.take_tokens(other, 5)[1].flip(1))
        alone = backbone.attention(0, tokens, (3, 6))
        transposed = backbone.attention(0, tokens, (6, 3))
        assert not torch.allclose(alone, transposed, atol=1e-2)  # as many patches, elsewhere


def test_rotary_positions_survive_an_evaluation():
    """Evaluation is in inference mode, whose tensors cannot be part of a later training."""
    encoder = Subject("lora", "eva").encoder()
    images: dict[Stream, torch.Tensor] = {
        "visual": random_images(encoder.backbone, 32, 32),
        "audio": random_images(encoder.backbone, 32, 32),
    }
    with torch.inference_mode():
        encoder.eval()(images)
    sum(x.pooled.sum() for x in encoder.train()(images).values()).backward()


def test_attention_pooling_of_equal_tokens_is_that_of_one():
    """What DG-SCT relies on: it pools tokens by weights of its own, then applies the layers after pooling."""
    for name in BACKBONES:
        backbone = sharpened(small_backbone(name))
        token = torch.randn(2, 1, backbone.feature_dim)
        count = backbone.num_prefix_tokens + 1
        with torch.no_grad():
            found = backbone.pool(token.expand(-1, count, -1))
            torch.testing.assert_close(found, backbone.pool(token.expand(-1, count + 3, -1)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["eva", "vit_attention_pooled"])
def test_the_last_norm_is_that_of_the_output(name):
    backbone = small_backbone(name)
    last = backbone.norms()[-1]
    assert last is (backbone.model.fc_norm if name == "eva" else backbone.model.norm)


def test_root_mean_square_norms_are_norms():
    backbone = build_backbone("test_vit4", {}, 0, tune_norms=True)
    tuned = {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert tuned == {name for name, _ in backbone.named_parameters() if ".norm" in name or "fc_norm" in name}


def test_a_layer_of_several_maps_is_one_linear_map():
    torch.manual_seed(0)
    backbone = build_backbone("eva", {**BACKBONES["eva"], "qkv_fused": True, "swiglu_mlp": True}, 32)
    torch.nn.init.normal_(backbone.model.blocks[0].attn.q_bias)
    tokens = torch.randn(1, 3, 16)
    for name, width in (("qkv", 48), ("fc1", 64)):
        weight, bias = backbone.linear(0, name)
        assert weight.shape == (width, 16)
        found = backbone._layer(0, name)(tokens)
        torch.testing.assert_close(found, functional.linear(tokens, weight, bias))


def test_what_has_no_single_layers_is_refused_by_name():
    backbone = build_backbone("eva", {**BACKBONES["eva_registers"], "attn_type": "rope", "num_kv_heads": 1,
                                      "qkv_fused": False}, 32)  # fmt: skip
    with pytest.raises(LavishError, match=r"'eva': its blocks have AttentionRope and Mlp, .* single layers cannot be"):
        backbone.linear(0, "qkv")
    with pytest.raises(LavishError, match=r"its blocks \(EvaBlockPostNorm\) are not two separate pre-norm"):
        build_backbone("eva", {**BACKBONES["eva"], "use_post_norm": True}, 32)


@pytest.mark.parametrize("method", ["none", "lora"])  # as a whole, and layer by layer
@pytest.mark.parametrize("size", [(32, 32), (48, 24)], ids=["more patches", "as many"])
def test_both_streams_have_positions_of_their_own_grid(method, size):
    backbone = sharpened(small_backbone("eva_registers"))
    images: dict[Stream, torch.Tensor] = {
        "visual": random_images(backbone, *size),
        "audio": random_images(backbone, 24, 48),
    }
    sizes: dict[Stream, tuple[int, int]] = {"visual": size, "audio": (24, 48)}
    with torch.no_grad():
        found = TwoStreamEncoder(backbone, method=method, sizes=sizes)(images)
        for stream, x in images.items():
            torch.testing.assert_close(found[stream].pooled, backbone(x))


# ---------------------------------------------------------------------------------------------------------------------


def in_openais_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A timm CLIP as OpenAI publishes it, with a text model beside it."""
    names = {
        "patch_embed.proj": "conv1", "norm_pre": "ln_pre", "cls_token": "class_embedding",
        "pos_embed": "positional_embedding", "blocks.": "transformer.resblocks.", "attn.qkv.": "attn.in_proj_",
        "attn.proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    }  # fmt: skip
    published = {"positional_embedding": torch.zeros(77, 8), "transformer.resblocks.0.ln_1.weight": torch.ones(8)}
    for name, tensor in tensors.items():
        if name == "head.weight":
            name, tensor = "proj", tensor.T.contiguous()
        elif name == "head.bias":
            continue
        for own, theirs in names.items():
            name = name.replace(own, theirs)
        name = "ln_post" + name[4:] if name.startswith("norm.") else name.replace(".norm", ".ln_")
        flat = {"class_embedding": (0, 0), "positional_embedding": (0,)}.get(name, ())
        published[f"visual.{name}"] = tensor[flat].clone() if flat else tensor
    return published


def as_meta_publishes_dinov3(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    names = {"reg_token": "storage_tokens", "gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma"}
    published = {"mask_token": torch.zeros(1, 384), "rope_embed.periods": torch.ones(16)}
    for name, tensor in tensors.items():
        for own, theirs in names.items():
            name = name.replace(own, theirs)
        published[name] = tensor
    for index in range(12):
        published[f"blocks.{index}.attn.qkv.bias"] = torch.zeros(3 * 384)
        published[f"blocks.{index}.attn.qkv.bias_mask"] = torch.zeros(3 * 384)
    return published


def as_baai_publishes_eva02(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    names = {"mlp.fc1_g": "mlp.w1", "mlp.fc1_x": "mlp.w2", "mlp.fc2": "mlp.w3", "mlp.norm": "mlp.ffn_ln",
             "attn.norm": "attn.inner_attn_ln", "q_proj.bias": "q_bias", "v_proj.bias": "v_bias"}  # fmt: skip
    published = {"rope.freqs_cos": torch.ones(196, 64)}
    for name, tensor in tensors.items():
        for own, theirs in names.items():
            name = name.replace(own, theirs)
        published[f"visual.{name}"] = tensor
    return published


@pytest.mark.parametrize(
    ("name", "publish"),
    [
        ("vit_xsmall_patch16_clip_224", in_openais_names),
        ("vit_base_patch32_siglip_256", lambda tensors: {f"visual.trunk.{key}": x for key, x in tensors.items()}),
        ("vit_small_patch14_dinov2", lambda tensors: {**tensors, "mask_token": torch.zeros(1, 384)}),
        ("vit_small_patch16_dinov3", as_meta_publishes_dinov3),
        ("eva02_base_patch16_clip_224", as_baai_publishes_eva02),
    ],
)
def test_published_names_are_read(tmp_path, capsys, name, publish):
    torch.manual_seed(1)
    saved = timm.create_model(name, num_classes=8).state_dict()
    save_file(publish(saved), tmp_path / "w.safetensors")
    loaded = build_backbone(name, {}, 0, weights=tmp_path / "w.safetensors").model.state_dict()
    assert loaded.keys() == {key for key in saved if not key.startswith("head.")}
    assert all(torch.equal(tensor, saved[key]) for key, tensor in loaded.items())
    assert not capsys.readouterr().out


def test_missing_attention_pooling_is_an_error(tmp_path):
    tensors = timm.create_model("vit_base_patch32_siglip_256", num_classes=0).state_dict()
    del tensors["attn_pool.latent"]
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(LavishError, match=r"1 not in the file \('attn_pool\.latent'\)"):
        build_backbone("vit_base_patch32_siglip_256", {}, 0, weights=tmp_path / "w.safetensors")


def test_models_without_a_classifier_have_none_to_count():
    assert classifier_sizes("eva_giant_patch14_224.clip_ft_in1k") == (1, 1000)
    for name in ("vit_small_patch14_dinov2.lvd142m", "vit_base_patch16_siglip_224.webli"):
        with pytest.raises(LavishError, match=r"was pretrained without a classifier: remove backbone\.classifier"):
            classifier_sizes(name)


# ------------------------------------------------------------------------------------------- spectrogram transformers

SMALL_AST = {"img_size": [24, 45], "patch_size": 8, "stride": [5, 6], "embed_dim": 16, "depth": 2, "num_heads": 2}


def small_ast(**spec: object) -> Backbone:
    torch.manual_seed(0)
    return sharpened(build_backbone("ast", {**SMALL_AST, **spec}, 0))


@pytest.mark.parametrize(
    "size",
    [(24, 45), (24, 27), (24, 20), (24, 80), (18, 45), (40, 45), (40, 20), (26, 50)],
    ids=["own", "cut", "cut to an even number", "stretched", "fewer bins", "more bins", "both", "remainder ignored"],
)
def test_ast_equals_the_published_computation(size):
    backbone = small_ast()
    assert backbone.grid_sizes((24, 45))[0] == (4, 7) == backbone.model.patch_embed.grid_size
    spectrograms = random_images(backbone, *size)
    expected = ast_features(backbone.model.state_dict(), spectrograms, grid=(4, 7), stride=(5, 6), heads=2)
    with torch.no_grad():
        torch.testing.assert_close(backbone(spectrograms), expected, atol=1e-5, rtol=1e-5)
        layers = apply_all(backbone.embed_layers(spectrograms))
        torch.testing.assert_close(layers, backbone.embed(spectrograms))


def test_ast_has_the_published_size():
    """12 x 101 patches of ten seconds; 86.6 million parameters with the head of 527 classes."""
    with torch.device("meta"):
        backbone = build_backbone("ast", {}, 0)
    assert backbone.image_size == (128, 1024) and backbone.in_channels == 1
    assert backbone.grid_sizes((128, 1024))[0] == (12, 101)
    assert backbone.num_prefix_tokens == 2
    assert backbone.model.pos_embed.shape == (1, 1214, 768)
    count = sum(p.numel() for p in backbone.parameters())
    head = 2 * 768 + 768 * 527 + 527
    assert count + head == 86_594_063


def test_ast_reads_the_published_names(tmp_path):
    saved = small_ast()
    published = {f"module.v.{name}": tensor for name, tensor in saved.model.state_dict().items()}
    unused = {"v.head.weight": (1000, 16), "v.head_dist.bias": (1000,), "mlp_head.0.weight": (16,),
              "mlp_head.1.weight": (527, 16)}  # fmt: skip
    published |= {f"module.{name}": torch.ones(shape) for name, shape in unused.items()}
    save_file(published, tmp_path / "w.safetensors")
    loaded = build_backbone("ast", SMALL_AST, 0, weights=tmp_path / "w.safetensors")
    for name, tensor in saved.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor)
    save_file(saved.model.state_dict(), tmp_path / "own.safetensors")
    build_backbone("ast", SMALL_AST, 0, weights=tmp_path / "own.safetensors")
    del published["module.v.dist_token"]
    save_file(published, tmp_path / "w.safetensors")
    with pytest.raises(LavishError, match=r"1 not in the file \('dist_token'\); does backbone\.spec describe"):
        build_backbone("ast", SMALL_AST, 0, weights=tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("spec", "positions", "message"),
    [
        ({"in_chans": 3}, "bicubic", r"backbone\.spec does not fit 'ast': .*in_chans"),
        ({"global_pool": "avg"}, "bicubic", r"backbone\.spec does not fit 'ast': The distilled head"),
        ({"no_embed_class": True}, "bicubic", r"remove no_embed_class and"),
        ({"reg_tokens": 2}, "bicubic", r"remove no_embed_class and reg_tokens"),
        ({}, "linear", r"set backbone\.positions to bicubic"),
    ],
)
def test_what_is_no_ast_is_refused(spec, positions, message):
    with pytest.raises(LavishError, match=message):
        build_backbone("ast", SMALL_AST | spec, 0, positions=positions)


def test_vit_of_one_channel_reads_spectrograms_of_any_length():
    """As AudioMAE: patches that do not overlap, mean of the patches, a rectangular image."""
    torch.manual_seed(0)
    spec = {"img_size": [16, 64], "patch_size": 8, "in_chans": 1, "embed_dim": 16, "depth": 2, "num_heads": 2}
    backbone = build_backbone("vit", {**spec, "global_pool": "avg"}, 0)
    assert backbone.in_channels == 1
    assert backbone.image_size == (16, 64)
    for columns in (64, 40):
        assert_timms(backbone, random_images(backbone, 16, columns))


def test_images_of_other_backbones_have_three_channels():
    for name in BACKBONES:
        assert small_backbone(name).in_channels == (1 if name in ("ast", "htsat") else 3)


@pytest.mark.parametrize(
    ("model", "spec", "message"),
    [
        ("ast", {"img_size": 32}, "reads spectrograms of one channel, no pictures"),
        ("vit", {"img_size": 32, "in_chans": 1}, "reads spectrograms of one channel, no pictures"),
        ("vit", {"img_size": [16, 32]}, r"trains 'vit' or 'eva' .* on square pictures"),
    ],
)
def test_what_reads_no_square_pictures_is_not_pretrained_on_them(tmp_path, model, spec, message):
    recipe = PretrainConfig(samples=8, epochs=1)
    with pytest.raises(LavishError, match=message):
        pretrain(model, spec, recipe, tmp_path / "w.safetensors", torch.device("cpu"))


def test_an_eva_is_pretrained(tmp_path):
    recipe = PretrainConfig(instances=2, samples=8, batch_size=4, epochs=1)
    spec = {**BACKBONES["eva_registers"], "img_size": 32}
    pretrain("eva", spec, recipe, tmp_path / "w.safetensors", torch.device("cpu"))
    build_backbone("eva", spec, 32, weights=tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    "spec", [{}, {"class_token": False, "global_pool": "avg"}, {"reg_tokens": 2, "init_values": 1}]
)
def test_scaled_tokens_keep_the_features(spec):
    spec = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, **spec}
    torch.manual_seed(0)
    backbone = build_backbone("vit", spec, 32)
    # Against tokens of new weights, the epsilon of the norms is not small.
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    images = random_images(backbone, 32, 32)
    tokens, features = backbone.embed(images), backbone(images)
    backbone.scale_tokens(0.25)
    torch.testing.assert_close(backbone.embed(images), 0.25 * tokens)
    torch.testing.assert_close(backbone(images), features, rtol=1e-3, atol=1e-3)


def test_tokens_that_a_norm_follows_are_not_scaled():
    spec = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "pre_norm": True}
    with pytest.raises(LavishError, match="token_norm: the tokens of 'vit' cannot be scaled"):
        build_backbone("vit", spec, 32).scale_tokens(0.5)


def test_a_pretrained_vit_has_tokens_of_the_norm_asked_for(tmp_path):
    spec = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    recipe = {"instances": 2, "samples": 8, "batch_size": 4, "epochs": 1}
    images, norms = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0)), {}
    for norm in (1.0, 4.0):
        path = tmp_path / f"{norm}.safetensors"
        pretrain("vit", spec, PretrainConfig(**recipe, token_norm=norm), path, torch.device("cpu"))
        norms[norm] = build_backbone("vit", spec, 32, weights=path).embed(images).norm(dim=-1).mean().item()
    assert norms[1.0] == pytest.approx(1.0, rel=0.5)  # noise is brighter than the pictures that were measured
    assert norms[4.0] / norms[1.0] == pytest.approx(4.0)
