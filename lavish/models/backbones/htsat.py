"""HTS-AT: a Swin that reads one-channel log-mels, folded into a square picture.

Source: Chen et al., "HTS-AT: A Hierarchical Token-Semantic Audio Transformer for Sound Classification and Detection",
ICASSP 2022 (arXiv 2202.00874), and its public code (RetroCirce/HTS-Audio-Transformer, ``model/htsat.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.models.swin_transformer import SwinTransformer, checkpoint_filter_fn
from torch import Tensor, nn
from torch.nn import functional

from lavish.errors import LavishError
from lavish.models.backbones.base import Layers
from lavish.models.backbones.swin import SwinBackbone

UNUSED = ("spectrogram_extractor", "logmel_extractor", "tscam_conv", "head")
"""Parts of the published files that are not built here: transforms that preparation computes, and the classifier."""
_RESIZED_BY_TIMM = ("relative_position_bias_table", "patch_embed.proj.weight")


class HTSAT(SwinTransformer):
    """timm's Swin with the batch norm of HTS-AT's input; the defaults are the published sizes.

    Args:
        mel_bins: rows of a log-mel; `img_size` is a multiple.
        img_size: rows and columns of the folded picture.
        window_size, num_heads, arguments: of timm's class, whose other defaults are those of HTS-AT.
    """

    def __init__(
        self,
        *,
        mel_bins: int = 64,
        img_size: int = 256,
        window_size: int = 8,
        num_heads: tuple[int, ...] = (4, 8, 16, 32),
        **arguments: Any,
    ) -> None:
        super().__init__(img_size=img_size, in_chans=1, window_size=window_size, num_heads=num_heads, **arguments)
        if mel_bins < 1 or img_size % mel_bins:
            raise LavishError(f"backbone.spec: img_size ({img_size}) is no multiple of mel_bins ({mel_bins})")
        self.bn0 = nn.BatchNorm2d(mel_bins)


class HTSATBackbone(SwinBackbone):
    """HTS-AT as a :class:`~lavish.models.backbones.base.Backbone`; its images are log-mels (B, 1, mel bins, frames).

    The pooled feature is the mean of the normed tokens, HTS-AT's latent output. Its classifier, a convolution over
    these tokens, is not built. The batch norm of the input is frozen with the rest and keeps its statistics.
    """

    @property
    def image_size(self) -> tuple[int, int]:
        """Mel bins, and the most frames of a log-mel."""
        rows, columns = super().image_size
        bins = self.model.bn0.num_features
        return bins, rows // bins * columns

    def grid_sizes(self, image_size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """Return the grid of the folded picture in each block: the same for any number of frames.

        Rows are patches of frequency within pieces of time, see :meth:`_picture`. Raises LavishError unless
        `image_size` has the mel bins of the batch norm and no more frames than a picture.
        """
        bins, most = self.image_size
        if image_size[0] != bins or not 1 <= image_size[1] <= most:
            raise LavishError(
                f"this HTS-AT reads log-mels of {bins} mel bins and at most {most} frames, not {image_size[0]} x "
                f"{image_size[1]}: set data.spectrogram.mel_bins and data.spectrogram.frames; it reads no video frames"
            )
        return super().grid_sizes(self.image_size)

    def embed(self, images: Tensor) -> Tensor:
        return super().embed(self._picture(images))

    def embed_layers(self, images: Tensor) -> Layers:
        return super().embed_layers(self._picture(images))

    def _picture(self, log_mels: Tensor) -> Tensor:
        """Normalise log-mels (B, 1, mel bins, frames) and fold them into square pictures (B, 1, side, side).

        They are repeated in time as often as they fit and stretched to the rest, as the published code does for short
        sounds. Pieces of time of `side` frames each are then stacked: row p x mel bins + f is bin f of piece p.
        """
        bins, frames = self.image_size
        normed = self.model.bn0(log_mels.transpose(1, 2)).transpose(1, 2)
        repeated = normed.repeat(1, 1, 1, frames // normed.shape[-1])
        if repeated.shape[-1] < frames:
            repeated = functional.interpolate(repeated, (bins, frames), mode="bicubic", align_corners=True)
        columns = self.model.patch_embed.img_size[1]
        return repeated.unflatten(3, (-1, columns)).transpose(2, 3).flatten(2, 3)


def in_timms_names(tensors: Mapping[str, Tensor], model: HTSAT) -> dict[str, Tensor]:
    """Convert published tensors to timm's names: without unused parts and buffers, merging at the start of a stage.

    What timm would resize to another patch or window stays as it is, so that a wrong specification is noticed.
    """
    used = {name: tensor for name, tensor in tensors.items() if name.split(".")[0] not in UNUSED}
    kept = {name: tensor for name, tensor in used.items() if name.endswith(_RESIZED_BY_TIMM)}
    return {**checkpoint_filter_fn({name: used[name] for name in used.keys() - kept.keys()}, model), **kept}
