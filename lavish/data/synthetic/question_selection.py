"""Selection of questions such that the answers are balanced.

The selection contains equally many questions of each answer of a template, so that the question alone does not reveal
the answer. If a single stream reveals something about the answer, the answers are balanced within each value of
:attr:`lavish.data.synthetic.questions.Candidate.hint`.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from lavish.data.synthetic.questions import TEMPLATES, Candidate

Question = tuple[int, Candidate]
"""Number of the clip, and the question about it."""


def select(rng: np.random.Generator, possible: Sequence[Sequence[Candidate]], per_clip: int) -> list[Question]:
    """Select questions, balanced exactly over the answers of a template, approximately over templates and over clips.

    Args:
        rng: random generator for ties.
        possible: candidate questions of each clip.
        per_clip: maximum of the average number of questions per clip.

    Returns:
        Questions in the order of clips and templates; a template occurs at most once per clip.
    """
    cells: dict[str, dict[tuple[object, str], list[Question]]] = defaultdict(lambda: defaultdict(list))
    for clip, found in enumerate(possible):
        for candidate in found:
            cells[candidate.template][candidate.hint, candidate.answer].append((clip, candidate))
    target = len(possible) * per_clip // len(TEMPLATES)
    load: Counter[int] = Counter()
    selected: list[Question] = []
    for position in rng.permutation(len(TEMPLATES)):
        selected += _balanced(rng, _contested(cells[list(TEMPLATES)[position]]), target, load)
    return _sorted(selected)


def complete(
    rng: np.random.Generator, possible: Sequence[Sequence[Candidate]], selected: Sequence[Question]
) -> list[Question]:
    """Return `selected` with questions added until it contains every word and every answer of `possible`."""
    known = {token for _, candidate in selected for token in tokens(candidate)}
    used = {(clip, candidate.template) for clip, candidate in selected}
    everything = [(clip, candidate) for clip, found in enumerate(possible) for candidate in found]
    added = []
    for position in rng.permutation(len(everything)):
        clip, candidate = everything[position]
        if (clip, candidate.template) not in used and not known.issuperset(tokens(candidate)):
            known.update(tokens(candidate))
            used.add((clip, candidate.template))
            added.append((clip, candidate))
    return _sorted([*selected, *added])


def tokens(candidate: Candidate) -> set[tuple[str, str]]:
    """Return the words and the answer of a question, which a model must know to answer it."""
    return {("answer", candidate.answer), *(("word", word) for word in candidate.words())}


def _contested(cells: Mapping[tuple[object, str], list[Question]]) -> list[list[Question]]:
    # If a hint leaves only one answer, the question is trivial.
    answers = Counter(hint for hint, _ in cells)
    return [found for (hint, _), found in cells.items() if answers[hint] > 1]


def _balanced(
    rng: np.random.Generator, cells: Sequence[Sequence[Question]], target: int, load: Counter[int]
) -> list[Question]:
    """Take questions from the cells in turn, preferring clips with few questions, until one cell is exhausted."""
    queues = []
    for found in cells:
        queue = [(load[found[n][0]], order, *found[n]) for order, n in enumerate(rng.permutation(len(found)))]
        heapq.heapify(queue)
        queues.append(queue)
    taken: list[Question] = []
    used: set[int] = set()
    while queues and (not taken or len(taken) + len(queues) <= target):
        turn = [question for queue in queues if (question := _next(queue, load, used))]
        # In a small set, one unbalanced round is better than none.
        if len(turn) == len(queues) or not taken:
            taken += turn
            load.update(clip for clip, _ in turn)
        if len(turn) < len(queues):
            break
    return taken


def _next(queue: list[tuple[int, int, int, Candidate]], load: Counter[int], used: set[int]) -> Question | None:
    while queue:
        count, order, clip, candidate = heapq.heappop(queue)
        if clip in used:
            continue
        if count < load[clip]:
            heapq.heappush(queue, (load[clip], order, clip, candidate))
            continue
        used.add(clip)
        return clip, candidate
    return None


def _sorted(questions: Sequence[Question]) -> list[Question]:
    order = list(TEMPLATES)
    return sorted(questions, key=lambda item: (item[0], order.index(item[1].template)))
