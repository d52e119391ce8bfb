"""Audio-visual segmentation (AVSBench): masks of the sounding objects in each frame.

Zhou et al., "Audio-Visual Segmentation", ECCV 2022, arXiv 2207.05042; on the stages of a shared frozen backbone as
LAVISH has it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lavish.config.measures import Measure
from lavish.data.formats.base import NOT_ANNOTATED
from lavish.errors import LavishError
from lavish.metrics import masks as metrics
from lavish.models.heads.mask_decoder import MaskDecoder
from lavish.models.heads.tpavi import AudioVisualInteraction
from lavish.tasks.base import EncodedBatch, FeatureShape, Inputs, Task


class Segmented(NamedTuple):
    """Mask logits, and the inputs of the matching loss."""

    logits: Tensor
    """(frames, H, W) for all frames, or in training for the annotated ones."""
    maps: tuple[Tensor, ...] = ()
    """Feature maps (frames, C, rows, columns) of the pyramid after TPAVI."""
    audio: tuple[Tensor, ...] = ()
    """TPAVI's aligned audio (frames, C) for each map."""


class Segmentation(Task):
    """The mask decoder of AVSBench, optionally with TPAVI between its neck and its fusion.

    A unit is a clip: its score is the mean IoU of its annotated frames at the threshold 0.5. Frames without annotation
    are excluded from loss and metrics; in S4 only the first of five training frames is annotated.

    Options:
        channels: of the merged maps, a multiple of 8; all other widths scale with it (published: 256).
        levels: number of maps in the pyramid, 1/4, 1/8, ... of the frame; limited by the frame size (published: 4).
        tpavi: whether the maps attend to the audio before they are merged (LAVISH's command: no). The features of a
            separate audio encoder are used by TPAVI alone, so such an encoder needs it.
        matching: loss on TPAVI's maps that pulls the features inside the mask towards the audio feature; 'divergence'
            is that of AVSBench's MS3 command, 'cosine' is defined for S4 and off in its command.
        matching_weight: its weight (MS3: 0.5).
        unused_layers: 'counted' adds the parameters that the published code declares and never uses: a residual unit
            and, without TPAVI, the linear map of the audio feature.
    """

    head_reads = "stages"
    metric = Measure("mIoU", threshold="fixed")
    measures = (
        Measure("mIoU_validation_threshold", threshold="selection"),
        Measure("F_score", threshold="selection"),
        Measure("F_score_published", threshold="evaluated"),
    )

    def __init__(
        self,
        shape: FeatureShape,
        *,
        channels: int = 256,
        levels: int = 4,
        tpavi: bool = False,
        matching: Literal["none", "divergence", "cosine"] = "none",
        matching_weight: float = 0.5,
        unused_layers: Literal["dropped", "counted"] = "dropped",
    ) -> None:
        super().__init__()
        self.decoder = MaskDecoder(shape.stages, shape.frame_size, channels=channels, levels=levels)
        # The last feature is that of the audio, unless there are only frames.
        width = shape.widths[-1] if "audio" in shape.streams or shape.separate_audio else 0
        if shape.separate_audio and not tpavi:
            raise LavishError(
                "audio_encoder.use: only TPAVI uses the features of a separate audio encoder: set "
                "task.options.tpavi to true, or audio_encoder.use to none"
            )
        if width and matching != "none" and not tpavi:
            raise LavishError(
                f"task.options.matching: '{matching}' compares the audio with TPAVI's maps: set task.options.tpavi to "
                "true, or task.options.matching to none"
            )
        self.interactions = nn.ModuleList()
        if width and tpavi:
            self.audio = nn.Linear(width, channels // 2)
            self.interactions.extend(AudioVisualInteraction(channels) for _ in range(levels))
        self.matching = matching if self.interactions else "none"
        self.matching_weight = matching_weight
        self.unused = 0
        if unused_layers == "counted":
            linear = 0 if self.interactions else (width + 1) * (channels // 2) if width else 0
            self.unused = self.decoder.unused_parameters() + linear
        self.iou_threshold: Tensor
        self.f_threshold: Tensor
        self.register_buffer("iou_threshold", torch.tensor(0.5))
        self.register_buffer("f_threshold", torch.tensor(0.5))

    def forward(self, encoded: EncodedBatch, inputs: Inputs) -> Segmented:
        """Return mask logits from the maps of the visual stream, or of the audio stream if it is the only one.

        In training, frames without a mask are dropped as early as possible: S4 has one mask in five frames.
        """
        stream = encoded.streams["visual" if "visual" in encoded.streams else "audio"]
        maps = stream.maps()
        chosen = inputs["annotated"] if self.training and self.matching == "none" else None
        if chosen is not None and not self.interactions:
            maps = [stage[chosen] for stage in maps]
        pyramid, audio = self.decoder.pyramid(maps), []
        if self.interactions:
            audio_features = self.audio(encoded.features[-1])
            for level, interaction in enumerate(self.interactions):
                pyramid[level], aligned = interaction(pyramid[level], audio_features)
                audio.append(aligned.flatten(0, 1))
            if chosen is not None:
                pyramid = [level[chosen] for level in pyramid]
        logits = self.decoder.merge(pyramid)
        return Segmented(logits, tuple(pyramid), tuple(audio)) if self.training else Segmented(logits)

    def loss(self, output: Segmented, targets: Inputs) -> Tensor:
        chosen, masks = targets["annotated"], targets["masks"].flatten(0, 1)
        logits = output.logits.float()
        logits = logits[chosen] if len(logits) == len(masks) else logits
        masks = masks[chosen].float()
        # The loss of a batch without any mask is zero.
        loss = functional.binary_cross_entropy_with_logits(logits, masks, reduction="sum") / max(1, masks.numel())
        if self.matching == "none":
            return loss
        match = _divergence if self.matching == "divergence" else _distance
        pairs = zip(output.maps, output.audio, strict=True)
        terms = [match(output.logits.float(), maps.float().relu(), audio.float()) for maps, audio in pairs]
        return loss + self.matching_weight * torch.stack(terms).mean()

    def score(self, output: Segmented, targets: Inputs) -> dict[str, np.ndarray]:
        masks = targets["masks"]
        chosen, (clips, segments) = _annotated(masks), masks.shape[:2]
        probabilities = output.logits.float().sigmoid().unflatten(0, (clips, segments))[chosen]
        truth = masks[chosen]
        frames = chosen.cpu().numpy()
        clip = frames.nonzero()[0]
        counts = metrics.count_pixels(probabilities, truth)
        iou_curves = metrics.group_means(metrics.iou_curves(counts), clip, clips)
        f_of_frames = metrics.f_curves(counts)
        f_curves = metrics.group_means(f_of_frames, clip, clips)
        return {
            "score": metrics.group_means(metrics.mask_iou(probabilities, truth), clip, clips),
            "mIoU_validation_threshold": iou_curves[:, metrics.threshold_index(self.iou_threshold.item())],
            "F_score": f_curves[:, metrics.threshold_index(self.f_threshold.item())],
            "F_score_published": metrics.published_f_scores(f_of_frames, clip, clips),
            "annotated_frames": frames.sum(axis=1),
            "_iou_curves": iou_curves,
            "_f_curves": f_curves,
        }

    def calibrate(self, columns: dict[str, np.ndarray]) -> None:
        """Choose the thresholds with the highest mIoU and with the highest F-score."""
        self.iou_threshold.fill_(metrics.best_threshold(columns["_iou_curves"]))
        self.f_threshold.fill_(metrics.best_threshold(columns["_f_curves"]))

    def unused_parameters(self) -> int:
        return self.unused

    def predicted_masks(self, output: Segmented, targets: Inputs) -> dict[str, Tensor]:
        masks = targets["masks"]
        return {"predicted": output.logits.float().sigmoid().unflatten(0, masks.shape[:2]), "truth": masks}


def _annotated(masks: Tensor) -> Tensor:
    """Return which of the masks (..., H, W) are annotated, (...)."""
    return masks[..., 0, 0] != NOT_ANNOTATED


def _divergence(logits: Tensor, maps: Tensor, audio: Tensor) -> Tensor:
    """KL(softmax(a') || softmax(m)), summed over frames and channels; m = mean over positions of V sigmoid(logits)."""
    covered = _pooled(logits, maps).sigmoid()
    masked = (maps * covered).mean(dim=(2, 3))
    return functional.kl_div(masked.log_softmax(dim=-1), audio.softmax(dim=-1), reduction="sum")


def _distance(logits: Tensor, maps: Tensor, audio: Tensor) -> Tensor:
    """-log(ReLU(cos(m, a')) + 1e-6), mean over frames; m = mean of V where the mask covers more than half."""
    covered = (_pooled(logits.sigmoid(), maps) > 0.5).to(maps.dtype)
    masked = (maps * covered).sum(dim=(2, 3)) / (covered.sum(dim=(2, 3)) + 1e-6)
    return -(functional.cosine_similarity(masked, audio, dim=-1).relu() + 1e-6).log().mean()


def _pooled(values: Tensor, maps: Tensor) -> Tensor:
    """Average (frames, H, W) over the area of each position of `maps`; return (frames, 1, rows, columns)."""
    # The maps' sizes divide the frame's. The gradient of adaptive pooling is not deterministic on a GPU.
    return functional.avg_pool2d(values.unsqueeze(1), values.shape[-1] // maps.shape[-1])
