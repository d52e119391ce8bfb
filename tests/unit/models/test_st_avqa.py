"""The ST-AVQA network: its size, its equations written out, and one clip shared by several questions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lavish.errors import LavishError
from lavish.models.heads.st_avqa import StAvqa

CLIPS, SEGMENTS, PATCHES, AUDIO, TOKEN, WIDTH, WORDS, ANSWERS, SLOTS = 3, 4, 5, 7, 6, 8, 9, 3, 6


def network(**changes: int | float) -> StAvqa:
    torch.manual_seed(0)
    sizes = {"audio_width": AUDIO, "token_width": TOKEN, "vocabulary": WORDS, "answers": ANSWERS, "width": WIDTH}
    net = StAvqa(**{**sizes, **changes})
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5)  # biases and norms too, or a forgotten one would not show
    return net.eval()


@pytest.fixture
def clips() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {
        "audio": torch.randn(CLIPS, SEGMENTS, AUDIO),
        "patches": torch.randn(CLIPS, SEGMENTS, PATCHES, TOKEN),
        "negatives": torch.randn(CLIPS, SEGMENTS, PATCHES, TOKEN),
    }


@pytest.fixture
def questions() -> Tensor:
    return torch.tensor([[1, 2, 3, 0, 0, 0], [4, 5, 6, 7, 8, 9], [2, 2, 1, 9, 0, 0]])


def size(**changes: int) -> int:
    return sum(parameter.numel() for parameter in StAvqa(vocabulary=92, answers=42, **changes).parameters())


def test_sizes_are_those_of_the_published_networks() -> None:
    # The original has VGGish's 128 numbers of a second, and reads ResNet-18's maps without a projection.
    projection = 512 * 512 + 512
    assert size(audio_width=128, token_width=512) - projection == 7_916_716
    # LAVISH projects Swin-V2-L's 1536 channels of both streams.
    assert size(audio_width=1536, token_width=1536) == 7_916_716 + (1536 - 128) * 512 + 1536 * 512 + 512 == 9_424_556


def unit(vector: Tensor) -> Tensor:
    return vector / vector.square().sum().sqrt()


def literal_question(net: StAvqa, words: Tensor) -> Tensor:
    lstm, width = net.question.recurrence, WIDTH
    hidden = cell = torch.zeros(width)
    for word in words:
        gates = lstm.weight_ih_l0 @ net.question.words.weight[word].tanh() + lstm.bias_ih_l0
        gates = gates + lstm.weight_hh_l0 @ hidden + lstm.bias_hh_l0
        take, forget, new, out = gates.split(width)
        cell = forget.sigmoid() * cell + take.sigmoid() * new.tanh()
        hidden = out.sigmoid() * cell.tanh()
    return net.question.projection(torch.cat([hidden, cell]).tanh())


def literal_grounding(net: StAvqa, patches: Tensor, sound: Tensor | None) -> Tensor:
    projected = [net.visual_projection(patch) for patch in patches]
    mean = sum(projected) / len(projected)
    if sound is None:
        return net.grounding(mean.tanh())
    weights = torch.stack([unit(patch) @ unit(sound) for patch in projected]).exp()
    grounded = sum(weight / weights.sum() * unit(patch) for weight, patch in zip(weights, projected, strict=True))
    return net.grounding(torch.cat([mean, grounded]).tanh())


def literal_attention(part: nn.Module, question: Tensor, moments: Tensor) -> Tensor:
    """As published: torch's module, with the same weights, and then the feed-forward network."""
    attention = nn.MultiheadAttention(WIDTH, part.heads)
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.cat([part.query.weight, part.memory.weight]))
        attention.in_proj_bias.copy_(torch.cat([part.query.bias, part.memory.bias]))
        attention.out_proj.load_state_dict(part.out.state_dict())
    found = attention(question[None], moments, moments)[0][0]
    first, second = part.feed_forward[0], part.feed_forward[3]
    return part.norm(found + second(first(found).relu()))


def literal_answer(net: StAvqa, words: Tensor, audio: Tensor | None, patches: Tensor | None) -> Tensor:
    question = literal_question(net, words)
    parts, sounds = [], [None] * SEGMENTS
    if audio is not None:
        sounds = [net.audio(net.audio_projection(segment).relu()) for segment in audio]
        heard = torch.stack(sounds)
        parts.append(literal_attention(net.audio_attention, question, heard) + heard.mean(0))
    if patches is not None:
        seen = torch.stack([literal_grounding(net, *segment) for segment in zip(patches, sounds, strict=True)])
        parts.append(literal_attention(net.visual_attention, question, seen) + seen.mean(0))
    fused = net.fusion(torch.cat(parts).tanh())
    return net.answers((fused * question).tanh())


@pytest.mark.parametrize("without", [None, "audio", "patches"])
def test_answers_are_those_of_the_equations(clips: dict[str, Tensor], questions: Tensor, without: str | None) -> None:
    del clips["negatives"]
    widths = {"audio": {"audio_width": 0}, "patches": {"token_width": 0}}
    net = network(**widths.get(without, {}))
    given = {name: None if name == without else tensor for name, tensor in clips.items()}
    logits = net.answer(net.encode(**given, negatives=None), questions, None)
    for index in range(CLIPS):
        one = {name: None if tensor is None else tensor[index] for name, tensor in given.items()}
        torch.testing.assert_close(logits[index], literal_answer(net, questions[index], **one))


def test_matches_are_those_of_the_equations(clips: dict[str, Tensor]) -> None:
    net = network()
    matches = net.encode(**clips).matches
    assert matches.shape == (2, CLIPS, SEGMENTS, 2)
    for same, name in enumerate(("negatives", "patches")):
        for clip in range(CLIPS):
            for segment in range(SEGMENTS):
                sound = net.audio(net.audio_projection(clips["audio"][clip, segment]).relu())
                x = torch.cat([sound, literal_grounding(net, clips[name][clip, segment], sound)])
                for layer in list(net.match)[:-1:2]:
                    x = layer(x).relu()
                torch.testing.assert_close(matches[same, clip, segment], net.match[-1](x))


def test_frames_of_other_clips_change_no_answer(clips: dict[str, Tensor], questions: Tensor) -> None:
    net = network()
    with_them = net.encode(**clips)
    without = net.encode(**{**clips, "negatives": None})
    assert without.matches is None
    assert torch.equal(net.answer(with_them, questions, None), net.answer(without, questions, None))


def test_questions_that_share_a_clip_are_answered_as_with_a_copy_each(
    clips: dict[str, Tensor], questions: Tensor
) -> None:
    net = network()
    rows = torch.tensor([2, 0, 2, 1, 0])
    asked = questions[[0, 1, 2, 0, 2]]
    shared = net.answer(net.encode(**clips), asked, rows)
    copied = net.answer(net.encode(**{name: tensor[rows] for name, tensor in clips.items()}), asked, None)
    torch.testing.assert_close(shared, copied)
    assert not torch.allclose(shared[0], shared[3]), "the same question about another clip"
    assert not torch.allclose(shared[0], shared[2]), "another question about the same clip"


def test_empty_slots_are_read(clips: dict[str, Tensor]) -> None:
    net = network()
    evidence = net.encode(**{name: tensor[:1] for name, tensor in clips.items()})
    short, long = torch.tensor([[1, 2]]), torch.tensor([[1, 2, 0]])
    assert not torch.allclose(net.answer(evidence, short, None), net.answer(evidence, long, None))


def test_dropout_is_for_training_only(clips: dict[str, Tensor], questions: Tensor) -> None:
    net = network(dropout=0.5)
    evidence = net.encode(**clips)
    assert torch.equal(net.answer(evidence, questions, None), net.answer(evidence, questions, None))
    net.train()
    assert not torch.equal(net.answer(evidence, questions, None), net.answer(evidence, questions, None))


def test_attention_begins_as_torchs_own() -> None:
    torch.manual_seed(0)
    part = StAvqa(audio_width=4, token_width=0, vocabulary=1, answers=2, width=256).audio_attention
    same = nn.MultiheadAttention(256, 4)
    weights = torch.cat([part.query.weight, part.memory.weight])
    assert weights.shape == same.in_proj_weight.shape
    bound = same.in_proj_weight.abs().max().item()
    assert weights.abs().max().item() == pytest.approx(bound, rel=1e-3)
    assert weights.std().item() == pytest.approx(same.in_proj_weight.std().item(), rel=0.01)
    assert not any(part_.bias.any() for part_ in (part.query, part.memory, part.out))


@pytest.mark.parametrize(("width", "heads"), [(10, 4), (2, 2), (8, 0)])
def test_heads_that_cannot_share_the_width_are_refused(width: int, heads: int) -> None:
    with pytest.raises(LavishError, match=rf"task\.options\.width: a width of {width} does not suit {heads} heads"):
        network(width=width, heads=heads)


def test_standardised_features_have_neither_offset_nor_scale(clips: dict[str, Tensor], questions: Tensor) -> None:
    net = network(standardise=True, dropout=0.0).train()
    moved = {"audio": 50 + 3 * clips["audio"], "patches": 9 * clips["patches"] - 70, "negatives": None}
    before, after = (
        net.answer(net.encode(audio=given["audio"], patches=given["patches"], negatives=None), questions, None)
        for given in (clips, moved)
    )
    torch.testing.assert_close(before, after, rtol=1e-3, atol=1e-3)


def test_frames_of_other_clips_are_standardised_like_the_clips_own(clips: dict[str, Tensor]) -> None:
    net = network(standardise=True, dropout=0.0).train()
    own, others = net.encode(clips["audio"], clips["patches"], clips["patches"]).matches
    torch.testing.assert_close(own, others)
    far = net.encode(clips["audio"], clips["patches"], clips["patches"] + 5).matches
    assert not torch.allclose(far[0], far[1])


def test_standardised_answers_in_evaluation_depend_on_no_other_clip(
    clips: dict[str, Tensor], questions: Tensor
) -> None:
    net = network(standardise=True)
    together = net.answer(net.encode(**clips | {"negatives": None}), questions, None)
    alone = net.answer(net.encode(clips["audio"][:1], clips["patches"][:1], None), questions[:1], None)
    torch.testing.assert_close(together[:1], alone)


def test_one_moment_cannot_be_standardised(clips: dict[str, Tensor]) -> None:
    net = network(standardise=True).train()
    with pytest.raises(LavishError, match=r"task\.options\.standardise.*training\.batch_size"):
        net.encode(clips["audio"][:1, :1], clips["patches"][:1, :1], None)
    assert net.encode(clips["audio"][:1], clips["patches"][:1], None).audio is not None
