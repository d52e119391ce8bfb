"""Whisper's audio encoder and its log-mel front end, for weights with the tensor names of the model hub.

Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", ICML 2023, arXiv 2212.04356, section 2.2.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional as F

from lavish.errors import LavishError
from lavish.models.audio_encoders.base import AudioEncoder
from lavish.models.weights import load_exactly, read_weights

if TYPE_CHECKING:
    from lavish.data.store.store import SplitStore

SAMPLE_RATE = 16000
WINDOW_LENGTH = 400
HOP_LENGTH = 160
POSITIONS_PER_SECOND = SAMPLE_RATE // (2 * HOP_LENGTH)

# Prefixes of the encoder's tensors in files of the speech recognition model, of the bare model and of the encoder.
_PREFIXES = ("model.encoder.", "encoder.", "")
_DECODER = ("model.decoder.", "decoder.", "proj_out.")


class WhisperLogMel(nn.Module):
    """The log-mel spectrogram of Whisper: 25 ms Hann windows every 10 ms, Slaney mel filters, log10.

    Values are clipped to 8 decades below the maximum of each window, then scaled to about [-1, 1.5].
    """

    def __init__(self, mel_bins: int) -> None:
        super().__init__()
        filters = torchaudio.functional.melscale_fbanks(
            n_freqs=WINDOW_LENGTH // 2 + 1,
            f_min=0.0,
            f_max=SAMPLE_RATE / 2,
            n_mels=mel_bins,
            sample_rate=SAMPLE_RATE,
            norm="slaney",
            mel_scale="slaney",
        )
        # Constants, so not part of the weights.
        self.register_buffer("filters", filters.T.contiguous(), persistent=False)
        self.register_buffer("window", torch.hann_window(WINDOW_LENGTH), persistent=False)

    def forward(self, waveforms: Tensor) -> Tensor:
        """Turn float waveforms (B, samples) in [-1, 1) at 16 kHz into log-mels (B, mel_bins, samples // 160)."""
        spectrum = torch.stft(
            waveforms, WINDOW_LENGTH, HOP_LENGTH, window=self.get_buffer("window"), center=True, return_complex=True
        )
        # The last frame of a centred transform starts after the audio; Whisper drops it.
        power = spectrum[..., :-1].abs().square()
        log_mels = (self.get_buffer("filters") @ power).clamp(min=1e-10).log10()
        log_mels = log_mels.maximum(log_mels.amax(dim=(1, 2), keepdim=True) - 8.0)
        return (log_mels + 4.0) / 4.0


class SelfAttention(nn.Module):
    """Multi-head self-attention; the key projection has no bias."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the update (B, N, C) of tokens (B, N, C)."""
        q, k, v = (
            projection(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A pre-norm transformer block; its modules are named as in the published files."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.self_attn = SelfAttention(dim, heads)
        self.final_layer_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, N, C) to tokens (B, N, C)."""
        tokens = tokens + self.self_attn(self.self_attn_layer_norm(tokens))
        return tokens + self.fc2(F.gelu(self.fc1(self.final_layer_norm(tokens))))


class WhisperEncoder(AudioEncoder):
    """Whisper's encoder: two convolutions, added positions, pre-norm blocks, a last norm. One token per 20 ms.

    A clip is zero-padded to a multiple of the window (`positions` / 50 seconds; 30 s as published) and encoded window
    by window; a segment's feature is the mean of its tokens.

    Args (the defaults are Whisper tiny; base is 512, 6, 8; small 768, 12, 12; medium 1024, 24, 16):
        dim: Width of tokens and features; the feed-forward layer is four times as wide.
        depth: Number of blocks.
        heads: Attention heads.
        mel_bins: Mel filters (128 for large-v3, 80 for all others).
        positions: Number of tokens of one window.
    """

    reads: Literal["log_mels", "waveforms"] = "waveforms"

    def __init__(
        self, *, dim: int = 384, depth: int = 4, heads: int = 6, mel_bins: int = 80, positions: int = 1500
    ) -> None:
        super().__init__()
        if min(dim, depth, heads, mel_bins, positions) < 1 or dim % heads:
            raise LavishError(
                f"audio_encoder.spec: dim {dim}, depth {depth}, heads {heads}, mel_bins {mel_bins} and positions "
                f"{positions} must be positive and `dim` a multiple of `heads`"
            )
        self.feature_dim = dim
        self.mel_bins = mel_bins
        self.positions = positions
        self.conv1 = nn.Conv1d(mel_bins, dim, 3, padding=1)
        self.conv2 = nn.Conv1d(dim, dim, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(positions, dim)
        self.layers = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.layer_norm = nn.LayerNorm(dim)
        self.log_mel = WhisperLogMel(mel_bins)

    def forward(self, log_mels: Tensor) -> Tensor:
        """Map log-mels (windows, mel_bins, 2 * positions) to tokens (windows, positions, dim)."""
        x = F.gelu(self.conv1(log_mels))
        x = F.gelu(self.conv2(x))
        tokens = x.transpose(1, 2) + self.embed_positions.weight
        for layer in self.layers:
            tokens = layer(tokens)
        return self.layer_norm(tokens)

    @property
    def window_samples(self) -> int:
        """Number of samples of one window."""
        return self.positions * 2 * HOP_LENGTH

    def example_inputs(self, segments: int, segment_seconds: float) -> Tensor:
        """Return zeros (windows, mel_bins, 2 * positions) for the windows of one clip."""
        windows = max(1, math.ceil(round(segments * segment_seconds * SAMPLE_RATE) / self.window_samples))
        return torch.zeros(windows, self.mel_bins, 2 * self.positions)

    def check_store(self, store: SplitStore) -> None:
        """Raise LavishError unless the waveforms are at 16 kHz."""
        rate = store.manifest["config"]["spectrogram"]["sample_rate"]
        if rate != SAMPLE_RATE:
            raise LavishError(
                f"{store.path}: its waveforms are at {rate} Hz, Whisper takes {SAMPLE_RATE} Hz; "
                f"set data.spectrogram.sample_rate to {SAMPLE_RATE}"
            )

    def encode_clip_batch(self, clips: Tensor, segments: int, segment_seconds: float) -> Tensor:
        """Return features (B, segments, dim) of int16 waveforms (B, samples) at 16 kHz."""
        waveforms = F.pad(clips.float() / 32768.0, (0, -clips.shape[1] % self.window_samples))
        windows = waveforms.reshape(-1, self.window_samples)
        tokens = self(self.log_mel(windows)).reshape(len(clips), -1, self.feature_dim)
        return torch.stack([tokens[:, span].mean(dim=1) for span in segment_spans(segments, segment_seconds)], dim=1)

    def load_weights(self, path: Path) -> None:
        """Load the encoder from a Whisper safetensors file; a decoder is ignored."""
        tensors = read_weights(path)
        prefix = next((prefix for prefix in _PREFIXES if f"{prefix}conv1.weight" in tensors), None)
        if prefix is None:
            raise LavishError(
                f"{path}: tensor '{_PREFIXES[0]}conv1.weight' is missing: this is not a file of a Whisper encoder"
            )
        encoder = {name: tensor for name, tensor in tensors.items() if not name.startswith(_DECODER)}
        strangers = sorted(name for name in encoder if not name.startswith(prefix))
        if strangers:
            raise LavishError(f"{path}: tensor '{strangers[0]}' is unexpected in a file of a Whisper encoder")
        own = {name.removeprefix(prefix): tensor for name, tensor in encoder.items()}
        load_exactly(self, own, path, "audio_encoder.spec", prefix)


def segment_spans(segments: int, segment_seconds: float) -> list[slice]:
    """Return the tokens (50 per second) of each segment: at least one, and not shared if there are enough."""
    starts = [math.floor(segment * segment_seconds * POSITIONS_PER_SECOND + 0.5) for segment in range(segments + 1)]
    return [slice(start, max(start + 1, end)) for start, end in itertools.pairwise(starts)]
