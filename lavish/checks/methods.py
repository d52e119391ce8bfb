"""The contract of a method, checked on small ViT and Swin V2 backbones with random weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, get_args

import torch
from torch import Tensor, nn

from lavish.config.options import check_options, has_places, option_model
from lavish.cost.counter import count_encoder
from lavish.errors import LavishError
from lavish.learner.encoder import Direction, TwoStreamEncoder
from lavish.methods.registry import adapter_class
from lavish.models.backbones.base import Backbone
from lavish.models.backbones.build import build_backbone
from lavish.models.interfaces import STREAMS, Stream, StreamFeatures, other_stream

SEGMENTS = 2
_SIDE = 32
BACKBONES: dict[str, dict[str, Any]] = {
    "vit": {"img_size": _SIDE, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2},
    "vit_average_pooled": {
        "img_size": _SIDE, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "class_token": False,
        "global_pool": "avg",
    },
    "swinv2": {"img_size": _SIDE, "embed_dim": 16, "depths": [2, 2], "num_heads": [1, 2], "window_size": 4},
}  # fmt: skip
"""Constructor arguments of the backbones."""

OPTIONS: dict[str, dict[str, Any]] = {
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
"""Options of built-in methods that suit these backbones, where the defaults do not."""


class CheckFailed(LavishError):
    """A method does not keep its contract."""


@dataclass(frozen=True)
class Subject:
    """A method with options on one of the :data:`BACKBONES`."""

    method: str
    backbone: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def frozen_backbone(self) -> Backbone:
        """Build the backbone, with the same weights each time."""
        torch.manual_seed(0)
        built = build_backbone(self.backbone.split("_")[0], BACKBONES[self.backbone], _SIDE)
        for norm in built.norms():  # Swin V2 starts them at zero, which would hide the effect of everything before them
            nn.init.normal_(norm.get_parameter("weight"), 1.0, 0.1)
        return built

    def encoder(self, seed: int = 2, **arguments: Any) -> TwoStreamEncoder:
        """Build an encoder with the method; `arguments` are those of :class:`TwoStreamEncoder`."""
        backbone = self.frozen_backbone()
        torch.manual_seed(seed)
        options = dict(self.options)
        return TwoStreamEncoder(backbone, method=self.method, options=options, **{"segments": SEGMENTS, **arguments})

    @property
    def temporal(self) -> bool:
        """Whether the method declares that it mixes the segments of a clip."""
        return not has_places(self.method) and getattr(adapter_class(self.method), "temporal", False)


def example_images() -> dict[Stream, Tensor]:
    """Return two clips of two segments in both streams, (B, 3, H, W)."""
    generator = torch.Generator().manual_seed(1)
    return {stream: torch.randn(2 * SEGMENTS, 3, _SIDE, _SIDE, generator=generator) for stream in STREAMS}


def trained(encoder: TwoStreamEncoder) -> dict[str, nn.Parameter]:
    """Return the parameters that are trained, by name."""
    return {name: p for name, p in encoder.named_parameters() if p.requires_grad}


def perturb(encoder: TwoStreamEncoder) -> TwoStreamEncoder:
    """Change every trainable parameter as training would, so that no gate is closed and no update is zero."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in trained(encoder).values():
            noise = torch.rand(parameter.shape, generator=generator)
            # Of either sign, because a post-norm removes what is the same in all channels.
            sign = torch.randint(0, 2, parameter.shape, generator=generator) * 2 - 1
            parameter.copy_(parameter * (1 + 0.2 * noise) if parameter.any() else sign * (0.2 + 0.2 * noise))
    return encoder


@torch.no_grad()
def outputs(encoder: TwoStreamEncoder, images: Mapping[Stream, Tensor] | None = None) -> dict[Stream, Tensor]:
    """Return everything that a head can read of each stream, as one vector."""
    features = encoder.eval()({**(images or example_images())}, SEGMENTS)
    return {stream: torch.cat([f.pooled.flatten(), f.tokens.flatten()]) for stream, f in features.items()}


def check_budget_option_exists(subject: Subject) -> None:
    """`budget_option` of the class is one of the options, which are arguments with a type and a default."""
    known = option_model("methods", subject.method).model_fields
    option = adapter_class(subject.method).budget_option
    _require(option is None or option in known, f"`budget_option` is '{option}', which is no option of the class")


def check_training_changes_features(subject: Subject) -> None:
    """Changed parameters change the features of both streams."""
    encoder = subject.encoder()
    _require(bool(trained(encoder)), "no parameter is trainable")
    before = outputs(encoder)
    for stream, values in outputs(perturb(encoder)).items():
        _require(not torch.allclose(values, before[stream]), f"the parameters do not affect the {stream} stream")


def check_only_declared_parameters_get_gradients(subject: Subject) -> None:
    """All parameters of the method, those that it tunes and no others get gradients, whatever the direction."""
    arrangements = ("default", "parallel", "sequential") if has_places(subject.method) else ("default",)
    for direction, arrangement in product(get_args(Direction), arrangements):
        encoder = perturb(subject.encoder(direction=direction, arrangement=arrangement)).train()
        method = _method(encoder)
        declared = {f"adapters.{name}" for name, _ in method.named_parameters()}
        tuned = {id(p) for p in method.tuned_parameters(encoder.backbone)}
        declared |= {name for name, p in encoder.named_parameters() if id(p) in tuned}
        features = encoder(example_images(), SEGMENTS)
        generator = torch.Generator().manual_seed(3)
        # Of the pooled features alone, which are all that the simplest head reads.
        losses = [(f.pooled * torch.randn(f.pooled.shape, generator=generator)).sum() for f in features.values()]
        if encoder.auxiliary_loss is not None:
            losses.append(encoder.auxiliary_loss)
        torch.stack(losses).sum().backward()
        where = f"direction '{direction}', arrangement '{arrangement}'"
        for name, parameter in encoder.named_parameters():
            _require(
                parameter.requires_grad == (name in declared),
                f"{where}: '{name}' is {'' if parameter.requires_grad else 'not '}trainable, but is "
                f"{'' if name in declared else 'not '}a parameter of the method or one of its `tuned_parameters`",
            )
            _require(
                (parameter.grad is not None) == (name in declared),
                f"{where}: '{name}' gets {'no' if parameter.grad is None else 'a'} gradient from the pooled features",
            )


def check_direction_is_kept(subject: Subject) -> None:
    """A stream depends on the other one exactly where direction and `cross_modal` of the class say so."""
    readers = {"both": STREAMS, "a2v": ("visual",), "v2a": ("audio",), "none": ()}
    for direction, reading in readers.items():
        expected = reading if adapter_class(subject.method).cross_modal else ()
        encoder = perturb(subject.encoder(direction=direction))
        first = outputs(encoder)
        for stream in STREAMS:
            images, other = example_images(), other_stream(stream)
            images[other] = torch.zeros_like(images[other])
            depends = not torch.allclose(outputs(encoder, images)[stream], first[stream], atol=1e-6)
            _require(
                depends == (stream in expected),
                f"direction '{direction}': the {stream} stream {'depends' if depends else 'does not depend'} on the "
                f"{other} one",
            )


def check_clips_are_independent(subject: Subject) -> None:
    """The features of a clip do not depend on the other clips of the batch."""
    encoder = perturb(subject.encoder())
    both = _features(encoder, example_images())
    alone = _features(encoder, {stream: x[SEGMENTS:] for stream, x in example_images().items()})
    for stream, part in product(alone, ("tokens", "pooled")):
        one, of_both = getattr(alone[stream], part), getattr(both[stream], part)[SEGMENTS:]
        _require(
            torch.allclose(one, of_both, atol=1e-5, rtol=1e-4),
            f"the {part} of a clip in the {stream} stream depend on the other clips of the batch",
        )


def check_segments_are_mixed_as_declared(subject: Subject) -> None:
    """The features of a segment depend on the other segments of the clip exactly if `temporal` of the class says so."""
    encoder = perturb(subject.encoder())
    changed = example_images()
    for images in changed.values():
        images[1] = 0  # the second segment of the first clip
    first, second = _features(encoder, example_images()), _features(encoder, changed)
    mixed = any(
        not torch.allclose(getattr(first[stream], part)[0], getattr(second[stream], part)[0], atol=1e-6)
        for stream, part in product(first, ("pooled", "tokens"))
    )
    does = "depends" if mixed else "does not depend"
    _require(mixed == subject.temporal, f"a segment {does} on the others, but `temporal` is {subject.temporal}")


def check_training_keeps_the_backbone(subject: Subject) -> None:
    """Training changes neither frozen parameters nor buffers of the backbone."""
    encoder = subject.encoder().train()
    frozen = {name: p.detach().clone() for name, p in encoder.backbone.named_parameters() if not p.requires_grad}
    frozen |= {name: buffer.clone() for name, buffer in encoder.backbone.named_buffers()}
    optimizer = torch.optim.Adam(trained(encoder).values(), lr=0.1)
    for _ in range(2):
        features = encoder(example_images(), SEGMENTS)
        torch.stack([f.pooled.square().sum() for f in features.values()]).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    after = encoder.backbone.state_dict()
    for name, tensor in frozen.items():
        _require(name not in after or torch.equal(after[name], tensor), f"training changes 'backbone.{name}'")


def check_a_single_stream_works(subject: Subject) -> None:
    """Without an audio stream, the visual one is encoded and no parameter of the audio stream exists."""
    encoder = perturb(subject.encoder(streams=("visual",)))
    found = outputs(encoder, {"visual": example_images()["visual"]})
    _require(found.keys() == {"visual"}, f"the encoder returns the streams {', '.join(found)} instead of visual alone")
    for name in trained(encoder):
        _require("audio" not in name, f"parameter '{name}' exists without an audio stream")


def check_saved_state_restores_the_features(subject: Subject) -> None:
    """Loading the saved parameters and buffers of the method gives the same features."""
    encoder, other = perturb(subject.encoder(seed=3)), subject.encoder(seed=4)
    saved = {name: tensor for name, tensor in encoder.state_dict().items() if name in trained(encoder)}
    saved |= {f"adapters.{name}": tensor for name, tensor in _method(encoder).state_dict().items()}
    other.load_state_dict(saved, strict=False)
    expected = outputs(encoder)
    for stream, values in outputs(other).items():
        _require(torch.equal(values, expected[stream]), f"the {stream} features differ: some state is no buffer")


def check_half_precision_is_close(subject: Subject) -> None:
    """Features under bfloat16 autocast differ from those in single precision by less than 10 %."""
    encoder = perturb(subject.encoder())
    exact = outputs(encoder)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = outputs(encoder)
    for stream, values in half.items():
        error = float((values.float() - exact[stream]).norm() / exact[stream].norm())
        _require(error < 0.1, f"the {stream} features differ by {error:.0%}")


def check_cost_can_be_counted(subject: Subject) -> None:
    """Every operator of the method is one whose multiply-adds can be counted."""
    count_encoder(subject.encoder(), dict.fromkeys(STREAMS, (_SIDE, _SIDE)), SEGMENTS)


CHECKS: tuple[Callable[[Subject], None], ...] = (
    check_budget_option_exists,
    check_training_changes_features,
    check_only_declared_parameters_get_gradients,
    check_direction_is_kept,
    check_clips_are_independent,
    check_segments_are_mixed_as_declared,
    check_training_keeps_the_backbone,
    check_a_single_stream_works,
    check_saved_state_restores_the_features,
    check_half_precision_is_close,
    check_cost_can_be_counted,
)


def run_checks(method: str, options: Mapping[str, Any] | None = None) -> Iterator[tuple[str, str, str | None]]:
    """Yield the backbone, the name and the problem (None: passed) of each check of a method.

    Options are by default those of :data:`OPTIONS`. On a backbone that the method cannot be built for, nothing else is
    checked.

    Raises:
        SourceError: the method does not exist or does not have these options.
    """
    options = OPTIONS.get(method, {}) if options is None else options
    check_options("methods", method, dict(options))
    for backbone in BACKBONES:
        subject = Subject(method, backbone, options)
        built = _problem(subject.encoder)
        yield backbone, "is built", built
        if built is None:
            yield from ((backbone, _title(check), _problem(functools.partial(check, subject))) for check in CHECKS)


def _title(check: Callable[[Subject], None]) -> str:
    return check.__name__.removeprefix("check_").replace("_", " ")


def _problem(call: Callable[[], object]) -> str | None:
    """Return why a call fails: foreign code may raise anything."""
    try:
        call()
    except LavishError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return None


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise CheckFailed(message)


def _method(encoder: TwoStreamEncoder) -> Any:
    assert encoder.adapters is not None
    return encoder.adapters


@torch.no_grad()
def _features(encoder: TwoStreamEncoder, images: dict[Stream, Tensor]) -> dict[Stream, StreamFeatures]:
    return encoder.eval()(images, SEGMENTS)
