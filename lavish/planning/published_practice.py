"""What the published code of LAVISH does otherwise than one would expect, as far as options reproduce it.

A row of a table whose run has one of these is marked, because its number is not comparable with a row that has not.
Selection on the test split is marked on its own; docs/reproduction_notes.md tells the whole story. No torch here.
"""

from __future__ import annotations

from lavish.config.schema import RunConfig


def deviations(config: RunConfig) -> list[str]:
    """Say, one phrase each, what of a resolved run replicates published practice that changes numbers."""
    options = config.adapter.options if config.adapter.method == "lavish" else {}
    one_way = config.modalities != "audio_visual" or config.fusion.direction != "both"
    gated_before_norm = options.get("gate_order") == "gate_first" and options.get("norm_after")
    practice = {
        "the frozen backbone's stochastic depth is on while training": config.backbone.stochastic_depth,
        "the position embedding is stretched as a sequence, class token included": (
            config.backbone.positions == "linear"
        ),
        "latent tokens start at zero and stay identical, so that more than one adds nothing": (
            options.get("latent_init") == "zeros" and options.get("latents", 0) > 1
        ),
        "the output gate comes before the last norm, which normalises its size away": (
            gated_before_norm and options.get("gate") != "none"
        ),
        "only the visual adapters have an output gate": options.get("gate") == "visual",
        "adapters that nothing crosses into have no activation and are linear": (
            one_way and options.get("unimodal_activation") is False
        ),
    }
    return [text for text, holds in practice.items() if holds]
