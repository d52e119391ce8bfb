"""Descriptions of a table's runs: their settings, and data and backbones for the caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lavish.config.options import budget_option, has_sites, is_cross_modal
from lavish.config.schema import BackboneConfig, DataConfig, HubWeights, RunConfig
from lavish.planning.identities import Run, without_places
from lavish.planning.parameter_budgets import Match
from lavish.planning.published_practice import deviations

FAR = 0.25
"""A matched row that misses its target by a larger share is named in the caption."""


def describe_run(run: Run) -> dict[str, Any]:
    """Return the description of a run for a table."""
    return {
        "folder": run.folder,
        "select_on": run.config.select_on,
        "config": without_places(run.config),
        "deviations": deviations(run.config),
        "settings": _settings(run.config),
    }


def describe_runs(configs: Sequence[RunConfig], needs_inputs: bool, missing: Sequence[str]) -> dict[str, str]:
    """Return the caption's facts about the data and backbones of its runs, the baseline's first."""
    facts: dict[str, str] = {}
    if needs_inputs:
        facts["data"] = "; ".join(dict.fromkeys(_describe_data(config.data) for config in configs))
        facts["backbone"] = "; ".join(
            dict.fromkeys(
                " for frames and ".join(_describe_weights(each.model, each) for each in config.used_backbones())
                + (" for spectrograms" if len(config.used_backbones()) > 1 else "")
                for config in configs
            )
        )
    if any(each.classifier == "counted" for config in configs for each in config.used_backbones()):
        facts["classifier"] = (
            "total parameters include the unused pretraining classifier of the backbone, as in the paper"
        )
    if missing:
        facts["missing"] = "; ".join(dict.fromkeys(missing))
    return facts


@dataclass(frozen=True)
class Matched:
    """A row on one task whose size was matched to the trainable parameters of another variant."""

    label: str
    target: str
    size: str
    match: Match


def describe_matches(rows: Sequence[Matched]) -> dict[str, str]:
    """State how close the rows are to their targets; rows far from it are named individually."""
    texts = []
    for target in dict.fromkeys(row.target for row in rows):
        mine = [row for row in rows if row.target == target]
        far = [row for row in mine if abs(row.match.off) > FAR]
        near = [abs(row.match.off) for row in mine if row not in far]
        text = (
            f"the sizes of rows at the budget of '{target}' are those whose trainable parameters are closest to its "
            f"{' or '.join(dict.fromkeys(f'{row.match.target:,}' for row in mine))}"
        )
        if near:
            text += f"; they differ by at most {100 * max(near):.1f} % of its parameters below the head"
        for row in far:
            text += (
                f"; '{row.label}' has no closer size than {row.size} with {row.match.trainable:,} "
                f"({100 * row.match.off:+.0f} %)".replace("-", "−")
            )
        texts.append(text)
    return {"matched_sizes": "; ".join(texts)} if texts else {}


def _settings(config: RunConfig) -> dict[str, str | int | float | None]:
    """Return the values of a run's configuration that tables print; None if one does not apply."""
    method = config.adapter.method
    adapted = method != "none"
    placed = adapted and has_sites(method)
    crosses = adapted and config.modalities == "audio_visual" and is_cross_modal(method)
    crosses = crosses and config.fusion.direction != "none"
    size = budget_option(method)
    trained = adapted or any(each.tune_norms for each in config.used_backbones())
    return {
        "kind": _kind(config, crosses),
        "backbone": " + ".join(each.model for each in config.used_backbones()),
        "latents": config.adapter.options.get("latents") if crosses else None,
        "direction": config.fusion.direction if crosses else "none",
        "position": config.fusion.position if placed else None if adapted else "none",
        "size": f"{size} {config.adapter.options[size]}" if size else None,
        "learning_rate": config.training.lr_adapter if trained else None,
        "learning_rate_head": config.training.lr_head,
        "fraction": config.data.fraction,
    }


def _kind(config: RunConfig, crosses: bool) -> str:
    """Return what kind of method a run has, for filters."""
    if config.modalities != "audio_visual":
        return "single modality"
    if config.adapter.method == "none":
        return "frozen backbone"
    return "reads the other stream" if crosses else "each stream alone"


def _describe_data(data: DataConfig) -> str:
    layout = data.format.upper().replace("_", "-")
    kept = data.store
    form = "" if kept.frames == "raw" else f", frames stored as {kept.frames.upper()} of quality {kept.quality}"
    if data.compose is None:
        return f"{data.name} (official {layout} layout, {data.segments} segments per clip{form})"
    clips = data.compose.clips
    assets = "procedural assets" if data.compose.assets.kind == "procedural" else "a folder of images and recordings"
    return (
        f"{data.name} ({layout} layout): {clips.train}/{clips.val}/{clips.test} clips (train/val/test) of "
        f"{data.segments} {'segment' if data.segments == 1 else 'segments'}, composed from {assets}{form}"
    )


def _describe_weights(model: str, config: BackboneConfig) -> str:
    sizes = ", ".join(f"{key} {value}" for key, value in config.spec.items())
    weights = config.weights
    source = {
        "hub": f"weights from the model hub{_short(weights.sha256) if isinstance(weights, HubWeights) else ''}",
        "file": "weights from a file",
        "pretrain": "pretrained in the workflow",
        "random": "untrained",
    }[weights.source]
    return f"{model} ({sizes}; {source})" if sizes else f"{model} ({source})"


def _short(sha256: str | None) -> str:
    return "" if sha256 is None else f", sha256 {sha256[:8]}"
