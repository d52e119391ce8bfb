"""The mask decoder and TPAVI: published sizes, against literal forms, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lavish.errors import LavishError
from lavish.learner.uninitialised import skip_initialisation
from lavish.models.heads.mask_decoder import DilatedConvolutions, MaskDecoder, ResidualUnit
from lavish.models.heads.tpavi import AudioVisualInteraction
from lavish.models.resizing import Resizing

SWIN_LARGE = [(192, 56, 56), (384, 28, 28), (768, 14, 14), (1536, 7, 7)]
SMALL = [(8, 6, 6), (8, 6, 6), (8, 6, 6), (8, 6, 6)]  # a ViT: one scale


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def small_maps(batch: int = 3) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(batch, *stage) for stage in SMALL]


def test_published_numbers_of_parameters() -> None:
    with skip_initialisation():
        decoder = MaskDecoder(SWIN_LARGE, 224)
        interaction = AudioVisualInteraction(256)
    projections = size(decoder.projections)
    assert projections == 1_094_656
    assert decoder.unused_parameters() == 1_180_160
    assert size(decoder) - projections + decoder.unused_parameters() == 19_214_529
    assert size(interaction) == 165_760


def test_published_shapes() -> None:
    with torch.device("meta"):
        decoder = MaskDecoder(SWIN_LARGE, 224)
        pyramid = decoder.pyramid([torch.empty(2, *stage) for stage in SWIN_LARGE])
        logits = decoder.merge(pyramid)
    assert [tuple(level.shape) for level in pyramid] == [(2, 256, side, side) for side in (56, 28, 14, 7)]
    assert logits.shape == (2, 224, 224)
    assert [projection.out_features for projection in decoder.projections] == [64, 128, 320, 512]


def test_fewer_levels_keep_the_deepest_stages() -> None:
    torch.manual_seed(0)
    decoder = MaskDecoder([(4, 6, 6), (5, 6, 6), (6, 6, 6), (7, 6, 6)], 48, channels=16, levels=2)
    assert [projection.in_features for projection in decoder.projections] == [6, 7]
    assert [projection.out_features for projection in decoder.projections] == [20, 32]
    maps = [torch.randn(1, channels, 6, 6) for channels in (4, 5, 6, 7)]
    pyramid = decoder.pyramid(maps)
    assert [level.shape[-1] for level in pyramid] == [12, 6]
    assert decoder.merge(pyramid).shape == (1, 48, 48)


def test_the_output_follows_the_equations() -> None:
    decoder = MaskDecoder(SMALL, 32, channels=8, levels=3)
    maps = small_maps()

    def up(x: Tensor, aligned: bool) -> Tensor:
        return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=aligned)

    def unit(module: ResidualUnit, x: Tensor) -> Tensor:
        x = functional.relu(x)
        return module.second(functional.relu(module.first(x))) + x

    v = []
    for projection, neck, side, stage in zip(decoder.projections, decoder.necks, (8, 4, 2), maps[1:], strict=True):
        x = torch.einsum("oc,bchw->bohw", projection.weight, stage) + projection.bias.view(1, -1, 1, 1)
        x = functional.interpolate(x, (side, side), mode="bicubic", align_corners=False)
        v.append(sum(convolution(x) for convolution in neck.convolutions))
    p = up(unit(decoder.leave[2], v[2]), True)
    p = up(unit(decoder.leave[1], p + unit(decoder.enter[1], v[1])), True)
    p = up(unit(decoder.leave[0], p + unit(decoder.enter[0], v[0])), True)
    p = decoder.logits(functional.relu(decoder.refine(up(decoder.reduce(p), False))))
    torch.testing.assert_close(decoder.merge(decoder.pyramid(maps)), p[:, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", [2, 3, 5, 7, 14, 24])
def test_dilations_beyond_the_map_are_left_out_exactly(side: int) -> None:
    torch.manual_seed(0)
    neck, x = DilatedConvolutions(3, 5), torch.randn(2, 3, side, side)
    literal = sum(convolution(x) for convolution in neck.convolutions)
    weights = [convolution.weight for convolution in neck.convolutions]
    expected = torch.autograd.grad(literal.square().sum(), weights)
    found = neck(x)
    torch.testing.assert_close(found, literal, rtol=1e-4, atol=1e-5)
    gradients = torch.autograd.grad(found.square().sum(), weights)
    torch.testing.assert_close(gradients, expected, rtol=1e-3, atol=1e-4)


def test_the_necks_start_small() -> None:
    torch.manual_seed(0)
    for convolution in DilatedConvolutions(64, 64).convolutions:
        assert convolution.weight.std().item() == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize(
    ("frame_size", "channels", "levels", "message"),
    [
        (48, 16, 4, r"task\.options\.levels: 4 levels .* multiple of 32 .* data\.frame_size is 48: .*levels to 3"),
        (50, 16, 2, r"multiple of 8 pixels, but data\.frame_size is 50: set data\.frame_size"),
        (64, 16, 5, r"task\.options\.levels: 5, .* 1 to 4 levels"),
        (64, 16, 0, r"task\.options\.levels: 0"),
        (64, 12, 4, r"task\.options\.channels: 12 is not a multiple of 8"),
    ],
)
def test_what_does_not_fit_is_named(frame_size: int, channels: int, levels: int, message: str) -> None:
    with pytest.raises(LavishError, match=message):
        MaskDecoder(SMALL, frame_size, channels=channels, levels=levels)


def literal_interaction(module: AudioVisualInteraction, maps: Tensor, audio: Tensor) -> Tensor:
    """TPAVI as published: all positions of a clip read all positions."""
    clips, segments = audio.shape[:2]
    channels, (rows, columns) = maps.shape[1], maps.shape[2:]
    visual = maps.view(clips, segments, channels, rows, columns).permute(0, 1, 3, 4, 2).reshape(clips, -1, channels)
    heard = module.align(audio)[:, :, None].expand(-1, -1, rows * columns, -1).reshape(clips, -1, channels)
    affinity = module.theta(visual) @ module.phi(heard).transpose(1, 2) / visual.shape[1]
    written = module.out(affinity @ module.g(visual))
    normed = functional.batch_norm(
        written.flatten(0, 1), None, None, module.batch_norm.weight, module.batch_norm.bias, training=True
    ).view_as(written)
    mixed = module.layer_norm(visual + normed)
    return mixed.view(clips, segments, rows, columns, channels).permute(0, 1, 4, 2, 3).reshape(maps.shape)


def test_the_linear_form_of_tpavi_equals_the_literal_one() -> None:
    torch.manual_seed(0)
    module = AudioVisualInteraction(8)
    nn.init.normal_(module.batch_norm.weight)
    maps, audio = torch.randn(6, 8, 4, 5), torch.randn(2, 3, 4)
    found, aligned = module(maps, audio)
    torch.testing.assert_close(found, literal_interaction(module, maps, audio), rtol=1e-4, atol=1e-5)
    assert aligned.shape == (2, 3, 8)


def test_tpavi_starts_as_a_layer_norm() -> None:
    torch.manual_seed(0)
    module, maps = AudioVisualInteraction(8), torch.randn(2, 8, 3, 3)
    found, _ = module(maps, torch.randn(1, 2, 4))
    torch.testing.assert_close(found, functional.layer_norm(maps.movedim(1, -1), (8,)).movedim(-1, 1))


@pytest.mark.parametrize(("rows", "columns", "side"), [(6, 6, 12), (14, 14, 7), (4, 9, 6), (5, 5, 5)])
def test_resizing_is_bicubic(rows: int, columns: int, side: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, rows, columns)
    expected = functional.interpolate(x, (side, side), mode="bicubic", align_corners=False)
    torch.testing.assert_close(Resizing((rows, columns), (side, side))(x), expected, rtol=1e-4, atol=1e-5)
