"""Sequential adapters: a bottleneck after each sublayer."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from lavish.methods._shared.hidden_width import hidden_width
from lavish.methods.base import Adapter, AdapterSite

_ACTIVATIONS: dict[str, type[nn.Module]] = {"silu": nn.SiLU, "relu": nn.ReLU, "gelu": nn.GELU}


class SequentialAdapter(Adapter):
    """A bottleneck on the output of attention and one on that of the feed-forward layer.

        x <- x + z + U f(D z)        z = sublayer(x), D: C -> C / r, U: C / r -> C, both with bias

    Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019 (arXiv 1902.00751). Weights are
    initialised from a normal distribution with standard deviation `init_std`, truncated at two standard deviations,
    biases with 0, so that the update is near zero, not zero. Unimodal; each stream has its own adapters.

    Pfeiffer et al. (AdapterFusion, arXiv 2005.00247) keep the one after the feed-forward layer: `fusion.position: ffn`,
    `activation: relu` and `init_std: 0.02` (which they do not truncate). Their changes of the layer norms are not
    included.

    Our choice: in the post-norm blocks of Swin V2, z is the output of the post-norm.

    Options:
        reduction: r (16; the VPT repository has 8).
        activation: f ('silu', also called swish; Pfeiffer 'relu').
        init_std: see above.
    """

    cross_modal = False
    budget_option = "reduction"
    search_space = {"lr_adapter": ("log", 0.0625, 8.0), "reduction": ("choices", 4, 8, 16)}
    arrangement = "sequential"

    def __init__(
        self,
        site: AdapterSite,
        *,
        reduction: int = 16,
        activation: Literal["silu", "relu", "gelu"] = "silu",
        init_std: float = 0.01,
    ) -> None:
        super().__init__()
        hidden = hidden_width(site.width, reduction)
        self.down = nn.Linear(site.width, hidden)
        self.activation = _ACTIVATIONS[activation]()
        self.up = nn.Linear(hidden, site.width)
        for layer in (self.down, self.up):
            nn.init.trunc_normal_(layer.weight, std=init_std, a=-2 * init_std, b=2 * init_std)
            nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor, other: Tensor) -> Tensor:
        return self.up(self.activation(self.down(tokens)))
