"""Questions about scenes and their answers: templates of the nine question types of MUSIC-AVQA.

This module lists all candidate questions of a scene; :mod:`lavish.data.synthetic.question_selection` selects from them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from lavish.data.synthetic.scene_graph import HeardSound, Scene

NUMBERS = ("zero", "one", "two", "three", "four")
PLACES = ("left", "middle", "right")
YES_OR_NO = ("yes", "no")
RESERVED = frozenset((*NUMBERS, *PLACES, *YES_OR_NO))
"""Answers that must not be class names."""


class Template(NamedTuple):
    """A question template: its group and type as named by MUSIC-AVQA, and its text with placeholders."""

    group: str
    type: str
    text: str


TEMPLATES = {
    name: Template(*template)
    for name, template in {
        "kinds of sound": ("Audio", "Counting", "How many kinds of sound are heard in the video?"),
        "is heard": ("Audio", "Counting", "Is there a sound of <Object> in the video?"),
        "sounds louder": ("Audio", "Comparative", "Is the sound of <Object> louder than the sound of <Object>?"),
        "sounds longer": ("Audio", "Comparative", "Is the <Object> heard longer than the <Object>?"),
        "number of a kind": ("Visual", "Counting", "How many <Object> are seen in the video?"),
        "kinds of things": ("Visual", "Counting", "How many kinds of things are seen in the video?"),
        "is seen": ("Visual", "Counting", "Is there a <Object> to be seen in the video?"),
        "where": ("Visual", "Location", "Where is the <Object> in the video?"),
        "outermost": ("Visual", "Location", "What is the <LRer> thing in the video?"),
        "neighbour": ("Visual", "Location", "What is seen on the <LR> of the <Object>?"),
        "all sounds seen": ("Audio-Visual", "Existential", "Does every sound come from a thing in the video?"),
        "any silent": ("Audio-Visual", "Existential", "Is there a thing in the video that never sounds?"),
        "always sounding": ("Audio-Visual", "Existential", "Is the thing on the <LR> sounding all the time?"),
        "kinds sounding": ("Audio-Visual", "Counting", "How many kinds of things in the video are sounding?"),
        "kinds silent": ("Audio-Visual", "Counting", "How many kinds of things in the video never sound?"),
        "sounds unseen": ("Audio-Visual", "Counting", "How many sounds come from things that are not seen?"),
        "where loudest": ("Audio-Visual", "Location", "Where is the <LL> thing in the video?"),
        "source": ("Audio-Visual", "Location", "Does the <FL> sound come from the thing on the <LR>?"),
        "louder": ("Audio-Visual", "Comparative", "Is the thing on the <LR> louder than the thing on the <RL>?"),
        "longer": ("Audio-Visual", "Comparative", "Does the thing on the <LR> sound longer than that on the <RL>?"),
        "beside first": (
            "Audio-Visual",
            "Location",
            "What is seen on the <LR> of the thing that begins to sound <FL>?",
        ),
        "where first": ("Audio-Visual", "Temporal", "Where is the thing that begins to sound <FL>?"),
        "which first": ("Audio-Visual", "Temporal", "Which thing in the video begins to sound <FL>?"),
        "before": ("Audio-Visual", "Temporal", "Does the thing on the <LR> sound before that on the <RL>?"),
    }.items()
}
"""The templates by name. The names are specific to this project."""


class Candidate(NamedTuple):
    """A candidate question about a clip.

    Attributes:
        template: key of :data:`TEMPLATES`.
        values: the values of its placeholders.
        answer: one word.
        hint: what a single stream may reveal about the answer; answers are balanced within each hint.
    """

    template: str
    values: tuple[str, ...]
    answer: str
    hint: object = None

    def words(self) -> list[str]:
        """Return the words of the question with its placeholders filled."""
        values = iter(self.values)
        text = TEMPLATES[self.template].text.removesuffix("?")
        return [next(values) if word.startswith("<") else word for word in text.split()]


def candidates(scene: Scene, names: Sequence[str]) -> Iterator[Candidate]:
    """Yield all candidate questions about a scene; `names` are the class names."""
    clip = _Clip(scene, names)
    yield from _audio_questions(clip)
    yield from _visual_questions(clip)
    yield from _audio_visual_questions(clip)
    yield from _spatial_questions(clip)
    yield from _temporal_questions(clip)


class _Clip:
    """A scene in terms of class names, called kinds in the questions.

    Attributes:
        names: of all classes.
        row: the kind of each object, from left to right.
        kinds: the visible kinds.
        alone: the kinds with exactly one object, whose position is unambiguous.
        sounds: by kind.
        both: kinds that are both seen and heard.
    """

    def __init__(self, scene: Scene, names: Sequence[str]) -> None:
        self.names = names
        self.row = [names[item.class_index] for item in sorted(scene.objects, key=lambda item: item.place.x)]
        self.kinds = list(dict.fromkeys(self.row))
        self.alone = [kind for kind in self.kinds if self.row.count(kind) == 1]
        self.sounds = {names[sound.class_index]: sound for sound in scene.sounds}
        self.both = [kind for kind in self.kinds if kind in self.sounds]
        self.segments = max(item.seen.end for item in scene.objects)

    def place(self, kind: str) -> str:
        position = self.row.index(kind)
        if len(self.row) > 1 and position in (0, len(self.row) - 1):
            return "left" if position == 0 else "right"
        return "middle"

    def ends(self) -> list[tuple[str, str, str, str]]:
        """Return (side, its kind, other side, its kind) for both directions, if both kinds have only one object."""
        left, right = self.row[0], self.row[-1]
        if len(self.row) < 2 or left not in self.alone or right not in self.alone:
            return []
        return [("left", left, "right", right), ("right", right, "left", left)]


def _audio_questions(clip: _Clip) -> Iterator[Candidate]:
    yield Candidate("kinds of sound", (), NUMBERS[len(clip.sounds)])
    for kind in clip.names:
        yield Candidate("is heard", (kind,), _yes(kind in clip.sounds), kind in clip.kinds)
    for (kind, sound), (other, other_sound) in itertools.permutations(clip.sounds.items(), 2):
        yield Candidate("sounds louder", (kind, other), _yes(sound.gain_db > other_sound.gain_db))
        if _seconds(sound) != _seconds(other_sound):
            yield Candidate("sounds longer", (kind, other), _yes(_seconds(sound) > _seconds(other_sound)))


def _visual_questions(clip: _Clip) -> Iterator[Candidate]:
    yield Candidate("kinds of things", (), NUMBERS[len(clip.kinds)])
    for kind in clip.names:
        yield Candidate("number of a kind", (kind,), NUMBERS[clip.row.count(kind)], kind in clip.sounds)
        yield Candidate("is seen", (kind,), _yes(kind in clip.row), kind in clip.sounds)
    for kind in clip.alone:
        yield Candidate("where", (kind,), clip.place(kind))
    if len(clip.row) > 1:
        yield Candidate("outermost", ("leftmost",), clip.row[0])
        yield Candidate("outermost", ("rightmost",), clip.row[-1])
    for left, right in itertools.pairwise(clip.row):
        if right in clip.alone:
            yield Candidate("neighbour", ("left", right), left)
        if left in clip.alone:
            yield Candidate("neighbour", ("right", left), right)


def _audio_visual_questions(clip: _Clip) -> Iterator[Candidate]:
    silent, unseen = len(clip.kinds) - len(clip.both), len(clip.sounds) - len(clip.both)
    yield Candidate("all sounds seen", (), _yes(not unseen), (len(clip.sounds), len(clip.kinds)))
    yield Candidate("any silent", (), _yes(silent > 0), len(clip.kinds))
    # The largest numbers are too rare to be balanced with the other answers.
    yield Candidate("kinds sounding", (), NUMBERS[len(clip.both)])
    if silent <= 3:
        yield Candidate("kinds silent", (), NUMBERS[silent], len(clip.kinds))
    if unseen <= 2:
        yield Candidate("sounds unseen", (), NUMBERS[unseen], len(clip.sounds))
    all_the_time = {kind for kind, sound in clip.sounds.items() if _seconds(sound) == clip.segments}
    for side, kind, _, _ in clip.ends():
        yield Candidate("always sounding", (side,), _yes(kind in all_the_time), min(len(all_the_time), 2))


def _spatial_questions(clip: _Clip) -> Iterator[Candidate]:
    levels = {kind: clip.sounds[kind].gain_db for kind in clip.both}
    if len(levels) > 1:
        ranked = sorted(levels, key=levels.__getitem__)
        for word, kind in (("loudest", ranked[-1]), ("quietest", ranked[0])):
            if kind in clip.alone:
                yield Candidate("where loudest", (word,), clip.place(kind), len(clip.row))
    for word, kind in _first_and_last(clip.sounds):
        for side, there, _, _ in clip.ends():
            yield Candidate("source", (word, side), _yes(kind == there), len(clip.row))
    for side, kind, other_side, other in clip.ends():
        if kind in levels and other in levels:
            yield Candidate("louder", (side, other_side), _yes(levels[kind] > levels[other]))
            lengths = _seconds(clip.sounds[kind]), _seconds(clip.sounds[other])
            if lengths[0] != lengths[1]:
                yield Candidate("longer", (side, other_side), _yes(lengths[0] > lengths[1]))


def _temporal_questions(clip: _Clip) -> Iterator[Candidate]:
    among_all = dict(_first_and_last(clip.sounds))
    for word, kind in _first_and_last({kind: clip.sounds[kind] for kind in clip.both}):
        # If the first of all sounds has a visible object, audio alone is enough to answer; hence the hint.
        yield Candidate("which first", (word,), kind, kind == among_all.get(word))
        if kind in clip.alone:
            yield Candidate("where first", (word,), clip.place(kind), len(clip.row))
            # With two objects the answer would be the other one, regardless of the audio.
            position = clip.row.index(kind)
            for side, beside in (("left", clip.row[:position][-1:]), ("right", clip.row[position + 1 :][:1])):
                if beside and len(clip.alone) > 2:
                    yield Candidate("beside first", (side, word), beside[0])
    for side, kind, other_side, other in clip.ends():
        if kind in clip.both and other in clip.both:
            starts = clip.sounds[kind].heard.start, clip.sounds[other].heard.start
            if starts[0] != starts[1]:
                yield Candidate("before", (side, other_side), _yes(starts[0] < starts[1]))


def _first_and_last(sounds: Mapping[str, HeardSound]) -> list[tuple[str, str]]:
    """Return ("first", kind) and ("last", kind), unless several sounds share that start or there is only one sound."""
    starts = {kind: sound.heard.start for kind, sound in sounds.items()}
    ends = (("first", min(starts.values(), default=0)), ("last", max(starts.values(), default=0)))
    found = []
    for word, start in ends:
        kinds = [kind for kind, begin in starts.items() if begin == start]
        if len(kinds) == 1 and len(starts) > 1:
            found.append((word, kinds[0]))
    return found


def _seconds(sound: HeardSound) -> int:
    return sound.heard.end - sound.heard.start


def _yes(value: bool) -> str:
    return YES_OR_NO[not value]
