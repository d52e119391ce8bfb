"""Audio-visual question answering (MUSIC-AVQA): questions about a clip with a closed set of answers.

Li et al., "Learning to Answer Questions in Dynamic Audio-Visual Scenarios", CVPR 2022 (arXiv 2203.14072); the network
and its loss as LAVISH has them (arXiv 2212.07983).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lavish.config.measures import Measure
from lavish.data.formats.music_avqa import WORD_SLOTS
from lavish.errors import LavishError
from lavish.models.heads.st_avqa import StAvqa
from lavish.tasks.base import EncodedBatch, FeatureShape, Inputs, Task


class Answers(NamedTuple):
    """The head's output."""

    logits: Tensor
    """(units, answers)."""
    matches: Tensor | None
    """(2, clips, segments, 2) logits of 'another clip' and 'same clip', frames of other clips first; in training."""


class QuestionAnswering(Task):
    """ST-AVQA on one or both streams; accuracy over all questions and by group and type of question.

    The features of a separate audio encoder are concatenated with those of the audio stream, or replace them. With a
    single stream, the other branch (:class:`lavish.models.heads.st_avqa.StAvqa`) and the matching loss do not exist.

    Options:
        width: of all layers.
        heads: of the attention over segments.
        dropout: in that attention.
        standardise: scale features to mean 0 and standard deviation 1 per batch, for small backbones (published: no).
        match_weight: weight of the matching loss: whether a frame and an audio segment belong to the same clip.
        unused_layers: 'counted' adds the parameters that LAVISH's code declares and never uses.
    """

    head_reads = "tokens"
    metric = Measure("accuracy")
    measures = (
        Measure("accuracy_audio"),
        Measure("accuracy_visual"),
        Measure("accuracy_audio_visual"),
        Measure("accuracy_audio_counting"),
        Measure("accuracy_audio_comparative"),
        Measure("accuracy_visual_counting"),
        Measure("accuracy_visual_location"),
        Measure("accuracy_audio_visual_existential"),
        Measure("accuracy_audio_visual_counting"),
        Measure("accuracy_audio_visual_location"),
        Measure("accuracy_audio_visual_comparative"),
        Measure("accuracy_audio_visual_temporal"),
    )
    """The three groups, then the types of questions in the order of their indices in `types`."""

    def __init__(
        self,
        shape: FeatureShape,
        *,
        width: int = 512,
        heads: int = 4,
        dropout: float = 0.1,
        standardise: bool = False,
        match_weight: float = 0.5,
        unused_layers: Literal["dropped", "counted"] = "dropped",
    ) -> None:
        super().__init__()
        if not shape.vocabulary:
            raise LavishError(
                "task 'question_answering' needs questions, but the data set has none: choose data.format: music_avqa "
                "and set data.vocabulary to its number of words"
            )
        self.visual_feature = shape.streams.index("visual") if "visual" in shape.streams else None
        self.net = StAvqa(
            audio_width=sum(size for index, size in enumerate(shape.widths) if index != self.visual_feature),
            token_width=0 if self.visual_feature is None else shape.token_width,
            vocabulary=shape.vocabulary,
            answers=len(shape.classes),
            width=width,
            heads=heads,
            dropout=dropout,
            standardise=standardise,
        )
        self.negatives = self.net.matches and match_weight > 0
        self.match_weight = match_weight
        self.unused = _unused_parameters(width) if unused_layers == "counted" else 0

    def forward(self, encoded: EncodedBatch, inputs: Inputs) -> Answers:
        """Return the answers to `questions`, word indices (units, slots)."""
        moments = (encoded.clips, encoded.segments)
        heard = [feature for index, feature in enumerate(encoded.features) if index != self.visual_feature]
        audio = torch.cat(heard, dim=-1) if heard else None
        patches = negatives = None
        if self.visual_feature is not None:
            patches = encoded.streams["visual"].patches.unflatten(0, moments)
            if encoded.negatives is not None:
                negatives = encoded.negatives.unflatten(0, moments)
        evidence = self.net.encode(audio, patches, negatives)
        return Answers(self.net.answer(evidence, inputs["questions"], encoded.rows), evidence.matches)

    def loss(self, output: Answers, targets: Inputs) -> Tensor:
        """Return the mean cross-entropy over questions plus the weighted matching loss over audio-frame pairs."""
        loss = functional.cross_entropy(output.logits.float(), targets["answers"])
        if output.matches is None:
            return loss
        same = torch.arange(2, device=loss.device).repeat_interleave(output.matches[0, ..., 0].numel())
        return loss + self.match_weight * functional.cross_entropy(output.matches.float().flatten(0, 2), same)

    def score(self, output: Answers, targets: Inputs) -> dict[str, np.ndarray]:
        answers, types = (targets[name].cpu().numpy() for name in ("answers", "types"))
        predictions = output.logits.argmax(dim=-1).cpu().numpy()
        right = (predictions == answers).astype(np.float64)
        columns = {"score": right, "type": types, "prediction": predictions, "answer": answers}
        groups, names = ([one.name for one in part] for part in (self.measures[:3], self.measures[3:]))
        for index, name in enumerate(names):
            columns[name] = np.where(types == index, right, np.nan)
        for group in groups:
            # 'accuracy_audio_counting' is in the group 'accuracy_audio', 'accuracy_audio_visual_counting' is not.
            members = [index for index, name in enumerate(names) if name.rpartition("_")[0] == group]
            columns[group] = np.where(np.isin(types, members), right, np.nan)
        return columns

    def example_inputs(self) -> Inputs:
        return {"questions": torch.zeros(1, WORD_SLOTS, dtype=torch.long)}

    def unused_parameters(self) -> int:
        return self.unused


def _unused_parameters(width: int) -> int:
    """Return the number of unused parameters in LAVISH's `AVQA_Fusion_Net`: 2,757,632 at its width d = 512.

    Linear layers 128 -> d (twice), 2048 -> d, 2d -> d and d -> d (four times), and a layer norm: 6 d^2 + 2314 d.
    """
    linear = [(128, width)] * 2 + [(2048, width), (2 * width, width)] + [(width, width)] * 4
    return sum((inputs + 1) * outputs for inputs, outputs in linear) + 2 * width
