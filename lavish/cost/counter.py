"""Counts the parameters and the multiply-adds of a model for one clip, with fvcore.

Convention: a multiply-add counts once (as in the paper and in fvcore), for one clip, batch size 1, in evaluation mode.
A frozen backbone that both streams share runs twice, so its multiply-adds count twice and its parameters once. fvcore
counts layer norms (5 per element) and batch norms (2 per element) and ignores softmax, activations and additions.
`*_without_norms` excludes the norms as well, which is how the paper's 11 and 217 GFLOPs come about.

The cost of a method is the difference to the bare backbone on both streams. It includes what frozen layers spend on the
tokens that the method adds.

fvcore traces a forward pass. The encoder treats all frames alike, so its count is linear in the number of segments: it
is traced with one and with two segments and extrapolated, which is exact. Where a method attends over the segments of a
clip the count is quadratic, and three segments are traced as well. The head is traced with all segments. Only shapes
matter, so weights are left uninitialised.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from fvcore.nn import FlopCountAnalysis, parameter_count
from fvcore.nn.jit_handles import elementwise_flop_counter, get_shape
from torch import Tensor, nn

from lavish.data.store.batches import Batch
from lavish.errors import LavishError
from lavish.learner.model import AudioVisualModel
from lavish.methods.registry import SiteAdapters
from lavish.models.interfaces import Stream, StreamFeatures
from lavish.tasks.base import EncodedBatch

if TYPE_CHECKING:
    from lavish.config.schema import DataConfig
    from lavish.learner.encoder import TwoStreamEncoder
    from lavish.models.backbones.base import Backbone

_Counts = dict[str, Counter[str]]
"""Multiply-adds by module, then by operator."""

_NORMS = {"layer_norm", "batch_norm"}
_ENCODER = "model.encoder"

# Elementwise operations, reductions and data movement, which have no matrix product. Any other operator that fvcore
# does not count needs a handler, or has to be added here on purpose. Resampling is that of a position embedding, sine
# and cosine are those of rotary positions: neither depends on the input, and both could be stored.
FREE_OPERATORS = {
    f"aten::{name}"
    for name in [
        "add", "add_", "addcmul", "sub", "rsub", "mul", "mul_", "div", "div_", "neg", "pow", "sqrt", "rsqrt", "exp",
        "log", "sigmoid", "tanh", "relu", "relu_", "gelu", "silu", "softmax", "mean", "sum", "amax", "max", "clamp",
        "clamp_min", "clamp_max", "linalg_vector_norm", "norm", "expand_as", "view_as", "copy_", "index", "pad",
        "roll", "repeat", "repeat_interleave", "where", "masked_fill", "fill_", "zeros", "zeros_like", "ones",
        "ones_like", "empty", "arange", "eq", "ne", "lt", "gt", "unflatten", "embedding",
        "_upsample_bicubic2d_aa", "sin", "cos", "meshgrid",
    ]
}  # fmt: skip


def count(model: AudioVisualModel, clip: Callable[[int], Batch], segments: int) -> dict[str, Any]:
    """Return :func:`count_parameters` and :func:`count_macs` of a model without a separate audio encoder."""
    return count_parameters(model) | count_macs(model, clip, segments)


def count_macs(
    model: AudioVisualModel,
    clip: Callable[[int], Batch],
    segments: int,
    audio_encoder: tuple[nn.Module, Tensor] | None = None,
) -> dict[str, Any]:
    """Count multiply-adds.

    Args:
        model: the learner.
        clip: returns a batch of one clip with the given number of segments.
        segments: of a clip.
        audio_encoder: the separate audio encoder and its input for one clip, if there is one.

    Returns:
        Integers, and `macs_by_module` for the first two levels of modules.

    Raises:
        LavishError: for an operator that is neither counted nor known to be free.
    """
    counted = _count_clip(model, clip, segments)
    adapters = _count_adapters(model, clip, segments, counted)
    extra: Counter[str] = Counter()
    if audio_encoder is not None:
        encoder, example = audio_encoder
        extra = _select(_count(encoder, (example,)), "")
    total = counted[""] + extra
    return {
        "adapter_macs": sum(adapters.values()),
        "adapter_macs_without_norms": _without_norms(adapters),
        "total_macs": sum(total.values()),
        "total_macs_without_norms": _without_norms(total),
        "audio_encoder_macs": sum(extra.values()),
        "macs_by_module": {
            name: sum(operators.values())
            for name, operators in counted.items()
            if name and name.count(".") <= 2 and operators
        },
    }


def count_parameters(model: AudioVisualModel, audio_encoder: nn.Module | None = None) -> dict[str, int]:
    """Count the parameters of a model and of the separate audio encoder, if there is one."""
    unused = model.task.unused_parameters()
    parameters, extra = parameter_count(model), parameter_count(audio_encoder)[""] if audio_encoder is not None else 0
    return {
        "trainable_params": sum(p.numel() for p in model.parameters() if p.requires_grad) + unused,
        "total_params": parameters[""] + unused + extra,
        "adapter_params": sum(p.numel() for p in model.adapter_parameters()),
        "head_params": parameters["task"] + unused,
        "audio_encoder_params": extra,
    }


def count_backbone(backbone: Backbone, size: tuple[int, int]) -> int:
    """Count the multiply-adds of a backbone alone for one image of these rows and columns, as fvcore does."""
    return sum(_select(_count(backbone, (torch.zeros(1, backbone.in_channels, *size),)), "").values())


def count_encoder(encoder: TwoStreamEncoder, sizes: Mapping[Stream, tuple[int, int]], segments: int) -> dict[str, Any]:
    """Count an encoder without a head, for frames and spectrograms of these sizes, as :func:`count` does."""
    statistics = ([0.5] * 3, [0.5] * 3)
    head: Any = _NoHead()
    model = AudioVisualModel(encoder, head, frame_statistics=statistics, audio_statistics=(0.0, 1.0))
    training = encoder.training
    try:
        return count(model.to(next(encoder.parameters()).device), _clips(model, sizes), segments)
    finally:
        encoder.train(training)


def example_clips(model: AudioVisualModel, data: DataConfig, audio_feature_dim: int = 0) -> Callable[[int], Batch]:
    """Return a function that makes a batch of one clip and one unit for a number of segments, filled with zeros."""
    return _clips(model, data.image_sizes(), audio_feature_dim)


def _clips(
    model: AudioVisualModel, sizes: Mapping[Stream, tuple[int, int]], audio_feature_dim: int = 0
) -> Callable[[int], Batch]:
    streams, device = model.encoder.streams, model.frame_mean.device

    def clip(segments: int) -> Batch:
        return Batch(
            frames=torch.zeros(1, segments, *sizes["visual"], 3, dtype=torch.uint8, device=device)
            if "visual" in streams
            else None,
            log_mels=torch.zeros(1, segments, *sizes["audio"], device=device) if "audio" in streams else None,
            audio_features=torch.zeros(1, segments, audio_feature_dim) if audio_feature_dim else None,
            targets=model.task.example_inputs(),
            units=np.zeros(1, np.int64),
        )

    return clip


class _Clip(nn.Module):
    """Takes only tensors, as tracing requires, and builds the batch from them."""

    def __init__(self, model: nn.Module, clip: Batch) -> None:
        super().__init__()
        self.model = model
        self._clip = clip
        present = [name for name in ("frames", "log_mels", "audio_features") if getattr(clip, name) is not None]
        self._names = [*present, *clip.targets]
        self.inputs: tuple[Tensor, ...] = (*(getattr(clip, name) for name in present), *clip.targets.values())

    def forward(self, *inputs: Tensor) -> Any:
        given: dict[str, Any] = dict(zip(self._names, inputs, strict=True))
        targets = {name: given.pop(name) for name in self._clip.targets}
        return self.model(dataclasses.replace(self._clip, **given, targets=targets))


class _GivenFeatures(nn.Module):
    """Replaces the encoder: returns features of the right shapes at no cost."""

    def __init__(self, streams: Any, features: dict[Any, StreamFeatures]) -> None:
        super().__init__()
        self.streams = streams
        self._features = features

    def forward(self, _: dict[Any, Tensor], __: int) -> dict[Any, StreamFeatures]:
        return self._features


class _NoHead(nn.Module):
    """Replaces the task, at no cost."""

    def forward(self, encoded: EncodedBatch, _: dict[str, Tensor]) -> list[Tensor]:
        # Returns everything, because tracing drops operators that reach no output. Products, because a traced output
        # must be computed.
        streams = encoded.streams.values()
        everything = [*encoded.features, *(tensor for stream in streams for tensor in (stream.tokens, *stream.stages))]
        return [1 * tensor for tensor in everything]

    def example_inputs(self) -> dict[str, Tensor]:
        return {}

    def unused_parameters(self) -> int:
        return 0


def _count_clip(model: AudioVisualModel, clip: Callable[[int], Batch], segments: int) -> _Counts:
    """Count everything but the separate audio encoder: the encoder from a few segments, the head from all."""
    seen: list[dict[Any, StreamFeatures]] = []
    hook = model.encoder.register_forward_hook(lambda *call: seen.append(call[-1]))
    encoder = _count_encoder(model, clip, segments)
    hook.remove()
    features = {
        stream: StreamFeatures(
            _repeated(first.pooled, segments),
            _repeated(first.tokens, segments),
            tuple(_repeated(stage, segments) for stage in first.stages),
            first.grids,
        )
        for stream, first in seen[0].items()
    }
    with _replaced(model, "encoder", _GivenFeatures(model.encoder.streams, features)):
        rest = _count_inputs(model, clip(segments))
    counted = {module: operators for module, operators in rest.items() if not _is_inside(module)} | encoder
    for module in ("", "model"):
        counted[module] = rest[module] + encoder[_ENCODER]
    return counted


def _count_encoder(model: AudioVisualModel, clip: Callable[[int], Batch], segments: int) -> _Counts:
    """Count the encoder for a clip of `segments` segments, from clips of one to three."""
    method = model.encoder.adapters
    degree = 2 if method is not None and method.temporal else 1
    with _replaced(model, "task", _NoHead()):
        traced = range(1, min(degree + 1, segments) + 1)  # no more than the clip has
        few = [_inside_encoder(_count_inputs(model, clip(number))) for number in traced]
    return {
        module: Counter(
            {name: _extrapolated([counted[module][name] for counted in few], segments) for name in few[-1][module]}
        )
        for module in few[-1]
    }


def _extrapolated(first: list[int], segments: int) -> int:
    """Return the value at `segments` of the polynomial through the values at 1, 2, ... (Newton's forward formula)."""
    value, differences = 0, first
    for order in range(len(first)):
        value += math.comb(segments - 1, order) * differences[0]
        differences = [b - a for a, b in itertools.pairwise(differences)]
    return value


def _count_adapters(
    model: AudioVisualModel, clip: Callable[[int], Batch], segments: int, counted: _Counts
) -> Counter[str]:
    """Return the multiply-adds of the method, given the counts of the whole model."""
    method = model.encoder.adapters
    if method is None:
        return Counter()
    if isinstance(method, SiteAdapters):
        # Adapters leave the frozen layers as they are, so there is no need to trace the bare backbone.
        return counted[f"{_ENCODER}.adapters"]
    adapters = Counter(counted[_ENCODER])
    with _replaced(model.encoder, "adapters", None):
        adapters.subtract(_count_encoder(model, clip, segments)[_ENCODER])
    return adapters


@contextmanager
def _replaced(owner: nn.Module, name: str, other: nn.Module | None) -> Iterator[None]:
    """Replace a submodule for the duration of the block."""
    own = getattr(owner, name)
    setattr(owner, name, other)
    try:
        yield
    finally:
        setattr(owner, name, own)


def _repeated(tensor: Tensor, segments: int) -> Tensor:
    return tensor[:1].expand(segments, *tensor.shape[1:])


def _inside_encoder(counted: _Counts) -> _Counts:
    return {module: operators for module, operators in counted.items() if _is_inside(module)}


def _is_inside(module: str) -> bool:
    return module == _ENCODER or module.startswith(f"{_ENCODER}.")


def _count_inputs(model: AudioVisualModel, clip: Batch) -> _Counts:
    whole = _Clip(model, clip)
    analysis = _count(whole, whole.inputs)
    return dict(analysis.by_module_and_operator())


def _count(module: nn.Module, inputs: tuple[Tensor, ...]) -> FlopCountAnalysis:
    analysis = FlopCountAnalysis(module.eval(), inputs)
    analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_macs)
    analysis.set_op_handle("aten::baddbmm", _batched_product_macs)
    analysis.set_op_handle("aten::lstm", _recurrence_macs)
    # Of 4 x 4 neighbours, as fvcore counts 2 x 2 for the bilinear form: HTS-AT stretches its input.
    analysis.set_op_handle("aten::upsample_bicubic2d", elementwise_flop_counter(0, 16))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    with torch.no_grad():
        analysis.total()
    unknown = sorted(set(analysis.unsupported_ops()) - FREE_OPERATORS)
    if unknown:
        raise LavishError(
            f"the multiply-adds of {', '.join(unknown)} are not counted: add a handler or, if the operator costs none, "
            "its name to FREE_OPERATORS in lavish/cost/counter.py"
        )
    return analysis


def _attention_macs(inputs: list[Any], _: list[Any]) -> int:
    """Both matrix products of softmax(q k^T) v; fvcore has no handler for the fused form."""
    *batch, queries, width = get_shape(inputs[0])
    keys, value_width = get_shape(inputs[2])[-2:]
    products = queries * keys * (width + value_width)
    for size in batch:
        products *= size
    return products


def _batched_product_macs(inputs: list[Any], _: list[Any]) -> int:
    """The product in a + b @ c over a batch; fvcore has no handler for it."""
    batch, rows, inner = get_shape(inputs[1])
    return batch * rows * inner * get_shape(inputs[2])[-1]


def _recurrence_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """The products of an LSTM's four gates with input and state; fvcore has no handler for it."""
    *moments, width = get_shape(inputs[0])
    layers, both_ways = inputs[4].toIValue(), inputs[7].toIValue()
    out = get_shape(outputs[0])[-1]
    hidden = out // 2 if both_ways else out
    sizes = [width, *(layers - 1) * [out]]
    return math.prod(moments) * (out // hidden) * sum(4 * hidden * (size + hidden) for size in sizes)


def _select(counted: FlopCountAnalysis, module: str) -> Counter[str]:
    return counted.by_module_and_operator().get(module, Counter())


def _without_norms(operators: Counter[str]) -> int:
    return sum(macs for name, macs in operators.items() if name not in _NORMS)
