"""Builds separate audio encoders: pretrained and frozen, with pooled features for a task's head.

Each kind is one file with one subclass of :class:`lavish.models.audio_encoders.base.AudioEncoder`, whose keyword-only
constructor arguments are the keys of `audio_encoder.spec`. Features are computed once per split
(:mod:`lavish.training.features`) and read by training.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavish.config.options import check_options
from lavish.errors import LavishError, did_you_mean

if TYPE_CHECKING:
    from lavish.models.audio_encoders.base import AudioEncoder

KINDS = ("transformer", "whisper")


def build(kind: str, spec: dict[str, Any], weights_path: Path | None = None, *, seed: int = 0) -> AudioEncoder:
    """Build a frozen audio encoder in evaluation mode.

    Args:
        kind: One of :data:`KINDS`.
        spec: Keyword arguments of the encoder's class; the class documents them.
        weights_path: A safetensors file; without one the weights are random, seeded with `seed`.

    Raises:
        LavishError: an unknown kind, an unknown key of `spec` or a value of the wrong type, incompatible sizes, or
            weights that are missing, are not a safetensors file, or do not fit.
    """
    check_spec(kind, spec)
    encoder = _new(kind, spec, seed)
    if weights_path is not None:
        encoder.load_weights(weights_path)
    return encoder.requires_grad_(False).eval()


def check_spec(kind: str, spec: dict[str, Any]) -> None:
    """Raise LavishError with the closest valid key if `spec` does not fit the kind; does not import torch."""
    if kind not in KINDS:
        raise LavishError(f"audio_encoder.kind: unknown audio encoder '{kind}'{did_you_mean(kind, KINDS)}")
    try:
        check_options("audio_encoders", kind, spec)
    except ValueError as error:
        raise LavishError(f"audio_encoder.spec: {error}") from None


def _new(kind: str, spec: dict[str, Any], seed: int) -> AudioEncoder:
    import torch

    # Encoders are imported on demand, and initialising their weights leaves the caller's random state alone.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "whisper":
            from lavish.models.audio_encoders.whisper import WhisperEncoder

            return WhisperEncoder(**spec)
        from lavish.models.audio_encoders.transformer import AudioTransformer

        return AudioTransformer(**spec)
