"""Which of all possible questions are asked: such that no answer is the likely one.

Of a template as many questions of each answer are taken, so that the question alone does not give its answer away.
Where one stream tells something about the answer, the same is done for each of the things that it may tell
(:attr:`lavish.data.synthetic.questions.Candidate.hint`).
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from lavish.data.synthetic.questions import TEMPLATES, Candidate

Asked = tuple[int, Candidate]
"""Number of the clip, and what is asked of it."""


def select(rng: np.random.Generator, possible: Sequence[Sequence[Candidate]], per_clip: int) -> list[Asked]:
    """Select questions: of each template about as many, of its answers the same number, of each clip about as many.

    Args:
        rng: decides between equals.
        possible: what may be asked, by clip.
        per_clip: questions of a clip, on average at most.

    Returns:
        Questions in the order of clips and templates; none occurs twice in a clip.
    """
    cells: dict[str, dict[tuple[object, str], list[Asked]]] = defaultdict(lambda: defaultdict(list))
    for clip, found in enumerate(possible):
        for candidate in found:
            cells[candidate.template][candidate.hint, candidate.answer].append((clip, candidate))
    target = len(possible) * per_clip // len(TEMPLATES)
    load: Counter[int] = Counter()
    chosen: list[Asked] = []
    for position in rng.permutation(len(TEMPLATES)):
        chosen += _balanced(rng, _contested(cells[list(TEMPLATES)[position]]), target, load)
    return _sorted(chosen)


def complete(rng: np.random.Generator, possible: Sequence[Sequence[Candidate]], chosen: Sequence[Asked]) -> list[Asked]:
    """Return `chosen` with questions added until every word and every answer occurs that occurs in `possible`."""
    known = {token for _, candidate in chosen for token in tokens(candidate)}
    used = {(clip, candidate.template) for clip, candidate in chosen}
    everything = [(clip, candidate) for clip, found in enumerate(possible) for candidate in found]
    added = []
    for position in rng.permutation(len(everything)):
        clip, candidate = everything[position]
        if (clip, candidate.template) not in used and not known.issuperset(tokens(candidate)):
            known.update(tokens(candidate))
            used.add((clip, candidate.template))
            added.append((clip, candidate))
    return _sorted([*chosen, *added])


def tokens(candidate: Candidate) -> set[tuple[str, str]]:
    """Return what has to be known to answer a question: its words and its answer."""
    return {("answer", candidate.answer), *(("word", word) for word in candidate.words())}


def _contested(cells: Mapping[tuple[object, str], list[Asked]]) -> list[list[Asked]]:
    # Where a hint leaves but one answer, asking is idle.
    answers = Counter(hint for hint, _ in cells)
    return [found for (hint, _), found in cells.items() if answers[hint] > 1]


def _balanced(
    rng: np.random.Generator, cells: Sequence[Sequence[Asked]], target: int, load: Counter[int]
) -> list[Asked]:
    """Take a question of each cell in turn, from the clip that has been asked least, until one cell has none left."""
    queues = []
    for found in cells:
        queue = [(load[found[n][0]], order, *found[n]) for order, n in enumerate(rng.permutation(len(found)))]
        heapq.heapify(queue)
        queues.append(queue)
    taken: list[Asked] = []
    used: set[int] = set()
    while queues and (not taken or len(taken) + len(queues) <= target):
        turn = [asked for queue in queues if (asked := _next(queue, load, used))]
        # In a small set, one turn that is not balanced is better than none.
        if len(turn) == len(queues) or not taken:
            taken += turn
            load.update(clip for clip, _ in turn)
        if len(turn) < len(queues):
            break
    return taken


def _next(queue: list[tuple[int, int, int, Candidate]], load: Counter[int], used: set[int]) -> Asked | None:
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


def _sorted(asked: Sequence[Asked]) -> list[Asked]:
    order = list(TEMPLATES)
    return sorted(asked, key=lambda item: (item[0], order.index(item[1].template)))
