"""Sequential adapters: a bottleneck behind each sublayer."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from lavish.methods._shared.hidden_width import hidden_width
from lavish.methods.base import Adapter, AdapterSite

_ACTIVATIONS: dict[str, type[nn.Module]] = {"silu": nn.SiLU, "relu": nn.ReLU, "gelu": nn.GELU}


class SequentialAdapter(Adapter):
    """A bottleneck on what attention returns, and one on what the feed-forward layer returns, before it is added.

        x <- x + z + U f(D z)        z = sublayer(x), D: C -> C / r, U: C / r -> C, both with bias

    Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019 (arXiv 1902.00751). Weights start at a
    normal distribution of deviation `init_std`, cut at two deviations, and biases at 0, so that the update is near
    zero, not zero. Nothing crosses between the streams; each has adapters of its own.

    Pfeiffer et al. (AdapterFusion, arXiv 2005.00247) keep the one after the feed-forward layer: this with
    `fusion.position: ffn`, `activation: relu` and `init_std: 0.02` (which they do not cut). Their layer norms are
    left as they are here.

    Our choice: in the post-norm blocks of Swin V2, z is what leaves the post-norm.

    Options:
        reduction: r (16 in both libraries' defaults; the VPT repository has 8).
        activation: f ('silu', also called swish; Pfeiffer 'relu').
        init_std: see above.
    """

    cross_modal = False
    budget_option = "reduction"
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
