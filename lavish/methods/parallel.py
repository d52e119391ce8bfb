"""Parallel adapters: a scaled bottleneck in parallel to the feed-forward layer."""

from __future__ import annotations

from torch import Tensor, nn

from lavish.errors import LavishError
from lavish.methods._shared.hidden_width import hidden_width
from lavish.methods.base import Adapter, AdapterSite


class ParallelAdapter(Adapter):
    """A bottleneck in parallel to the feed-forward layer.

        x <- x + ffn(x) + s U dropout(relu(D x))        D: C -> C / r, U: C / r -> C, both with bias

    He et al., "Towards a Unified View of Parameter-Efficient Transfer Learning", ICLR 2022 (arXiv 2110.04366), whose
    settings are the defaults. D is initialised as torch's linear layers (Kaiming-uniform, a = sqrt 5), U and both
    biases with 0, so the output is unchanged at first. Unimodal; each stream has its own adapters.

    Chen et al. (AdaptFormer, NeurIPS 2022, arXiv 2205.13535) apply it to vision transformers: `scale: 0.1`,
    `dropout: 0.1` and a hidden width of 64, which is `reduction: 12` at a width of 768. Their paper normalises the
    adapter's input (`norm_before: true`); their code for images does not.

    Our choice: x is the residual stream before the norm of a pre-norm block, as in AdaptFormer's code. He et al.
    adapt post-norm transformers, where both are the same.

    Options:
        reduction: r (2).
        scale: s (4).
        dropout: probability (0).
        norm_before: a trained layer norm on the adapter's input (no).
    """

    cross_modal = False
    budget_option = "reduction"
    search_space = {
        "lr_adapter": ("log", 0.0625, 8.0),
        "reduction": ("choices", 2, 4, 8),
        "scale": ("choices", 1.0, 2.0, 4.0, 8.0),
    }
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
            raise LavishError(
                f"adapter.options.dropout: {dropout} is not a probability; choose 0 or more, and less than 1"
            )
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
        # Scaling the few hidden channels and the bias is cheaper than scaling all tokens.
        return nn.functional.linear(self.scale * hidden, self.up.weight, self.scale * self.up.bias)
