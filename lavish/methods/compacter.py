"""Compacter: sequential adapters whose weights are sums of Kronecker products with shared matrices."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavish.errors import LavishError
from lavish.methods._shared.hidden_width import hidden_width
from lavish.methods.base import Method, adapter_sites, site_name
from lavish.models.interfaces import POSITIONS, Blocks, ForwardContext, MethodContext, Position, Streams


class Compacter(Method):
    """A bottleneck after each sublayer, made of parametrised hypercomplex multiplications (PHM).

        x <- x + z + gelu(z H_D + b_D) H_U + b_U       z = sublayer(x)
        H = sum_i A_i kron (s_i t_i)                   A_i (n, n), s_i (in / n, k), t_i (k, out / n), i = 1..n

    Karimi Mahabadi et al., "Compacter: Efficient Low-Rank Hypercomplex Adapter Layers", NeurIPS 2021 (arXiv
    2106.04647). All sites share the matrices A; each layer has its own s, t and b. A is initialised from a normal
    distribution with standard deviation 0.0001 (as in the code where A is shared), s and t Glorot-uniform with gain
    sqrt 2 as in the code (gain 1 in another library), biases with 0: the initial update is below the resolution of
    float32. Unimodal.

    Our choices: each stream has its own A. In the post-norm blocks of Swin V2, z is the output of the post-norm. The
    original trains the backbone's layer norms as well: set `backbone.tune_norms: true`.

    Options:
        division: n (4); it must divide each block's width C and its hidden width C / reduction.
        rank: k (1).
        reduction: the hidden width is C / reduction (32; the widths of Swin-V2-L allow 16 with n = 4).
        position: 'both', or 'ffn' for Compacter++, which keeps only the bottleneck after the feed-forward layer.
    """

    budget_option = "reduction"
    search_space = {"lr_adapter": ("log", 0.0625, 8.0), "reduction": ("choices", 4, 8, 16)}

    def __init__(
        self,
        context: MethodContext,
        *,
        division: int = 4,
        rank: int = 1,
        reduction: int = 32,
        position: Literal["both", "ffn"] = "both",
    ) -> None:
        super().__init__()
        self.rules = nn.ParameterDict(
            {stream: torch.empty(division, division, division).normal_(0, 1e-4) for stream in context.streams}
        )
        positions = POSITIONS if position == "both" else (position,)
        for site in adapter_sites(context, positions):
            self.add_module(site.name, _Bottleneck(site.width, reduction, division, rank))

    def residual_update(
        self, blocks: Blocks, position: Position, tokens: Streams, branches: Streams, context: ForwardContext
    ) -> Streams:
        updates: Streams = {}
        for stream, branch in branches.items():
            bottleneck = self._modules.get(site_name(blocks[stream], position, stream))
            if bottleneck is not None:
                updates[stream] = bottleneck(branch, self.rules[stream])
        return updates


class _Bottleneck(nn.Module):
    def __init__(self, width: int, reduction: int, division: int, rank: int) -> None:
        super().__init__()
        hidden = hidden_width(width, reduction)
        if division < 1 or rank < 1 or width % division or hidden % division:
            raise LavishError(
                f"adapter.options: division={division} must divide the width {width} and the hidden width {hidden} "
                f"(reduction={reduction}), and rank={rank} must be 1 or more; choose a smaller reduction or division"
            )
        self.down = _HypercomplexLinear(width, hidden, division, rank)
        self.up = _HypercomplexLinear(hidden, width, division, rank)

    def forward(self, tokens: Tensor, rule: Tensor) -> Tensor:
        return self.up(functional.gelu(self.down(tokens, rule)), rule)


class _HypercomplexLinear(nn.Module):
    def __init__(self, inputs: int, outputs: int, division: int, rank: int) -> None:
        super().__init__()
        self.left = nn.Parameter(_glorot(division, inputs // division, rank))
        self.right = nn.Parameter(_glorot(division, rank, outputs // division))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, tokens: Tensor, rule: Tensor) -> Tensor:
        # The matrix from small products; axes: i of the sum, then rows and columns of A (p, q) and of s t (r, o).
        products = torch.bmm(self.left, self.right)
        n, r, o = products.shape
        blocks = (rule.flatten(1).t() @ products.flatten(1)).view(n, n, r, o)
        return functional.linear(tokens, blocks.permute(1, 3, 0, 2).reshape(n * o, n * r), self.bias)


def _glorot(count: int, rows: int, columns: int) -> Tensor:
    """Return `count` matrices, Glorot-uniform with gain sqrt 2."""
    bound = math.sqrt(2) * math.sqrt(6 / (rows + columns))
    return torch.empty(count, rows, columns).uniform_(-bound, bound)
