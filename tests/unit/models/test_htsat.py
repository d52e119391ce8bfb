"""HTS-AT against a literal forward pass in its published names, and what its files and inputs must be."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lavish.config.schema import PretrainConfig, RunConfig
from lavish.config.validation import parse
from lavish.cost.counter import _count
from lavish.errors import LavishError
from lavish.learner.uninitialised import skip_initialisation, uninitialised_model
from lavish.models.backbones.build import build_backbone
from lavish.models.backbones.htsat import HTSAT, HTSATBackbone
from lavish.training.pretraining.pictures import pretrain
from tests.stores import run_values

# A last stage of one window, which is not shifted, and others of 4 x 4 and 2 x 2 windows.
BINS, SIDE, WINDOW, WIDTH, DEPTHS, HEADS = 8, 32, 2, 8, (2, 2, 2), (1, 2, 4)
SPEC = {"mel_bins": BINS, "img_size": SIDE, "window_size": WINDOW, "embed_dim": WIDTH, "depths": DEPTHS}
SPEC |= {"num_heads": HEADS}
PIECES = SIDE // BINS


def published(prefix: str = "sed_model.") -> dict[str, Tensor]:
    """Return random tensors in the published names and shapes of the small size, unused ones included."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return 0.5 * torch.randn(shape, generator=generator)

    tensors: dict[str, Tensor] = {}

    def add(name: str, *shape: int) -> None:
        tensors[f"{name}.weight"] = draw(*shape) + (1 if len(shape) == 1 else 0)
        tensors[f"{name}.bias"] = draw(shape[0])

    add("bn0", BINS)
    tensors |= {"bn0.running_mean": draw(BINS), "bn0.running_var": draw(BINS).abs() + 0.1}
    tensors["bn0.num_batches_tracked"] = torch.tensor(7)
    add("patch_embed.proj", WIDTH, 1, 4, 4)
    add("patch_embed.norm", WIDTH)
    for stage, (depth, heads) in enumerate(zip(DEPTHS, HEADS, strict=True)):
        c = WIDTH * 2**stage
        for index in range(depth):
            block = f"layers.{stage}.blocks.{index}"
            add(f"{block}.norm1", c)
            add(f"{block}.attn.qkv", 3 * c, c)
            add(f"{block}.attn.proj", c, c)
            tensors[f"{block}.attn.relative_position_bias_table"] = draw((2 * WINDOW - 1) ** 2, heads)
            tensors[f"{block}.attn.relative_position_index"] = torch.zeros(WINDOW**2, WINDOW**2, dtype=torch.long)
            add(f"{block}.norm2", c)
            add(f"{block}.mlp.fc1", 4 * c, c)
            add(f"{block}.mlp.fc2", c, 4 * c)
        if stage + 1 < len(DEPTHS):
            tensors[f"layers.{stage}.blocks.1.attn_mask"] = draw(4, WINDOW**2, WINDOW**2)
            tensors[f"layers.{stage}.downsample.reduction.weight"] = draw(2 * c, 4 * c)
            add(f"layers.{stage}.downsample.norm", 4 * c)
    add("norm", c)
    add("tscam_conv", 5, c, 1, 3)
    add("head", 5, 5)
    tensors["spectrogram_extractor.stft.conv_real.weight"] = draw(9, 1, 16)
    tensors["logmel_extractor.melW"] = draw(9, BINS)
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def reference(w: dict[str, Tensor], log_mels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tokens after the last norm (B, N, C) and the latent output (B, C) of log-mels (B, bins, frames).

    The equations of HTS-AT, token by token where that is what they say; `w` has the published names without prefix.
    """
    scale = w["bn0.weight"] / (w["bn0.running_var"] + 1e-5).sqrt()
    x = (log_mels - w["bn0.running_mean"][:, None]) * scale[:, None] + w["bn0.bias"][:, None]
    total = SIDE * PIECES
    x = torch.cat([x] * (total // x.shape[2]), dim=2)
    if x.shape[2] < total:
        x = cubic(x, total)
    picture = torch.empty(len(x), SIDE, SIDE)
    for piece in range(PIECES):
        picture[:, piece * BINS : (piece + 1) * BINS] = x[:, :, piece * SIDE : (piece + 1) * SIDE]

    patches = torch.empty(len(x), SIDE // 4, SIDE // 4, WIDTH)
    kernel = w["patch_embed.proj.weight"].reshape(WIDTH, 16)
    for row in range(SIDE // 4):
        for column in range(SIDE // 4):
            patch = picture[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].reshape(len(x), 16)
            patches[:, row, column] = patch @ kernel.T + w["patch_embed.proj.bias"]
    tokens = norm(w, "patch_embed.norm", patches)

    for stage, depth in enumerate(DEPTHS):
        side = tokens.shape[1]
        for index in range(depth):
            block = f"layers.{stage}.blocks.{index}"
            shift = WINDOW // 2 if index % 2 and side > WINDOW else 0
            tokens = tokens + windowed_attention(w, block, norm(w, f"{block}.norm1", tokens), HEADS[stage], shift)
            hidden = linear(w, f"{block}.mlp.fc1", norm(w, f"{block}.norm2", tokens))
            hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
            tokens = tokens + linear(w, f"{block}.mlp.fc2", hidden)
        if stage + 1 < len(DEPTHS):  # at the end of a stage: above left, below left, above right, below right
            near = [tokens[:, i::2, j::2] for i, j in ((0, 0), (1, 0), (0, 1), (1, 1))]
            merged = norm(w, f"layers.{stage}.downsample.norm", torch.cat(near, dim=-1))
            tokens = merged @ w[f"layers.{stage}.downsample.reduction.weight"].T
    tokens = norm(w, "norm", tokens).flatten(1, 2)
    return tokens, tokens.sum(dim=1) / tokens.shape[1]


def windowed_attention(w: dict[str, Tensor], block: str, x: Tensor, heads: int, shift: int) -> Tensor:
    """Return attention in shifted windows of a grid (B, side, side, C): each token on its own."""
    side, width = x.shape[1], x.shape[3] // heads
    q, k, v = linear(w, f"{block}.attn.qkv", x).chunk(3, dim=-1)
    table = w[f"{block}.attn.relative_position_bias_table"]
    mixed = torch.empty_like(x)

    def window_of(position: int) -> tuple[int, bool]:
        """Return the window of a row or column, and whether it came around the edge into it."""
        shifted = (position - shift) % side
        return shifted // WINDOW, position < shift

    places = [(i, j) for i in range(side) for j in range(side)]
    for i, j in places:
        seen = [(a, b) for a, b in places if window_of(a) == window_of(i) and window_of(b) == window_of(j)]
        # Distances count in the shifted grid, where the window is in one piece.
        offsets = [((i - shift) % side - (a - shift) % side, (j - shift) % side - (b - shift) % side) for a, b in seen]
        rows = [(di + WINDOW - 1) * (2 * WINDOW - 1) + dj + WINDOW - 1 for di, dj in offsets]
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            keys = torch.stack([k[:, a, b, part] for a, b in seen], dim=1)
            values = torch.stack([v[:, a, b, part] for a, b in seen], dim=1)
            logits = (keys @ q[:, i, j, part, None])[..., 0] / math.sqrt(width) + table[rows, head]
            mixed[:, i, j, part] = (logits.softmax(dim=1)[..., None] * values).sum(dim=1)
    return linear(w, f"{block}.attn.proj", mixed)


def cubic(x: Tensor, length: int) -> Tensor:
    """Stretch the last dimension to `length` by Keys' cubic kernel with a = -0.75, the first and last sample fixed."""
    a = -0.75
    out = torch.empty(*x.shape[:-1], length)
    for target in range(length):
        position = target * (x.shape[-1] - 1) / (length - 1)
        left = math.floor(position)
        out[..., target] = 0
        for index in range(left - 1, left + 3):
            d = abs(position - index)
            near = (a + 2) * d**3 - (a + 3) * d**2 + 1
            weight = near if d <= 1 else a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
            out[..., target] += weight * x[..., min(max(index, 0), x.shape[-1] - 1)]
    return out


def linear(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def norm(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    return (
        centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]
    )


def load(tmp_path, tensors: dict[str, Tensor], **changes: Any) -> HTSATBackbone:
    path = tmp_path / "htsat.safetensors"
    save_file(tensors, path)
    built = build_backbone("htsat", {**SPEC, **changes}, 0, weights=path)
    assert isinstance(built, HTSATBackbone)
    return built


# All of the picture; one piece too short; repeated without and with a rest.
@pytest.mark.parametrize("frames", [128, 101, 32, 11])
@pytest.mark.parametrize("prefix", ["sed_model.", ""])
def test_a_published_file_gives_the_published_forward_pass(tmp_path, frames, prefix):
    backbone = load(tmp_path, published(prefix)).train()  # which changes nothing
    log_mels = 20 * torch.randn(2, BINS, frames, generator=torch.Generator().manual_seed(frames)) - 40
    with torch.no_grad():
        tokens, latent = reference(published(""), log_mels)
        found = backbone.encode(log_mels[:, None])
        assert (found - tokens).abs().max() < 1e-5
        assert (backbone(log_mels[:, None]) - latent).abs().max() < 1e-5
    assert tokens.shape == (2, 4, 32) and tokens.std() > 0.3


def test_the_batch_norm_of_the_input_is_frozen(tmp_path):
    backbone = load(tmp_path, published()).train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    backbone(100 + torch.randn(2, 1, BINS, 32))
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
    assert not any(p.requires_grad for p in backbone.parameters())


def test_pieces_of_time_are_stacked():
    backbone = build_backbone("htsat", SPEC, 0)
    ramp = torch.arange(128.0).expand(1, 1, BINS, 128) + 1000 * torch.arange(BINS)[:, None]
    picture = backbone._picture(ramp) * math.sqrt(1 + 1e-5)  # a batch norm that does nothing else
    expected = [
        [1000.0 * f + piece * SIDE, 1000.0 * f + piece * SIDE + SIDE - 1] for piece in range(4) for f in range(8)
    ]
    torch.testing.assert_close(picture[0, 0, :, [0, -1]], torch.tensor(expected), rtol=1e-5, atol=1e-3)


TABLE = "layers.0.blocks.2.attn.relative_position_bias_table"


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("bn0.running_var", None, r"1 not in the file \('bn0\.running_var'\)"),
        ("layers.1.downsample.norm.bias", None, r"1 not in the file \('layers\.2\.downsample\.norm\.bias'\)"),
        ("absolute_pos_embed", torch.ones(3), r"1 only in the file \('absolute_pos_embed'\)"),
        (TABLE, torch.ones(9, 1), rf"1 only in the file \('{TABLE}'\)"),
        ("norm.bias", torch.full((32,), math.nan), r"'norm\.bias' does not hold finite"),
    ],
    ids=["missing", "missing merging", "unknown", "unknown block", "not finite"],
)
def test_a_file_is_never_loaded_in_part(tmp_path, name, tensor, message):
    tensors = {key: old for key, old in published().items() if key != f"sed_model.{name}"}
    if tensor is not None:
        tensors[f"sed_model.{name}"] = tensor
    with pytest.raises(LavishError, match=message):
        load(tmp_path, tensors)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"window_size": 4},
            r"of another shape \('layers\.0\.blocks\.0\.attn\.relative_position_bias_table'.*\(9, 1\)",
        ),
        ({"patch_size": 2}, r"of another shape \('patch_embed\.proj\.weight'"),
        ({"mel_bins": 16}, r"of another shape \('bn0\."),
    ],
)
def test_weights_of_another_specification_are_not_resized(tmp_path, changes, message):
    with pytest.raises(LavishError, match=rf"{message}.*backbone\.spec"):
        load(tmp_path, published(), **changes)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"mel_bins": 48}, r"img_size \(256\) is no multiple of mel_bins \(48\)"),
        ({"in_chans": 3}, "backbone.spec does not fit 'htsat'"),
        ({"width": 3}, "backbone.spec does not fit 'htsat'"),
    ],
)
def test_specifications_that_cannot_be_are_refused(spec, message):
    with pytest.raises(LavishError, match=message):
        build_backbone("htsat", spec, 0)


def test_sizes_are_those_of_log_mels_and_grids_those_of_the_picture():
    backbone = build_backbone("htsat", SPEC, 0)
    assert (backbone.in_channels, backbone.image_size, backbone.patch_size) == (1, (BINS, 4 * SIDE), (4, 4))
    expected = ((8, 8),) * 2 + ((4, 4),) * 2 + ((2, 2),) * 2
    assert backbone.grid_sizes((BINS, 101)) == backbone.grid_sizes((BINS, 1)) == expected
    for size in ((SIDE, SIDE), (BINS, 129), (BINS, 0)):
        with pytest.raises(
            LavishError, match=rf"8 mel bins and at most 128 frames, not {size[0]} x {size[1]}: set data"
        ):
            backbone.grid_sizes(size)


def test_a_model_that_would_show_it_frames_is_not_built():
    backbone = {"model": "htsat", "spec": {**SPEC, "mel_bins": 16}, "weights": {"source": "random"}}
    config = parse(RunConfig, run_values(backbone=backbone, modalities="visual"), "test")
    with pytest.raises(LavishError, match=r"reads log-mels of 16 mel bins .* it reads no video frames"):
        uninitialised_model(config.model_copy(update={"data": config.data.model_copy(update={"frame_size": 32})}))


def test_it_is_not_pretrained_on_pictures(tmp_path):
    recipe = PretrainConfig(samples=1, epochs=1)
    with pytest.raises(LavishError, match=r"reads spectrograms of one channel, no pictures"):
        pretrain("htsat", SPEC, recipe, tmp_path / "w.safetensors", torch.device("cpu"))


def test_backbones_of_pictures_have_three_channels():
    for name in ("vit", "swin", "swinv2"):
        spec = {"img_size": 32, "embed_dim": 8, "num_heads": 2 if name == "vit" else [2, 2]}
        spec |= {"depth": 1} if name == "vit" else {"depths": [1, 1], "window_size": 4}
        assert build_backbone(name, spec, 32).in_channels == 3


def test_numbers_of_the_published_size():
    with skip_initialisation():
        model = HTSAT(num_classes=0)
    widths, depths, heads = (96, 192, 384, 768), (2, 2, 6, 2), (4, 8, 16, 32)
    # Maps of 12 C^2 with biases of 9 C, two norms, a table of 15 x 15 position biases.
    blocks = sum(d * (12 * c * c + 13 * c + 225 * h) for c, d, h in zip(widths, depths, heads, strict=True))
    merging = sum(8 * c * c + 8 * c for c in widths[:3])
    used = 2 * 64 + 96 * 16 + 3 * 96 + blocks + merging + 2 * 768
    assert sum(p.numel() for p in model.parameters()) == used == 27_534_488
    # What is not built: the classifier of 527 classes, the Fourier transform and the filters. 31.3 M with DG-SCT.
    classifier = 527 * 768 * 2 * 3 + 527 + 527 * 527 + 527
    transforms = 2 * 513 * 1024 + 513 * 64
    assert round((used + classifier + transforms) / 1e6, 1) == 31.3
    assert HTSATBackbone(model, "htsat").image_size == (64, 1024)


def test_multiply_adds_by_hand():
    backbone = build_backbone("htsat", SPEC, 0)
    found = _count(backbone, (torch.zeros(1, 1, BINS, 101),)).by_operator()
    sides, widths = (8, 4, 2), (8, 16, 32)
    maps = sum(2 * n * n * 12 * c * c for n, c in zip(sides, widths, strict=True))
    maps += sum(n * n * 8 * c * c for n, c in zip(sides[1:], widths[:-1], strict=True))
    attention = sum(2 * n * n * 2 * WINDOW**2 * c for n, c in zip(sides, widths, strict=True))
    stretched = 16 * BINS * 4 * SIDE
    assert found.pop("upsample_bicubic2d") == stretched
    norms = found.pop("layer_norm") + found.pop("batch_norm")
    assert norms > 0
    assert sum(found.values()) == maps + attention + 64 * 16 * WIDTH


def test_published_names_of_the_reference_are_complete():
    """Every parameter that is built has a published tensor, with merging one stage earlier."""
    ours = {
        re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", name)
        for name in build_backbone("htsat", SPEC, 0).model.state_dict()
    }
    unused = ("spectrogram_extractor", "logmel_extractor", "tscam_conv", "head")
    assert ours == {n for n in published("") if not n.startswith(unused) and not n.endswith(("index", "mask"))}
