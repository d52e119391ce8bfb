"""A backbone's parts layer by layer are its parts, and added tokens take part in them."""

from __future__ import annotations

import torch

from lavish.models.backbones.base import Backbone, Layers


def run(layers: Layers, names: list[str] | None = None) -> torch.Tensor:
    """Apply every layer as it is, and note the names."""
    operation = next(layers)
    while True:
        if names is not None:
            names.append(operation.name)
        try:
            operation = layers.send(operation.layer(operation.tokens))
        except StopIteration as end:
            return end.value


@torch.no_grad()
def test_layer_by_layer_is_the_whole(backbone: Backbone):
    names: list[str] = []
    images = torch.randn(2, backbone.in_channels, 32, 32)
    tokens = backbone.embed(images)
    torch.testing.assert_close(run(backbone.embedding_layers(images), names), tokens)
    for index in range(backbone.num_blocks):
        tokens = backbone.enter(index, tokens)
        attended = backbone.attention(index, tokens)
        torch.testing.assert_close(run(backbone.attention_layers(index, tokens), names), attended)
        tokens = tokens + attended
        torch.testing.assert_close(run(backbone.ffn_layers(index, tokens), names), backbone.ffn(index, tokens))
        tokens = tokens + backbone.ffn(index, tokens)
    torch.testing.assert_close(run(backbone.final_layers(tokens), names), backbone.final(tokens))
    in_blocks = {"norm1", "qkv", "proj", "norm2", "fc1", "fc2"}
    assert set(names) == in_blocks | {"patch_embed", "norm"}
    assert all(names.count(name) == backbone.num_blocks for name in in_blocks)


@torch.no_grad()
def test_added_tokens_are_read_and_leave_the_sequence_again(backbone: Backbone):
    tokens = backbone.embed(torch.randn(2, backbone.in_channels, 32, 32))
    added = torch.randn(2, 3, tokens.shape[2])
    longer = backbone.add_tokens(tokens, added)
    rest, taken = backbone.take_tokens(longer, 3)
    assert torch.equal(rest, tokens) and torch.equal(taken, added)
    for index in range(backbone.num_blocks):
        tokens, longer = backbone.enter(index, tokens), backbone.enter(index, longer)
        assert longer.shape[1] == tokens.shape[1] + 3
        mixed = backbone.attention(index, longer)
        assert mixed.shape == longer.shape
        alone, _ = backbone.take_tokens(mixed, 3)
        assert not torch.allclose(alone, backbone.attention(index, tokens), atol=1e-4)
        # Each image meets its own tokens only.
        half = backbone.attention(index, longer[1:])
        torch.testing.assert_close(half, mixed[1:], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_attention_over_a_sequence(backbone: Backbone):
    sequence = torch.randn(5, 4, backbone.widths[0])
    out = backbone.attention_over(0, sequence)
    assert out.shape == sequence.shape
    torch.testing.assert_close(out.flip(1), backbone.attention_over(0, sequence.flip(1)))  # no site, no order
    bias = torch.zeros(backbone.num_heads(0), 4, 4)
    torch.testing.assert_close(backbone.attention_over(0, sequence, bias), out)
    bias[:, :, 1:] = -1e4  # everybody looks at the first alone
    torch.testing.assert_close(
        backbone.attention_over(0, sequence, bias)[:, 0], backbone.attention_over(0, sequence[:, :1])[:, 0]
    )


@torch.no_grad()
def test_windows_are_what_attention_mixes(backbone: Backbone):
    tokens = backbone.embed(torch.randn(2, backbone.in_channels, 32, 32))
    for index in range(backbone.num_blocks):
        tokens = backbone.enter(index, tokens)
        windows = backbone.windows(index, tokens)
        torch.testing.assert_close(backbone.from_windows(index, windows), tokens)
        changed = windows.clone()
        changed[0, 0] = torch.randn(tokens.shape[2])
        first = backbone.windows(index, backbone.attention(index, tokens))
        second = backbone.windows(index, backbone.attention(index, backbone.from_windows(index, changed)))
        assert not torch.allclose(first[0], second[0], atol=1e-4)
        torch.testing.assert_close(first[1:], second[1:])
        assert backbone.windowed or len(windows) == len(tokens)


@torch.no_grad()
def test_linear_maps_are_the_layers(backbone: Backbone):
    for name, part in (("qkv", "attention"), ("proj", "attention"), ("fc1", "ffn"), ("fc2", "ffn")):
        tokens = backbone.enter(0, backbone.embed(torch.randn(1, backbone.in_channels, 32, 32)))
        layers = backbone.attention_layers(0, tokens) if part == "attention" else backbone.ffn_layers(0, tokens)
        operation = next(layers)
        while operation.name != name:
            operation = layers.send(operation.layer(operation.tokens))
        weight, bias = backbone.linear(0, name)
        torch.testing.assert_close(
            operation.layer(operation.tokens), torch.nn.functional.linear(operation.tokens, weight, bias)
        )


def test_sizes(backbone: Backbone):
    assert backbone.image_size == (32, 32)
    assert backbone.patch_size in ((8, 8), (4, 4))
