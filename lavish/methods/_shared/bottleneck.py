"""The grouped, gated bottleneck that LAVISH introduced and later methods use."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavish.errors import LavishError
from lavish.methods._shared.hidden_width import hidden_width


class GroupedLinear(nn.Module):
    """A linear map of `groups` independent blocks without bias, equal to a grouped 1x1 convolution over tokens.

    The weight is (groups, narrow / groups, wide / groups), whether the input or the output is wide: with long rows
    contiguous, small maps take half the time on a CPU. Initialised as torch's convolution, uniform within
    1 / sqrt(in / groups).
    """

    def __init__(self, in_features: int, out_features: int, groups: int) -> None:
        super().__init__()
        if in_features % groups or out_features % groups:
            raise LavishError(
                f"adapter.options.groups: {groups} does not divide the widths {in_features} and {out_features} of the "
                "bottleneck; choose groups and reduction so that both are multiples of groups"
            )
        self.widens = out_features > in_features
        narrow, wide = sorted((in_features // groups, out_features // groups))
        bound = (in_features // groups) ** -0.5
        self.weight = nn.Parameter(torch.empty(groups, narrow, wide).uniform_(-bound, bound))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (T, in) to (T, out)."""
        parts = zip(tokens.chunk(len(self.weight), dim=1), self.weight, strict=True)
        return torch.cat([x @ weight if self.widens else functional.linear(x, weight) for x, weight in parts], dim=1)


class BottleneckLayers(nn.Module):
    """The layers of a gated bottleneck, applied by :meth:`bottleneck`.

        z = [LN] x -> C/r -> [BN] -> [ReLU] -> C -> [BN]
        out = g [LN] z, or [LN] (g z) with `gate_first`

    Both linear maps are grouped. Batch norms are over rows and tokens. The scalar gate g starts at 0; without a gate
    g = 1.
    """

    def __init__(
        self,
        width: int,
        *,
        reduction: int,
        groups: int,
        batch_norm: bool,
        norm_before: bool,
        norm_after: bool,
        activation: bool,
        gated: bool,
        gate_first: bool = False,
    ) -> None:
        super().__init__()
        hidden = hidden_width(width, reduction)
        self.gate_first = gate_first
        self.gate = nn.Parameter(torch.zeros(())) if gated else None
        self.norm_before = nn.LayerNorm(width) if norm_before else nn.Identity()
        self.down = GroupedLinear(width, hidden, groups)
        self.down_norm = nn.BatchNorm1d(hidden) if batch_norm else nn.Identity()
        self.activation = nn.ReLU() if activation else nn.Identity()
        self.up = GroupedLinear(hidden, width, groups)
        self.up_norm = nn.BatchNorm1d(width) if batch_norm else nn.Identity()
        self.norm_after = nn.LayerNorm(width) if norm_after else nn.Identity()

    def bottleneck(self, tokens: Tensor) -> Tensor:
        """Return the update (B, N, C) of tokens (B, N, C)."""
        flat = self.norm_before(tokens).flatten(0, 1)
        out = self.up_norm(self.up(self.activation(self.down_norm(self.down(flat)))))
        if self.gate is not None and self.gate_first:
            return self.norm_after(self.gate * out).view_as(tokens)
        return gated_norm(self.gate, self.norm_after, out).view_as(tokens)


class GatedBottleneck(BottleneckLayers):
    """:class:`BottleneckLayers` as a module of its own."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the update (B, N, C) of tokens (B, N, C)."""
        return self.bottleneck(tokens)


def gated_norm(gate: Tensor | None, norm: nn.Module, tokens: Tensor) -> Tensor:
    """Return g LN(z) for the scalar `gate` g, or LN(z) without one; LN may be the identity."""
    if gate is None:
        return norm(tokens)
    if not isinstance(norm, nn.LayerNorm):
        return gate * norm(tokens)
    # g LN(z) is LN(z) with scale and shift multiplied by g, which saves two passes over all tokens.
    return functional.layer_norm(tokens, norm.normalized_shape, gate * norm.weight, gate * norm.bias, norm.eps)
