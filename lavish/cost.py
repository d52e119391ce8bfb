"""What a configuration costs: parameters and multiply-adds of one clip, counted by fvcore.

Convention: a multiply-add is counted once (as the paper and fvcore do), for one clip, batch 1, in evaluation mode. The
frozen backbone runs once per stream, so it counts twice in operations and once in parameters. fvcore includes layer
and batch norms in its counts and leaves out softmax, activations and additions; `*_without_norms` leaves the norms
out as well, which is how the paper's 11 and 217 GFLOPs are made.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from fvcore.nn import FlopCountAnalysis, parameter_count
from fvcore.nn.jit_handles import get_shape
from torch import Tensor, nn

from lavish.errors import LavishError

if TYPE_CHECKING:
    from lavish.model import AudioVisualModel

_NORMS = {"layer_norm", "batch_norm"}

# Elementwise operations, reductions and data movement: no multiply-adds of a matrix product. Whatever an adapter uses
# beyond these and what fvcore counts has to be given a handler or be added here on purpose.
FREE_OPERATORS = {
    f"aten::{name}"
    for name in [
        "add", "add_", "sub", "rsub", "mul", "mul_", "div", "div_", "neg", "pow", "sqrt", "rsqrt", "exp", "log",
        "sigmoid", "tanh", "relu", "relu_", "gelu", "silu", "softmax", "mean", "sum", "amax", "max", "clamp",
        "clamp_min", "clamp_max", "linalg_vector_norm", "norm", "expand_as", "view_as", "copy_", "index", "pad",
        "roll", "repeat", "repeat_interleave", "where", "masked_fill", "fill_", "zeros", "zeros_like", "ones",
        "ones_like", "empty", "arange", "eq", "ne", "lt", "gt",
        "unflatten",
    ]
}  # fmt: skip


def count(
    model: AudioVisualModel, clip: tuple[Tensor | None, ...], audio_encoder: tuple[nn.Module, Tensor] | None
) -> dict[str, Any]:
    """Count parameters and multiply-adds.

    Args:
        model: the learner.
        clip: frames, log-mels and audio features of one clip, None for what is absent.
        audio_encoder: a separate audio encoder and its input for one clip, where there is one.

    Returns:
        Plain integers, and `macs_by_module` of the first two levels.

    Raises:
        LavishError: for an operator that is neither counted nor known to be free.
    """
    counted = _count(_Clip(model, clip), tuple(part for part in clip if part is not None))
    parameters = parameter_count(model)
    adapters = _select(counted, "model.encoder.adapters")
    total = _select(counted, "")
    result: dict[str, Any] = {
        "trainable_params": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "total_params": parameters[""],
        "adapter_params": parameters["encoder.adapters"],
        "head_params": parameters["task"],
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
        for name, operators in counted.by_module_and_operator().items()
        if name and name.count(".") <= 2 and operators
    }
    return result


class _Clip(nn.Module):
    """Takes only tensors, as tracing demands, and puts the absent inputs back."""

    def __init__(self, model: nn.Module, clip: tuple[Tensor | None, ...]) -> None:
        super().__init__()
        self.model = model
        self._present = [part is not None for part in clip]

    def forward(self, *inputs: Tensor) -> Tensor:
        given = iter(inputs)
        return self.model(*(next(given) if present else None for present in self._present))


def _count(module: nn.Module, inputs: tuple[Tensor, ...]) -> FlopCountAnalysis:
    analysis = FlopCountAnalysis(module.eval(), inputs)
    analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_macs)
    analysis.set_op_handle("aten::baddbmm", _batched_product_macs)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    with torch.no_grad():
        analysis.total()
    unknown = sorted(set(analysis.unsupported_ops()) - FREE_OPERATORS)
    if unknown:
        raise LavishError(
            f"the multiply-adds of {', '.join(unknown)} are not counted: add a handler or, if the operator costs none, "
            "its name to FREE_OPERATORS in lavish/cost.py"
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


def _select(counted: FlopCountAnalysis, module: str) -> Counter[str]:
    return counted.by_module_and_operator().get(module, Counter())


def _without_norms(operators: Counter[str]) -> int:
    return sum(macs for name, macs in operators.items() if name not in _NORMS)
