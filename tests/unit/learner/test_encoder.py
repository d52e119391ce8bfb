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


def pair(**arguments) -> TwoStreamEncoder:
    """Return an encoder with a deep backbone for frames and a shallow, narrow one for spectrograms of one channel."""
    shallow = build_backbone("vit", SPEC | {"depth": 2, "embed_dim": 4, "in_chans": 1, "img_size": (24, 40)}, 16)
    return TwoStreamEncoder(backbone(), audio_backbone=shallow, **arguments).eval()


def pair_of_images() -> dict[str, torch.Tensor]:
    return {"visual": torch.randn(2, 3, 16, 16), "audio": torch.randn(2, 1, 24, 40)}


@torch.no_grad()
def test_each_stream_passes_through_its_own_backbone():
    encoder, images = pair(method="none"), pair_of_images()
    features = encoder(images)
    for stream, own in (("visual", encoder.backbone), ("audio", encoder.audio_backbone)):
        torch.testing.assert_close(features[stream].pooled, own(images[stream]))
        assert features[stream].stages[0].shape[2] == own.widths[0]
        assert encoder.feature_dim(stream) == own.feature_dim
    assert features["audio"].grids[-1] == (3, 5)


def test_the_adapters_of_a_pair_are_named_by_the_blocks_of_their_stream():
    encoder = pair(position="ffn", options={"reduction": 2})
    names = [f"{block}_ffn_visual" for block in range(3)] + [f"{block}_ffn_audio" for block in range(2)]
    assert set(dict(encoder.adapters.named_children())) == set(names)
    reads = {name for name, adapter in encoder.adapters.named_children() if adapter.gate_av is not None}
    assert reads == set(names) - {"0_ffn_visual"}  # which runs alone: 3 blocks beside 2


def test_layers_of_a_pair_count_steps():
    encoder = pair(position="ffn", layers="first 2", options={"reduction": 2})
    assert set(dict(encoder.adapters.named_children())) == {"0_ffn_visual", "1_ffn_visual", "0_ffn_audio"}


def test_lavish_maps_the_other_stream_where_widths_differ():
    sizes = {
        name: sum(p.numel() for p in adapter.map_other.parameters())
        for name, adapter in pair(options={"reduction": 2}).adapters.named_children()
        if adapter.map_other is not None
    }
    assert sizes == {
        f"{block}_{position}_{stream}": {"visual": 4 * 8 + 8, "audio": 8 * 4 + 4}[stream]
        for position in ("attention", "ffn")
        for stream, block in (("visual", 1), ("visual", 2), ("audio", 0), ("audio", 1))
    }


@torch.no_grad()
def test_a_spectrogram_of_one_channel_is_repeated_for_a_backbone_of_images():
    encoder, spectrogram = TwoStreamEncoder(backbone(), method="none", streams=("audio",)), torch.randn(2, 1, 16, 16)
    found = encoder({"audio": spectrogram})["audio"].pooled
    torch.testing.assert_close(found, encoder.backbone(spectrogram.expand(-1, 3, -1, -1)))
