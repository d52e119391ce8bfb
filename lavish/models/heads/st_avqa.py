"""ST-AVQA, the network that answers questions about a clip (Li et al., CVPR 2022, arXiv 2203.14072), as in LAVISH.

    question   q = Linear(tanh [h ; c]),  (h, c) = LSTM(tanh(Embedding(words))), the state after all word slots
    audio      s_t = Linear(ReLU(Linear(audio_t)))
    grounding  p = softmax over patches of norm(F_t) . norm(s_t);  G_t = Linear(tanh [mean F_t ; p norm(F_t)])
    match      M_t = MLP([s_t ; G_t]), with G_t of this clip's frame and of a frame of another clip
    temporal   z = LayerNorm(a + FFN(a)), a = attention(q over s_1..T), and likewise over G_1..T
    answer     logits = Linear(tanh(f * q)),  f = Linear(tanh [z_a + mean_t s_t ; z_v + mean_t G_t])

F_t = Linear(patch tokens of segment t). Only q, z and the answer depend on the question: :meth:`StAvqa.encode` computes
the rest once per clip, :meth:`StAvqa.answer` the parts of a question.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavish.errors import LavishError


@dataclass(frozen=True)
class Evidence:
    """The parts of a batch's clips that do not depend on a question; d is the width of the network."""

    audio: Tensor | None
    """s (clips, segments, d); None without an audio branch."""
    visual: Tensor | None
    """G (clips, segments, d); None without a visual branch."""
    matches: Tensor | None
    """(2, clips, segments, 2) logits of 'another clip' and 'same clip', for other clips' frames and for the clip's own;
    None without frames of other clips."""


class StAvqa(nn.Module):
    """The network for two streams, or for one of them.

    Without the audio branch there is no grounding: G_t = Linear(tanh(mean F_t)). With a single branch the fusion f
    reads only that branch, and there is no match.

    Args:
        audio_width: width of a segment's audio features; 0: no audio branch.
        token_width: width of a frame's patch tokens; 0: no visual branch.
        vocabulary: number of words without index 0, which fills empty slots and has its own trained embedding.
        answers: number of answers.
        width: d. The hidden layers of the match have d, d/2 and d/4 units.
        heads: heads of the temporal attention.
        dropout: probability in the temporal attention and its feed-forward network.
        standardise: normalise the features to mean 0 and standard deviation 1 over a batch (batch norm without scale
            and shift), which the published network does not. Features of a small backbone vary little around their
            mean, and for a long time the answers would then depend only on the question.

    Raises:
        LavishError: if the width is not a multiple of the heads.
    """

    def __init__(
        self,
        *,
        audio_width: int,
        token_width: int,
        vocabulary: int,
        answers: int,
        width: int = 512,
        heads: int = 4,
        dropout: float = 0.1,
        standardise: bool = False,
    ) -> None:
        super().__init__()
        if width < 4 or heads < 1 or width % heads:
            raise LavishError(
                f"task.options.width: a width of {width} does not suit {heads} heads: choose a multiple of "
                "task.options.heads, 4 at least"
            )
        branches = (audio_width > 0) + (token_width > 0)
        self.matches = branches == 2
        self.question = QuestionEncoder(vocabulary, width)
        self.audio_norm = nn.BatchNorm1d(audio_width, affine=False) if standardise and audio_width else None
        self.patch_norm = nn.BatchNorm1d(token_width, affine=False) if standardise and token_width else None
        if audio_width:
            self.audio_projection = nn.Linear(audio_width, width)
            self.audio = nn.Linear(width, width)
            self.audio_attention = QuestionGuidedAttention(width, heads, dropout)
        if token_width:
            self.visual_projection = nn.Linear(token_width, width)
            self.grounding = nn.Linear(branches * width, width)
            self.visual_attention = QuestionGuidedAttention(width, heads, dropout)
        if self.matches:
            self.match = nn.Sequential(
                nn.Linear(2 * width, width),
                nn.ReLU(),
                nn.Linear(width, width // 2),
                nn.ReLU(),
                nn.Linear(width // 2, width // 4),
                nn.ReLU(),
                nn.Linear(width // 4, 2),
            )
        self.fusion = nn.Linear(branches * width, width)
        self.answers = nn.Linear(width, answers)

    def encode(self, audio: Tensor | None, patches: Tensor | None, negatives: Tensor | None) -> Evidence:
        """Compute the parts that are the same for all questions about a clip.

        Args:
            audio: (clips, segments, audio_width); None without an audio branch.
            patches: (clips, segments, N, token_width); None without a visual branch.
            negatives: as `patches`, of frames of other clips; None: no match. Only used with both branches.
        """
        heard = seen = matches = None
        if self.training and self.audio_norm is not None and audio is not None and audio.shape[:2].numel() < 2:
            raise LavishError(
                "task.options.standardise: one segment has no standard deviation: raise training.batch_size or "
                "data.segments"
            )
        if self.audio_norm is not None and audio is not None:
            audio = self.audio_norm(audio.flatten(0, -2)).view_as(audio)
        if self.patch_norm is not None and patches is not None:
            frames = patches if negatives is None else torch.cat([patches, negatives])
            normed = self.patch_norm(frames.flatten(0, -2)).view_as(frames)
            patches, negatives = (normed, None) if negatives is None else normed.chunk(2)
        if audio is not None:
            heard = self.audio(functional.relu(self.audio_projection(audio)))
        if patches is not None:
            seen = self._grounded(self.visual_projection(patches), heard)
        if negatives is not None and heard is not None and seen is not None:
            others = self._grounded(self.visual_projection(negatives), heard)
            pairs = torch.stack([torch.cat([heard, frames], dim=-1) for frames in (others, seen)])
            matches = self.match(pairs)
        return Evidence(heard, seen, matches)

    def answer(self, evidence: Evidence, questions: Tensor, rows: Tensor | None) -> Tensor:
        """Return the logits (units, answers).

        Args:
            evidence: of the batch's clips.
            questions: (units, slots) indices of words, 0 in empty slots.
            rows: (units,) the clip each question is about; None: one question per clip, in the same order.
        """
        question = self.question(questions)
        parts = []
        if evidence.audio is not None:
            parts.append(self.audio_attention(question, evidence.audio, rows))
        if evidence.visual is not None:
            parts.append(self.visual_attention(question, evidence.visual, rows))
        fused = self.fusion(torch.tanh(torch.cat(parts, dim=-1)))
        return self.answers(torch.tanh(fused * question))

    def _grounded(self, maps: Tensor, heard: Tensor | None) -> Tensor:
        """Return G (clips, segments, d) of `maps` (clips, segments, N, d), from mean and audio-weighted mean."""
        summary = maps.mean(dim=-2)
        if heard is not None:
            directions = functional.normalize(maps, dim=-1)
            similarity = directions @ functional.normalize(heard, dim=-1).unsqueeze(-1)  # (clips, segments, N, 1)
            grounded = (similarity.softmax(dim=-2).transpose(-1, -2) @ directions).squeeze(-2)
            summary = torch.cat([summary, grounded], dim=-1)
        return self.grounding(torch.tanh(summary))


class QuestionEncoder(nn.Module):
    """Maps words to one vector with an LSTM that also reads the empty slots at the end."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary + 1, width)
        self.recurrence = nn.LSTM(width, width, batch_first=True)
        self.projection = nn.Linear(2 * width, width)

    def forward(self, questions: Tensor) -> Tensor:
        """Return (units, d) of `questions` (units, slots)."""
        _, state = self.recurrence(torch.tanh(self.words(questions)))
        return self.projection(torch.tanh(torch.cat([part[-1] for part in state], dim=-1)))


class QuestionGuidedAttention(nn.Module):
    """Attention of a question to segments: multi-head attention and a feed-forward network, without a residual of q.

    The mean over segments is added to the result. Keys and values are projected once per clip.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.memory = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, width), nn.Dropout(dropout)
        )
        self.norm = nn.LayerNorm(width)
        # As nn.MultiheadAttention, which holds queries, keys and values as one (3d, d) matrix.
        bound = (6 / (4 * width)) ** 0.5
        for projection in (self.query, self.memory):
            nn.init.uniform_(projection.weight, -bound, bound)
        for projection in (self.query, self.memory, self.out):
            nn.init.zeros_(projection.bias)

    def forward(self, question: Tensor, moments: Tensor, rows: Tensor | None) -> Tensor:
        """Return (units, d) for `question` (units, d) about the clips `rows` of `moments` (clips, segments, d)."""
        key, value = self.memory(moments).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mean = moments.mean(dim=1)
        if rows is not None:
            key, value, mean = key[rows], value[rows], mean[rows]
        query = self.query(question).unflatten(-1, (self.heads, 1, -1))
        chosen = functional.scaled_dot_product_attention(
            query, key, value, dropout_p=self.dropout if self.training else 0.0
        )
        attended = self.out(chosen.flatten(1))
        return self.norm(attended + self.feed_forward(attended)) + mean
