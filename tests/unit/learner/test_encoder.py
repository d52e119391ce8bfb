"""Where the encoder puts adapters and how it walks the blocks."""

from __future__ import annotations

import pytest
import torch

from lavish.errors import LavishError
from lavish.learner.encoder import TwoStreamEncoder, chosen_blocks
from lavish.models.backbones.build import build_backbone

SPEC = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 3, "num_heads": 2}


def backbone():
    torch.manual_seed(0)
    return build_backbone("vit", SPEC, 16)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [("all", [0, 1, 2, 3]), ("first 1", [0]), ("last 2", [2, 3]), ([3, 0, 3], [0, 3])],
)
def test_chosen_blocks(layers, expected):
    assert chosen_blocks(layers, 4) == expected


@pytest.mark.parametrize("layers", ["last 5", [4], [-1]])
def test_blocks_that_do_not_exist(layers):
    with pytest.raises(LavishError, match=r"fusion\.layers"):
        chosen_blocks(layers, 4)


def test_positions_and_layers_choose_the_adapters():
    encoder = TwoStreamEncoder(backbone(), position="ffn", layers="last 1", options={"reduction": 4})
    assert set(dict(encoder.adapters.named_children())) == {"2_ffn_visual", "2_ffn_audio"}


def test_both_adapters_read_the_streams_before_either_is_updated():
    encoder = TwoStreamEncoder(backbone(), layers=[0], position="attention", options={"reduction": 4}).eval()
    visual, audio = (
        encoder.adapters.get_submodule("0_attention_visual"),
        encoder.adapters.get_submodule("0_attention_audio"),
    )
    seen = {}
    for name, adapter in (("visual", visual), ("audio", audio)):
        adapter.register_forward_hook(lambda module, inputs, output, name=name: seen.__setitem__(name, inputs))
        torch.nn.init.ones_(adapter.gate)
    encoder({"visual": torch.randn(2, 3, 16, 16), "audio": torch.randn(2, 3, 16, 16)})
    assert torch.equal(seen["visual"][0], seen["audio"][1])
    assert torch.equal(seen["visual"][1], seen["audio"][0])


def test_sequential_adapters_read_the_sublayers_output():
    encoder = TwoStreamEncoder(
        backbone(), layers=[0], position="attention", arrangement="sequential", options={"reduction": 4}
    ).eval()
    seen = []
    encoder.adapters.get_submodule("0_attention_visual").register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0])
    )
    images = {"visual": torch.randn(2, 3, 16, 16), "audio": torch.randn(2, 3, 16, 16)}
    with torch.no_grad():
        encoder(images)
        tokens = encoder.backbone.embed(images["visual"])
        torch.testing.assert_close(seen[0], encoder.backbone.attention(0, tokens))


def test_streams_of_different_sizes_go_through_apart():
    encoder = TwoStreamEncoder(backbone(), options={"reduction": 4}).eval()
    features = encoder({"visual": torch.randn(2, 3, 16, 16), "audio": torch.randn(2, 3, 24, 40)})
    assert features["visual"].tokens.shape == (2, 5, 8)
    assert features["audio"].tokens.shape == (2, 16, 8)
    assert [stage.shape for stage in features["audio"].stages] == [(2, 16, 8)] * len(encoder.backbone.stage_ends)


def test_a_frozen_encoder_keeps_no_activations():
    encoder = TwoStreamEncoder(backbone(), method="none").train()
    features = encoder({"visual": torch.randn(2, 3, 16, 16), "audio": torch.randn(2, 3, 16, 16)})
    assert not features["visual"].pooled.requires_grad
