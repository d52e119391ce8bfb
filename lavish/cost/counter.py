"""What a configuration costs: parameters and multiply-adds of one clip, counted by fvcore.

Convention: a multiply-add is counted once (as the paper and fvcore do), for one clip, batch 1, in evaluation mode. The
frozen backbone runs once per stream, so it counts twice in operations and once in parameters. fvcore includes layer
and batch norms in its counts (5 an element for a layer norm, 2 for a batch norm) and leaves out softmax, activations
and additions; `*_without_norms` leaves the norms out as well, which is how the paper's 11 and 217 GFLOPs are made.

What a method adds is the difference to the bare backbone on both streams, wherever it arises: in modules of its own, or
in frozen layers that get further tokens to process, whichever of the features the task reads.

fvcore traces a real forward pass. The encoder treats every picture alike, so its count is a constant (what runs once a
batch) plus a multiple of the number of pictures: it is traced with one and with two segments, and the line through both is
exact. Where a method attends over the segments of a clip, it is the parabola through one, two and three. Everything else
(the head) is traced with all segments. Weights are left as they come from the allocator: only
shapes matter, and memory that is never written takes no room.
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
from fvcore.nn.jit_handles import get_shape
from torch import Tensor, nn

from lavish.data.store.batches import Batch
from lavish.errors import LavishError
from lavish.learner.model import AudioVisualModel
from lavish.models.interfaces import Stream, StreamFeatures
from lavish.tasks.base import Encoded

if TYPE_CHECKING:
    from lavish.config.schema import DataConfig
    from lavish.learner.encoder import TwoStreamEncoder
    from lavish.models.backbones.base import Backbone

_Counts = dict[str, Counter[str]]
"""Multiply-adds by module, then by operator."""

_NORMS = {"layer_norm", "batch_norm"}
_ENCODER = "model.encoder"

# Elementwise operations, reductions and data movement: no multiply-adds of a matrix product. Whatever an adapter uses
# beyond these and what fvcore counts has to be given a handler or be added here on purpose. Bicubic resampling is
# that of a ViT's position embedding, which depends on no input and could be stored.
FREE_OPERATORS = {
    f"aten::{name}"
    for name in [
        "add", "add_", "addcmul", "sub", "rsub", "mul", "mul_", "div", "div_", "neg", "pow", "sqrt", "rsqrt", "exp",
        "log", "sigmoid", "tanh", "relu", "relu_", "gelu", "silu", "softmax", "mean", "sum", "amax", "max", "clamp",
        "clamp_min", "clamp_max", "linalg_vector_norm", "norm", "expand_as", "view_as", "copy_", "index", "pad",
        "roll", "repeat", "repeat_interleave", "where", "masked_fill", "fill_", "zeros", "zeros_like", "ones",
        "ones_like", "empty", "arange", "eq", "ne", "lt", "gt", "unflatten", "embedding",
        "_upsample_bicubic2d_aa",
    ]
}  # fmt: skip


def count(
    model: AudioVisualModel,
    clip: Callable[[int], Batch],
    segments: int,
    audio_encoder: tuple[nn.Module, Tensor] | None = None,
) -> dict[str, Any]:
    """Count parameters and multiply-adds.

    Args:
        model: the learner.
        clip: returns a batch of one clip of a number of segments.
        segments: of a clip.
        audio_encoder: a separate audio encoder and its input for one clip, where there is one.

    Returns:
        Plain integers, and `macs_by_module` of the first two levels.

    Raises:
        LavishError: for an operator that is neither counted nor known to be free.
    """
    counted = _count_clip(model, clip, segments)
    parameters = parameter_count(model)
    unused = model.task.unused_parameters()
    adapters: Counter[str] = Counter()
    if model.encoder.adapters is not None:
        adapters.update(counted[_ENCODER])
        adapters.subtract(_count_bare_encoder(model, clip, segments))
    total = counted[""]
    result: dict[str, Any] = {
        "trainable_params": sum(p.numel() for p in model.parameters() if p.requires_grad) + unused,
        "total_params": parameters[""] + unused,
        "adapter_params": sum(p.numel() for p in model.adapter_parameters()),
        "head_params": parameters["task"] + unused,
        "adapter_macs": sum(adapters.values()),
        "adapter_macs_without_norms": _without_norms(adapters),
        "total_macs": sum(total.values()),
        "total_macs_without_norms": _without_norms(total),
        "audio_encoder_params": 0,
        "audio_encoder_macs": 0,
    }
    if audio_encoder is not None:
        encoder, example = audio_encoder
        extra = _select(_count(encoder, (example,)), "")
        result["audio_encoder_params"] = parameter_count(encoder)[""]
        result["audio_encoder_macs"] = sum(extra.values())
        result["total_params"] += result["audio_encoder_params"]
        result["total_macs"] += result["audio_encoder_macs"]
        result["total_macs_without_norms"] += _without_norms(extra)
    result["macs_by_module"] = {
        name: sum(operators.values())
        for name, operators in counted.items()
        if name and name.count(".") <= 2 and operators
    }
    return result


def count_backbone(backbone: Backbone, size: int, classifiers: int, classes: int) -> dict[str, int]:
    """Count a backbone alone on one square picture of `size` pixels, with the linear classifiers of its pretraining.

    Returns:
        `classifier_params`, and `backbone_macs` as fvcore counts them, classifiers included.
    """
    total = _select(_count(backbone, (torch.zeros(1, 3, size, size),)), "")
    return {
        "classifier_params": classifiers * (backbone.feature_dim + 1) * classes,
        "backbone_macs": sum(total.values()) + classifiers * backbone.feature_dim * classes,
    }


def count_encoder(encoder: TwoStreamEncoder, sizes: Mapping[Stream, tuple[int, int]], segments: int) -> dict[str, Any]:
    """Count an encoder without a head, for frames and spectrograms of these sizes; the result is that of :func:`count`."""
    statistics = ([0.5] * 3, [0.5] * 3)
    head: Any = _NoHead()
    model = AudioVisualModel(encoder, head, frame_statistics=statistics, audio_statistics=(0.0, 1.0))
    training = encoder.training
    try:
        return count(model.to(next(encoder.parameters()).device), _clips(model, sizes), segments)
    finally:
        encoder.train(training)


def example_clips(model: AudioVisualModel, data: DataConfig, audio_feature_dim: int = 0) -> Callable[[int], Batch]:
    """Return what makes a batch of one clip and one unit of a number of segments: sizes count, values do not."""
    sound = data.spectrogram
    sizes: dict[Stream, tuple[int, int]] = {
        "visual": (data.frame_size, data.frame_size),
        "audio": (sound.mel_bins, sound.frames),
    }
    return _clips(model, sizes, audio_feature_dim)


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
    """Takes only tensors, as tracing demands, and makes the batch of them again."""

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
    """Stands in for the encoder and returns features of the right shapes, at no cost."""

    def __init__(self, streams: Any, features: dict[Any, StreamFeatures]) -> None:
        super().__init__()
        self.streams = streams
        self._features = features

    def forward(self, _: dict[Any, Tensor], __: int) -> dict[Any, StreamFeatures]:
        return self._features


class _NoHead(nn.Module):
    """Stands in for the task, at no cost."""

    def forward(self, encoded: Encoded, _: dict[str, Tensor]) -> list[Tensor]:
        # All of it, because what reaches no output is not traced. Products, because a traced output must be computed.
        streams = encoded.streams.values()
        everything = [*encoded.features, *(tensor for stream in streams for tensor in (stream.tokens, *stream.stages))]
        return [1 * tensor for tensor in everything]

    def example_inputs(self) -> dict[str, Tensor]:
        return {}

    def unused_parameters(self) -> int:
        return 0


def _count_clip(model: AudioVisualModel, clip: Callable[[int], Batch], segments: int) -> _Counts:
    """Count everything but a separate audio encoder: the encoder from a few segments, the head from all."""
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
    """Count the encoder on a clip of `segments`, from clips of one to three."""
    method = model.encoder.adapters
    degree = 2 if method is not None and method.temporal else 1
    with _replaced(model, "task", _NoHead()):
        traced = range(1, min(degree + 1, segments) + 1)  # a clip that is shorter needs no more
        few = [_inside_encoder(_count_inputs(model, clip(number))) for number in traced]
    return {
        module: Counter(
            {name: _extrapolated([counted[module][name] for counted in few], segments) for name in few[-1][module]}
        )
        for module in few[-1]
    }


def _extrapolated(first: list[int], segments: int) -> int:
    """Return the value at `segments` of the polynomial through the values at 1, 2, ... (Newton's forward differences)."""
    value, differences = 0, first
    for order in range(len(first)):
        value += math.comb(segments - 1, order) * differences[0]
        differences = [b - a for a, b in itertools.pairwise(differences)]
    return value


def _count_bare_encoder(model: AudioVisualModel, clip: Callable[[int], Batch], segments: int) -> Counter[str]:
    """Count what the backbone alone does with both streams of a clip."""
    with _replaced(model.encoder, "adapters", None):
        return _count_encoder(model, clip, segments)[_ENCODER]


@contextmanager
def _replaced(owner: nn.Module, name: str, other: nn.Module | None) -> Iterator[None]:
    """Put another module in a module's place for a while."""
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
