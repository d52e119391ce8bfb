"""Checks of a method on small backbones: what every method must do, whatever it computes.

Each function of :data:`CHECKS` takes a :class:`Subject` and raises :class:`ContractError` if the method fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from lavish.config.options import check_options, has_sites, option_model
from lavish.cost.counter import count_encoder
from lavish.errors import LavishError
from lavish.learner.encoder import READERS, Direction, TwoStreamEncoder
from lavish.methods.registry import adapter_class
from lavish.models.backbones.base import Backbone
from lavish.models.backbones.build import build_backbone
from lavish.models.interfaces import STREAMS, Stream, StreamFeatures, other_stream
from lavish.planning.search_spaces import RATES, declared_space

SIDE = 32
"""Rows and columns of the images, and of the pictures that HTS-AT folds log-mels into."""
SEGMENTS = 2
"""Segments of a clip."""
BACKBONES: dict[str, dict[str, Any]] = {
    "vit": {"img_size": SIDE, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2},
    "vit_average_pooled": {
        "img_size": SIDE, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "class_token": False,
        "global_pool": "avg",
    },
    # As CLIP and DINOv2 with registers.
    "vit_registers": {
        "img_size": SIDE, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "pre_norm": True,
        "act_layer": "quick_gelu", "init_values": 0.5, "reg_tokens": 2, "no_embed_class": True,
    },
    # As SigLIP.
    "vit_attention_pooled": {
        "img_size": SIDE, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "class_token": False,
        "global_pool": "map",
    },
    # As EVA-02: separate maps for queries, keys and values, a gated feed-forward layer, norms inside both.
    "eva": {
        "img_size": SIDE, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "use_rot_pos_emb": True,
        "qkv_fused": False, "swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True, "mlp_ratio": 2,
    },
    # As DINOv3.
    "eva_registers": {
        "img_size": SIDE, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "use_rot_pos_emb": True,
        "rope_type": "dinov3", "rope_rotate_half": True, "use_abs_pos_emb": False, "num_reg_tokens": 2,
        "init_values": 0.5, "use_fc_norm": False,
    },
    "ast": {"img_size": [SIDE, SIDE], "patch_size": 8, "stride": 6, "embed_dim": 16, "depth": 2, "num_heads": 2},
    "swin": {"img_size": SIDE, "embed_dim": 16, "depths": [2, 2], "num_heads": [1, 2], "window_size": 4},
    "swinv2": {"img_size": SIDE, "embed_dim": 16, "depths": [2, 2], "num_heads": [1, 2], "window_size": 4},
    "htsat": {
        "img_size": SIDE, "mel_bins": 16, "embed_dim": 32, "depths": [2, 1], "num_heads": [1, 2], "window_size": 4,
    },
}  # fmt: skip
PAIRS = ("vit+ast", "swinv2+htsat")
"""Two of them, for frames and for spectrograms: of unequal depth, and of unequal widths as well."""
SMALL_OPTIONS: dict[str, dict[str, Any]] = {
    "av_moe": {"skip": 1, "balance": 0.01, "temporal_width": 8},
    "cola": {"rank": 4, "alpha": 2.0, "reduction": 4},
    "compacter": {"reduction": 4},
    "dg_sct": {"temporal_width": 8},
    # At full size, updates along (1, ..., 1) would leave nothing but rounding in the cosines of Swin V2's queries.
    "lora": {"alpha": 2.0},
    "mbt": {"layers": 2},
    "molt": {"layers": 2, "latents": 3},
    "sequential": {"reduction": 4},
    "stg_cma": {"reduction": 4},
}
"""Options of built-in methods that suit these backbones, if the defaults do not."""


class ContractError(Exception):
    """A method does not do what every method must do; the message says what was found."""


@dataclass(frozen=True)
class Subject:
    """A method on one of the small backbones, or on a pair of them."""

    method: str
    backbone: str
    """A name of :data:`BACKBONES`, or two with '+' between them."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options that suit the small backbones, if the defaults do not."""

    def encoder(self, seed: int = 2, **arguments: Any) -> TwoStreamEncoder:
        """Build an encoder; `arguments` are those of :class:`TwoStreamEncoder`."""
        backbone, *audio = map(small_backbone, self.backbone.split("+"))
        if audio and "visual" in arguments.get("streams", STREAMS):
            arguments["audio_backbone"] = audio[0]
        torch.manual_seed(seed)
        method = {"method": self.method, "options": self.options, "segments": SEGMENTS}
        return TwoStreamEncoder(backbone, **{**method, **arguments})


def small_backbone(name: str) -> Backbone:
    """Build one of :data:`BACKBONES`, always with the same weights."""
    torch.manual_seed(0)
    built = build_backbone(name.split("_")[0], BACKBONES[name], SIDE)
    for norm in built.norms():  # Swin V2 initialises them with zero, which would hide the sublayers before them
        assert isinstance(norm.weight, Tensor)
        nn.init.normal_(norm.weight, 1.0, 0.1)
    return built


def images(encoder: TwoStreamEncoder) -> dict[Stream, Tensor]:
    """Return two clips of each stream of an encoder, (clips x segments, channels, H, W) each."""
    generator = torch.Generator().manual_seed(1)
    return {
        stream: torch.randn(2 * SEGMENTS, backbone.in_channels, *backbone.image_size, generator=generator)
        for stream, backbone in encoder.backbones.items()
    }


def trainable(encoder: TwoStreamEncoder) -> dict[str, nn.Parameter]:
    """Return the trainable parameters by name."""
    return {name: p for name, p in encoder.named_parameters() if p.requires_grad}


def randomise(encoder: TwoStreamEncoder) -> TwoStreamEncoder:
    """Change every trainable parameter, as training would: no gate stays zero, no scale stays one."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in trainable(encoder).values():
            noise = torch.rand(parameter.shape, generator=generator)
            # Of either sign: a norm would remove what is equal in all channels.
            sign = torch.randint(0, 2, parameter.shape, generator=generator) * 2 - 1
            parameter.copy_(parameter * (1 + 0.2 * noise) if parameter.any() else sign * (0.2 + 0.2 * noise))
    return encoder


@torch.no_grad()
def outputs(encoder: TwoStreamEncoder, **changed: Tensor) -> dict[Stream, Tensor]:
    """Return the pooled features and tokens of each stream in one vector; `changed` replaces the images of a stream."""
    features = encoder.eval()({**images(encoder), **changed}, SEGMENTS)
    return {stream: torch.cat([f.pooled.flatten(), f.tokens.flatten()]) for stream, f in features.items()}


@torch.no_grad()
def preserves_output(subject: Subject) -> bool:
    """Tell whether the untrained method leaves the frozen backbone's features unchanged."""
    encoder = subject.encoder().eval()
    frozen = subject.encoder(method="none", options=None)(images(encoder), SEGMENTS)
    adapted = encoder(images(encoder), SEGMENTS)
    return all(
        found.shape == expected.shape and torch.allclose(found, expected, atol=1e-5)
        for stream in STREAMS
        for found, expected in _pairs(adapted[stream], frozen[stream])
    )


def check_effect(subject: Subject) -> None:
    """Training changes the features of both streams."""
    encoder = subject.encoder()
    before = outputs(encoder)
    for stream, values in outputs(randomise(encoder)).items():
        _require(not torch.allclose(values, before[stream]), f"the {stream} features do not depend on its parameters")


def check_gradients(subject: Subject) -> None:
    """All trainable parameters, and no others, have gradients in every direction and arrangement."""
    arrangements = ("default", "parallel", "sequential") if has_sites(subject.method) else ("default",)
    for direction in READERS:
        for arrangement in arrangements:
            _check_gradients(subject, direction, arrangement)


def _check_gradients(subject: Subject, direction: Direction, arrangement: str) -> None:
    encoder = randomise(subject.encoder(direction=direction, arrangement=arrangement)).train()
    method = encoder.adapters
    assert method is not None
    declared = {f"adapters.{name}" for name, _ in method.named_parameters()}
    tuned = {id(p) for stream, own in encoder.backbones.items() for p in method.tuned_parameters(stream, own)}
    declared |= {name for name, p in encoder.named_parameters() if id(p) in tuned}
    where = f"direction {direction}, arrangement {arrangement}"
    _require(
        declared == trainable(encoder).keys(), f"{where}: not trainable: {_first(declared - trainable(encoder).keys())}"
    )
    features = encoder(images(encoder), SEGMENTS)
    generator = torch.Generator().manual_seed(3)
    # Only pooled features, as the simplest head uses: a parameter that other features depend on would stay untrained.
    losses = [(f.pooled * torch.randn(f.pooled.shape, generator=generator)).sum() for f in features.values()]
    loss = torch.stack(losses).sum()
    (loss if encoder.auxiliary_loss is None else loss + encoder.auxiliary_loss).backward()
    with_gradient = {name for name, parameter in encoder.named_parameters() if parameter.grad is not None}
    _require(with_gradient >= declared, f"{where}: no gradient: {_first(declared - with_gradient)}")
    _require(with_gradient <= declared, f"{where}: gradient of a frozen parameter: {_first(with_gradient - declared)}")


def check_direction(subject: Subject) -> None:
    """A stream depends on the other one only if the direction of fusion allows it, and then it does."""
    for direction, readers in READERS.items():
        encoder = randomise(subject.encoder(direction=direction))
        first = outputs(encoder)
        expected = readers if adapter_class(subject.method).cross_modal else set()
        for stream in STREAMS:
            other = other_stream(stream)
            zeros = {other: torch.zeros_like(images(encoder)[other])}
            depends = not torch.allclose(outputs(encoder, **zeros)[stream], first[stream], atol=1e-6)
            does = "depends on the other one" if depends else "does not depend on the other one"
            _require(depends == (stream in expected), f"direction {direction}: the {stream} stream {does}")


@torch.no_grad()
def check_clips(subject: Subject) -> None:
    """The features of a clip do not depend on the other clips of a batch in evaluation."""
    # In double precision: batches of other sizes add in other orders, and cosine attention magnifies that.
    encoder = randomise(subject.encoder()).eval().double()
    clips = {stream: x.double() for stream, x in images(encoder).items()}
    with _default_dtype(torch.float64):  # of what a method makes anew in its forward pass
        both = encoder(clips, SEGMENTS)
        alone = encoder({stream: x[SEGMENTS:] for stream, x in clips.items()}, SEGMENTS)
    for stream in STREAMS:
        for found, expected in _pairs(alone[stream], both[stream]):
            equal = torch.allclose(found, expected[SEGMENTS:], atol=1e-9, rtol=1e-9)
            _require(equal, f"the {stream} features of a clip depend on the other clips of its batch")


@torch.no_grad()
def check_segments(subject: Subject) -> None:
    """The segments of a clip are mixed if and only if the class declares `temporal`."""
    encoder = randomise(subject.encoder()).eval()
    changed = images(encoder)
    for stream in changed.values():
        stream[1] = 0  # the second segment of the first clip
    first, second = encoder(images(encoder), SEGMENTS), encoder(changed, SEGMENTS)
    mixed = any(
        not torch.allclose(found[0], expected[0], atol=1e-6)
        for stream in STREAMS
        for found, expected in _pairs(second[stream], first[stream])
    )
    declared = bool(getattr(adapter_class(subject.method), "temporal", False))
    does = "depends on" if mixed else "does not depend on"
    _require(mixed == declared, f"a segment {does} the other segments of its clip, but `temporal` is {declared}")


def check_frozen_backbone(subject: Subject) -> None:
    """Training leaves the frozen parameters and the buffers of the backbone unchanged."""
    encoder = subject.encoder().train()
    backbones = nn.ModuleList(encoder.backbones.values())
    frozen = {name: p.detach().clone() for name, p in backbones.named_parameters() if not p.requires_grad}
    frozen |= {name: buffer.clone() for name, buffer in backbones.named_buffers()}
    optimizer = torch.optim.Adam(trainable(encoder).values(), lr=0.1)
    for _ in range(2):
        features = encoder(images(encoder), SEGMENTS)
        torch.stack([f.pooled.square().sum() for f in features.values()]).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    after = backbones.state_dict()
    for name, tensor in frozen.items():
        _require(name not in after or torch.equal(after[name], tensor), f"training changes the backbone's {name}")


@torch.no_grad()
def check_single_stream(subject: Subject) -> None:
    """With one stream, the other one has neither features nor parameters."""
    encoder = randomise(subject.encoder(streams=("visual",))).eval()
    found = set(encoder(images(encoder), SEGMENTS))
    _require(found == {"visual"}, f"features of {', '.join(sorted(found))} from the visual stream only")
    audio = {name for name in trainable(encoder) if "audio" in name}
    _require(not audio, f"a parameter of the missing audio stream: {_first(audio)}")


def check_saving(subject: Subject) -> None:
    """The trainable parameters and the method's buffers determine the output."""
    encoder, other = randomise(subject.encoder(seed=3)), subject.encoder(seed=4)
    assert encoder.adapters is not None
    saved = {name: tensor for name, tensor in encoder.state_dict().items() if name in trainable(encoder)}
    saved |= {f"adapters.{name}": tensor for name, tensor in encoder.adapters.state_dict().items()}
    other.load_state_dict(saved, strict=False)
    expected = outputs(encoder)
    for stream, values in outputs(other).items():
        _require(torch.equal(values, expected[stream]), f"the {stream} features change by saving and loading")


def check_bfloat16(subject: Subject) -> None:
    """bfloat16 changes the features by less than a tenth."""
    encoder = randomise(subject.encoder())
    exact = outputs(encoder)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = outputs(encoder)
    for stream, values in half.items():
        change = float((values.float() - exact[stream]).norm() / exact[stream].norm())
        _require(change < 0.1, f"the {stream} features change by {100 * change:.0f} % in bfloat16")


def check_budget_option(subject: Subject) -> None:
    """`budget_option` names an option of the class."""
    option = adapter_class(subject.method).budget_option
    options = option_model("methods", subject.method).model_fields
    _require(option is None or option in options, f"`budget_option` is '{option}', which is not an option")


def check_search_space(subject: Subject) -> None:
    """`search_space` can be read, and the method can be built at its ends; sizes depend on the backbone's width."""
    size = adapter_class(subject.method).budget_option
    space = {name: ends for name, ends in declared_space(subject.method).items() if name not in (size, *RATES)}
    for end in (1, -1):
        options = {name: ends[end] for name, ends in space.items()}
        replace(subject, options={**subject.options, **options}).encoder()


def check_cost(subject: Subject) -> None:
    """Every operator of the method is one whose multiply-adds can be counted."""
    encoder = subject.encoder()
    if encoder.backbones["visual"].in_channels == 1:
        encoder = subject.encoder(streams=("audio",))
    count_encoder(encoder, {stream: own.image_size for stream, own in encoder.backbones.items()}, SEGMENTS)


CHECKS: dict[str, Callable[[Subject], None]] = {
    "effect": check_effect,
    "gradients": check_gradients,
    "direction": check_direction,
    "clips": check_clips,
    "segments": check_segments,
    "frozen_backbone": check_frozen_backbone,
    "single_stream": check_single_stream,
    "saving": check_saving,
    "bfloat16": check_bfloat16,
    "budget_option": check_budget_option,
    "search_space": check_search_space,
    "cost": check_cost,
}


@dataclass(frozen=True)
class Outcome:
    """The result of one check on one backbone; `failure` is None if it passed."""

    backbone: str
    check: str
    failure: str | None
    refusal: str | None = None
    """Why the method cannot be built for a pair of backbones, which it may say."""


def check_method(method: str, options: dict[str, Any]) -> Iterator[Outcome]:
    """Run all checks on all small backbones and pairs; if the method cannot be built there, nothing else is checked.

    Raises:
        SourceError: there is no such method, or it does not have these options.
    """
    check_options("methods", method, options)
    for backbone in (*BACKBONES, *PAIRS):
        subject = Subject(method, backbone, options)
        if backbone in PAIRS and (refusal := _refusal(subject)) is not None:
            yield Outcome(backbone, "construction", None, refusal)
            continue
        failure = _failure(Subject.encoder, subject)
        yield Outcome(backbone, "construction", failure)
        if failure is None:
            yield from (Outcome(backbone, name, _failure(check, subject)) for name, check in CHECKS.items())


def _refusal(subject: Subject) -> str | None:
    """Return why a method says that it cannot be built; None if it can, or fails in another way."""
    try:
        subject.encoder()
    except LavishError as error:
        return str(error)
    except Exception:  # a failure of the construction
        return None
    return None


def _failure(check: Callable[[Subject], object], subject: Subject) -> str | None:
    try:
        check(subject)
    except (ContractError, LavishError) as error:
        return str(error)
    except Exception as error:  # whatever the method's own code raises
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return None


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _pairs(found: StreamFeatures, expected: StreamFeatures) -> tuple[tuple[Tensor, Tensor], ...]:
    return (found.tokens, expected.tokens), (found.pooled, expected.pooled)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ContractError(message)


def _first(names: set[str]) -> str:
    return sorted(names)[0] if names else ""
