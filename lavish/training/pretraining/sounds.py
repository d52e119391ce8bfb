"""Pretraining of small models of sounds: classify the sounds in short procedural mixtures.

A separate audio encoder, or a backbone of spectrograms. The sounds belong to other families than the task's
(:mod:`lavish.data.synthetic.procedural_sounds`): a model trained on the task's own classes would leave nothing to
learn.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from lavish.config.schema import PretrainConfig, ProceduralAssetsConfig, SpectrogramConfig, SplitCounts
from lavish.data.decoding.spectrogram import log_mels
from lavish.data.decoding.windows import count_valid_frames
from lavish.data.synthetic.assets import open_library
from lavish.models.audio_encoders.build import build
from lavish.models.audio_encoders.transformer import AudioTransformer
from lavish.models.backbones.base import Backbone
from lavish.models.backbones.build import build_backbone
from lavish.models.weights import write_weights
from lavish.training.pretraining.token_norm import MEASURED, set_token_norm

# Probabilities of no, one and two sounds in a mixture: the encoder must also be trained on silence and noise.
_SOURCES = (0.1, 0.45, 0.45)
_LEVELS_DB = (-14.0, 0.0)
_NOISE_DB = (-70.0, -40.0)
_WEIGHT_DECAY = 0.05
_TIMING = ("sample_rate", "shift_ms", "length_ms", "frames", "window_seconds")


class SoundLibrary(Protocol):
    """A source of sounds."""

    classes: list[str]

    def sound(self, class_index: int, split: str, instance: int, sample_rate: int, seconds: float) -> np.ndarray:
        """Return one sound, float32 (samples,) within [-1, 1]."""


class Mixtures(NamedTuple):
    """Log-mels (N, mel_bins, frames) of mixtures, and which classes sound in each (N, classes), 0 or 1."""

    log_mels: Tensor
    labels: Tensor


def pretrain(spec: dict[str, Any], recipe: PretrainConfig, out: Path, device: str | torch.device = "cpu") -> None:
    """Train an audio transformer on procedural sounds; write `out` (safetensors) and, beside it, its metadata.

    Args:
        spec: Keyword arguments of :class:`lavish.models.audio_encoders.transformer.AudioTransformer`.
        recipe: How many instances and mixtures, and the optimisation.
        out: The safetensors file; written atomically.
        device: where it is trained.
    """
    tensors, metadata = train_encoder(spec, recipe, _library(recipe), device)
    write_weights(tensors, out, metadata)


def pretrain_backbone(
    model: str, spec: dict[str, Any], recipe: PretrainConfig, out: Path, device: str | torch.device = "cpu"
) -> None:
    """Train a backbone of one input channel, as :func:`pretrain` trains an audio transformer.

    Its log-mels are those of the default `data.spectrogram`, with `spec.img_size` as mel bins and frames, normalised as
    in the audio stream.
    """
    started = time.perf_counter()
    library = _library(recipe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        backbone = build_backbone(model, spec, 0)
    sizes = dict(zip(("mel_bins", "frames"), backbone.image_size, strict=True))
    spectrogram = {**SpectrogramConfig().model_dump(exclude={"window_margin"}), **sizes}
    train, val = _draw_both(spectrogram, library, recipe, progress=True)
    valid = count_valid_frames(**{key: spectrogram[key] for key in _TIMING})
    sounding = train.log_mels[..., :valid]
    reader = _Spectrograms(backbone, sounding.mean().item(), sounding.std().item(), valid)
    head = _fitted(reader, backbone.feature_dim, library, train, recipe, device, progress=True)
    with torch.no_grad():
        set_token_norm(backbone, reader.images(train.log_mels[:MEASURED].to(device)), recipe.token_norm)
    metadata = _metadata({"model": model, "spec": spec}, recipe, library, reader, head, val, started)
    write_weights(backbone.model.state_dict(), out, metadata)


class _Spectrograms(nn.Module):
    """A backbone that reads unnormalised log-mels (B, mel_bins, frames), as ``AudioVisualModel`` normalises them."""

    def __init__(self, backbone: Backbone, mean: float, std: float, valid_frames: int) -> None:
        super().__init__()
        self.backbone, self.mean, self.std, self.valid_frames = backbone, mean, std, valid_frames

    def forward(self, log_mels: Tensor) -> Tensor:
        return self.backbone(self.images(log_mels))

    def images(self, log_mels: Tensor) -> Tensor:
        """Return what the backbone reads, (B, 1, mel_bins, frames)."""
        normalised = (log_mels - self.mean) / (2 * self.std)
        normalised[..., self.valid_frames :] = 0
        return normalised.unsqueeze(1)


def train_encoder(
    spec: dict[str, Any],
    recipe: PretrainConfig,
    library: SoundLibrary,
    device: str | torch.device = "cpu",
    *,
    progress: bool = True,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Train an audio transformer to classify the sounds of a mixture, by binary cross-entropy on mean features.

    Training mixes instances 0 to `recipe.instances` - 1 of the split train; a quarter as many of the split val are
    held out for measurement. On a CPU, equal arguments and threads give equal weights.

    Returns:
        The encoder's state dict, normalisation statistics included, and metadata: spec, recipe, classes, measurements.
    """
    started = time.perf_counter()
    encoder = build("transformer", spec, seed=recipe.seed)
    assert isinstance(encoder, AudioTransformer)
    train, val = _draw_both(encoder.spectrogram, library, recipe, progress)
    sounding = train.log_mels[..., : encoder.valid_frames]
    encoder.set_statistics(sounding.mean().item(), sounding.std().item())

    head = _fitted(encoder, encoder.feature_dim, library, train, recipe, device, progress)
    metadata = _metadata({"kind": "transformer", "spec": spec}, recipe, library, encoder, head, val, started)
    return encoder.state_dict(), metadata


def _metadata(
    described: dict[str, Any],
    recipe: PretrainConfig,
    library: SoundLibrary,
    model: nn.Module,
    head: nn.Linear,
    held_out: Mixtures,
    started: float,
) -> dict[str, Any]:
    """Return what is written beside the weights; `model` stays frozen after it has been measured."""
    return {
        "source": "pretrain",
        **described,
        "recipe": recipe.model_dump(mode="json"),
        "device": head.weight.device.type,
        "classes": list(library.classes),
        "measured": measure(model.requires_grad_(False).eval(), head, held_out),
        "wall_seconds": round(time.perf_counter() - started, 1),
    }


def _library(recipe: PretrainConfig) -> SoundLibrary:
    counts = SplitCounts(train=recipe.instances, val=max(1, recipe.instances // 4), test=1)
    return open_library(ProceduralAssetsConfig(instances=counts, seed=recipe.seed), purpose="pretraining")


def _draw_both(
    spectrogram: dict[str, Any], library: SoundLibrary, recipe: PretrainConfig, progress: bool
) -> tuple[Mixtures, Mixtures]:
    """Return mixtures for training, and held-out ones of other instances."""
    held_out = max(1, recipe.instances // 4)
    train = draw_mixtures(spectrogram, library, "train", recipe.instances, recipe.samples, recipe.seed, progress)
    val = draw_mixtures(spectrogram, library, "val", held_out, max(8, recipe.samples // 8), recipe.seed + 1, progress)
    return train, val


def _fitted(
    model: nn.Module,
    feature_dim: int,
    library: SoundLibrary,
    train: Mixtures,
    recipe: PretrainConfig,
    device: str | torch.device,
    progress: bool,
) -> nn.Linear:
    """Train a model of log-mels with a linear classifier of its features, and return that."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        head = nn.Linear(feature_dim, len(library.classes)).to(device)
        model.to(device)
        _fit(model.requires_grad_(True).train(), head, train, recipe, progress)
    return head


def draw_mixtures(
    spectrogram: dict[str, Any],
    library: SoundLibrary,
    split: str,
    instances: int,
    samples: int,
    seed: int,
    progress: bool = True,
) -> Mixtures:
    """Mix `samples` windows of up to two sounds of different classes, at random levels, over a floor of white noise."""
    generator = np.random.default_rng(seed)
    rate, seconds = spectrogram["sample_rate"], spectrogram["window_seconds"]
    labels = torch.zeros(samples, len(library.classes))
    pictures = []
    for index in tqdm(range(samples), desc=f"mix sounds ({split})", unit="mixture", disable=not progress):
        mixture = _level(generator, _NOISE_DB) * generator.standard_normal(round(rate * seconds))
        number = min(len(library.classes), int(generator.choice(len(_SOURCES), p=_SOURCES)))
        for name in generator.choice(len(library.classes), size=number, replace=False):
            sound = library.sound(int(name), split, int(generator.integers(instances)), rate, seconds)
            mixture += _level(generator, _LEVELS_DB) * sound
            labels[index, name] = 1.0
        waveform = torch.from_numpy(mixture.astype(np.float32))
        pictures.append(log_mels(waveform, segments=1, window_margin=0.0, **spectrogram)[0])
    return Mixtures(torch.stack(pictures), labels)


@torch.inference_mode()
def measure(encoder: nn.Module, head: nn.Linear, mixtures: Mixtures) -> dict[str, float]:
    """Return accuracies: per label, per mixture, and of the strongest label for mixtures of one sound."""
    device = head.weight.device
    logits = torch.cat([head(encoder(part.to(device))).cpu() for part in mixtures.log_mels.split(256)])
    right = (logits > 0) == (mixtures.labels > 0)
    single = mixtures.labels.sum(dim=1) == 1
    named = logits[single].argmax(dim=1) == mixtures.labels[single].argmax(dim=1)
    return {
        "label_accuracy": right.double().mean().item(),
        "mixture_accuracy": right.all(dim=1).double().mean().item(),
        "single_sound_accuracy": named.double().mean().item(),
    }


def _fit(encoder: nn.Module, head: nn.Linear, train: Mixtures, recipe: PretrainConfig, progress: bool) -> None:
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=_WEIGHT_DECAY)
    batches = -(-recipe.samples // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, recipe.epochs * batches, pct_start=0.2)
    with tqdm(total=recipe.epochs * batches, desc="pretrain", unit="batch", disable=not progress) as bar:
        for _ in range(recipe.epochs):
            for rows in torch.randperm(recipe.samples).split(recipe.batch_size):
                logits = head(encoder(train.log_mels[rows].to(head.weight.device)))
                loss = F.binary_cross_entropy_with_logits(logits, train.labels[rows].to(logits.device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
                bar.update()


def _level(generator: np.random.Generator, decibels: tuple[float, float]) -> float:
    return float(10 ** (generator.uniform(*decibels) / 20))
