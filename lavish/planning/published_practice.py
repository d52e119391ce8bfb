"""Deviations of the published code of LAVISH that options reproduce.

A row of a table with one of them is marked, because its number is not comparable with other rows. Selection on the test
split has its own mark. See docs/reproduction_notes.md. Does not import torch.
"""

from __future__ import annotations

from lavish.config.schema import RunConfig


def deviations(config: RunConfig) -> list[str]:
    """Return one phrase for each published practice that a run replicates and that changes numbers."""
    options = config.adapter.options if config.adapter.method == "lavish" else {}
    backbones = config.used_backbones()
    one_way = config.modalities != "audio_visual" or config.fusion.direction != "both"
    gated_before_norm = options.get("gate_order") == "gate_first" and options.get("norm_after")
    practice = {
        "the frozen backbone's stochastic depth is on while training": any(each.stochastic_depth for each in backbones),
        "the position embedding is stretched as a sequence, class token included": (
            any(each.positions == "linear" for each in backbones)
        ),
        "latent tokens start at zero and stay identical, so that more than one adds nothing": (
            options.get("latent_init") == "zeros" and options.get("latents", 0) > 1
        ),
        "the output gate comes before the last norm, which normalises its size away": (
            gated_before_norm and options.get("gate") != "none"
        ),
        "only the visual adapters have an output gate": options.get("gate") == "visual",
        "adapters without cross-modal attention have no activation and are linear": (
            one_way and options.get("unimodal_activation") is False
        ),
    }
    return [text for text, holds in practice.items() if holds]
