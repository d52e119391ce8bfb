"""Parallel adapters: a scaled bottleneck beside the feed-forward layer."""

from __future__ import annotations

from torch import Tensor, nn

from lavish.errors import LavishError
from lavish.methods._shared.hidden_width import hidden_width
from lavish.methods.base import Adapter, AdapterSite


class ParallelAdapter(Adapter):
    """A bottleneck that reads what the feed-forward layer reads.

        x <- x + ffn(x) + s U dropout(relu(D x))        D: C -> C / r, U: C / r -> C, both with bias

    He et al., "Towards a Unified View of Parameter-Efficient Transfer Learning", ICLR 2022 (arXiv 2110.04366), whose
    settings are the defaults. D starts as torch's linear maps do (Kaiming-uniform, a = sqrt 5), U and both biases at
    0, so nothing changes at the start. Nothing crosses between the streams; each has adapters of its own.

    Chen et al. (AdaptFormer, NeurIPS 2022, arXiv 2205.13535) bring it to vision transformers: `scale: 0.1`,
    `dropout: 0.1` and a hidden width of 64, which is `reduction: 12` at a width of 768. Their paper normalises what
    the adapter reads (`norm_before: true`); their code for images does not.

    Our choice: x is the residual stream, before the norm of a pre-norm block, as in AdaptFormer's code. He et al.
    adapt post-norm transformers, where both are the same.

    Options:
        reduction: r (2; the library's default as well).
        scale: s (4).
        dropout: see above (0).
        norm_before: a layer norm, with scale and shift of its own, on what the adapter reads (no).
    """

    cross_modal = False
    budget_option = "reduction"
    position = "ffn"

    def __init__(
        self,
        site: AdapterSite,
        *,
        reduction: int = 2,
        scale: float = 4.0,
        dropout: float = 0.0,
        norm_before: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise LavishError(f"adapter.options.dropout: {dropout} is no chance; choose 0 or more, and less than 1")
        hidden = hidden_width(site.width, reduction)
        self.norm_before = nn.LayerNorm(site.width) if norm_before else nn.Identity()
        self.down = nn.Linear(site.width, hidden)
        self.activation = nn.ReLU()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.up = nn.Linear(hidden, site.width)
        self.scale = scale
        for start in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(start)

    def forward(self, tokens: Tensor, other: Tensor) -> Tensor:
        hidden = self.dropout(self.activation(self.down(self.norm_before(tokens))))
        # The scale is put on the few hidden channels and on the bias instead of on all tokens.
        return nn.functional.linear(self.scale * hidden, self.up.weight, self.scale * self.up.bias)
