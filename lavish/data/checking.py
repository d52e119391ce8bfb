"""Checking a data set in its official layout: what is there, what is missing, and whether it can be decoded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tqdm import tqdm

from lavish.data.formats.official import OFFICIAL, Official, TextFile
from lavish.data.formats.base import ClipSource, missing_media, read_lines
from lavish.data.formats.registry import reader
from lavish.data.store.clip_jobs import Clip, Outcome, run_all
from lavish.errors import LavishError, did_you_mean

_EXAMPLES = 5
# Only whether they can be decoded is asked: small pictures are enough.
_FRAME_SIZE = 32
_SAMPLE_RATE = 16000


@dataclass
class Findings:
    """What a check found.

    Attributes:
        facts: what was looked at and how it is, in the order of looking: (thing, state).
        problems: what is wrong, each with its remedy; none for a data set that can be used as it is.
        remarks: what a user may want to know and nothing needs to be done about.
    """

    facts: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def add(self, thing: str, state: str) -> None:
        """Note how something is."""
        self.facts.append((thing, state))

    def add_problem(self, problem: str) -> None:
        """Note what is wrong, once."""
        if problem not in self.problems:
            self.problems.append(problem)


def check_data_set(
    format_name: str,
    root: Path,
    *,
    sample: int | None,
    jobs: int,
    segments: int | None = None,
    segment_seconds: float | None = None,
) -> Findings:
    """Look at everything that a preparation would read.

    Lists that differ from the published ones are remarked upon but no problem: they may be a user's own. Of some
    data sets' lists only the length is known.

    Args:
        format_name: the official layout, as `data.format` names it.
        root: its folder.
        sample: how many media to decode, evenly spread over those listed; None for all.
        jobs: worker processes.
        segments, segment_seconds: segments of a clip and the length of one; by default the official data set's.

    Raises:
        LavishError: for an unknown format, or a number out of range. All that is wrong with the folder is found, not
            raised.
    """
    if format_name not in OFFICIAL:
        raise LavishError(f"--task: unknown data set '{format_name}'{did_you_mean(format_name, OFFICIAL)}")
    if jobs < 1 or (sample is not None and sample < 0):
        raise LavishError("--jobs must be at least 1, and --sample at least 0")
    official = OFFICIAL[format_name]
    segments, segment_seconds = segments or official.segments, segment_seconds or official.segment_seconds
    found = Findings()
    if not root.is_dir():
        found.problems.append(f"there is no folder {root}")
        return found
    if not _texts_are_there(official, root, found):
        return found
    _check_words(format_name, official, root, found)
    media = _check_clips(format_name, official, root, segments, segment_seconds, found)
    present = [source for source in media if not missing_media(source)]
    chosen = present if sample is None else _spread(present, sample)
    if chosen:
        which = "all" if len(chosen) == len(present) else f"a sample of the {len(present)}"
        _check_decoding(chosen, which, segments, segment_seconds, jobs, found)
    elif media:
        found.add("decoding", "nothing decoded")
    return found


def report(format_name: str, root: Path, found: Findings) -> str:
    """Return what a check found as text for a person."""
    official = OFFICIAL[format_name]
    width = max((len(thing) for thing, _ in found.facts), default=0)
    lines = [f"{official.title} data set in {root}"]
    lines += [f"  {thing:<{width}}  {state}" for thing, state in found.facts]
    if found.remarks:
        lines += ["", "To know:", *(f"  - {remark}" for remark in found.remarks)]
    if found.problems:
        lines += ["", "Problems:", *(f"  - {problem}" for problem in found.problems)]
        lines += ["", f"Where to get it: {official.obtained}."]
    else:
        lines += ["", "Everything that was looked at is in order."]
    return "\n".join(lines)


def _texts_are_there(official: Official, root: Path, found: Findings) -> bool:
    """Look for the text files; return whether all that are needed are there, so that the rest can be checked."""
    own = []
    base = official.base(root)
    absent = [name for name in official.texts if not (base / name).is_file()]
    for name, published in official.texts.items():
        if name in absent:
            if not published.optional:
                found.add(name, "missing")
            continue
        try:
            lines = [line.strip() for line in read_lines(base / name, "restore the published file")]
            lines = [line for line in lines if line]
            entries = _entries(base / name, lines, published)
        except LavishError as error:
            found.add(name, "unreadable")
            found.problems.append(str(error))
            continue
        listed = f"{entries} {official.entry}"
        if published.sha256 is None and entries == published.entries:
            found.add(name, f"{listed}, as many as published")
        elif hashlib.sha256("\n".join(lines).encode()).hexdigest() == published.sha256:
            found.add(name, f"{listed}, as published")
        else:
            found.add(name, f"{listed}, not the published file")
            too = " too" if entries == published.entries else ""
            own.append(f"{name} (published: {published.entries} {official.entry}{too})")
    if own:
        found.remarks.append(
            f"not as published: {', '.join(own)}. Fine for lists of your own, but numbers are not comparable with "
            "published ones then"
        )
    needed = [name for name in absent if not official.texts[name].optional]
    if needed:
        found.problems.append(f"missing in {root}: {', '.join(needed)}")
        inner = [folder for folder in sorted(root.iterdir()) if folder.is_dir() and (folder / needed[0]).is_file()]
        if inner:
            found.problems[-1] += f"; but {inner[0]} has {needed[0]}: give that folder as --root"
    return not found.problems


def _entries(path: Path, lines: Sequence[str], published: TextFile) -> int:
    """Return how many entries a text file has."""
    if path.suffix != ".json":
        return max(0, len(lines) - published.header)
    try:
        return len(json.loads("\n".join(lines)))
    except (ValueError, TypeError) as error:
        raise LavishError(f"{path}: no json list ({error}): restore the published file") from None


def _check_words(format_name: str, official: Official, root: Path, found: Findings) -> None:
    """Count what predictions and questions are made of: classes, and words where anything is asked."""
    layout = reader(format_name)
    checks: list[tuple[str, Callable[[Path], list[str]], int | None, str]] = [
        ("classes", layout.classes, official.classes, "num_classes")
    ]
    if official.words:
        checks.append(("words", layout.vocabulary, official.words, "vocabulary"))
    for what, read, published, key in checks:
        try:
            number = len(read(root))
        except LavishError as error:
            found.add(what, "unreadable")
            found.add_problem(str(error))
            continue
        found.add(what, f"{number}{', as published' if number == published else ''}")
        if published is not None and number != published:
            found.remarks.append(f"{number} {what} where the published data set has {published}: set data.{key} to it")


def _check_clips(
    format_name: str, official: Official, root: Path, segments: int, segment_seconds: float, found: Findings
) -> list[ClipSource]:
    """Read all lists with their targets; return every medium once, by name."""
    layout = reader(format_name)
    media: dict[tuple[Path, Path], ClipSource] = {}
    for split, name in official.splits.items():
        try:
            layout.targets(root, split, segments=segments, segment_seconds=segment_seconds)
            sources = layout.clips(root, split)
        except LavishError as error:
            # The same for all splits, such as a media folder that is not there, is said once.
            found.add_problem(str(error))
            continue
        for source in sources:
            media.setdefault((source.video, source.audio), source)
        missing = [reason for source in sources if (reason := missing_media(source))]
        found.add(f"media of {name}", f"{len(sources) - len(missing)} of {len(sources)} clips there")
        if missing:
            share = len(missing) / len(sources)
            found.problems.append(
                f"{name}: {len(missing)} of {len(sources)} clips ({share:.1%}) have no media: {_examples(missing)}; "
                "`lavish prepare` leaves them out as far as data.max_lost allows"
            )
        published = official.clips.get(split, len(sources))
        if len(sources) != published:
            found.remarks.append(f"{name}: {len(sources)} clips where the published data set has {published}")
        _check_pictures(name, sources, found)
        _check_masks(name, sources, found)
    return sorted(media.values(), key=lambda source: source.video)


def _check_pictures(name: str, sources: Sequence[ClipSource], found: Findings) -> None:
    lacking = [
        f"{source.video.name}: segment {number}"
        for source in sources
        for number, frame in enumerate(source.segment_frames, start=1)
        if frame is None and source.video.exists()
    ]
    if lacking:
        found.problems.append(
            f"{name}: {len(lacking)} segments have no picture: {_examples(lacking)}; such segments do not count, and `lavish "
            "prepare` leaves out clips with fewer pictures than half of the segments"
        )


def _check_masks(name: str, sources: Sequence[ClipSource], found: Findings) -> None:
    masks = [mask for source in sources for mask in source.masks if mask is not None]
    if not masks:
        return
    missing = [f"{mask.parent.name}/{mask.name}" for mask in masks if not mask.exists()]
    found.add(f"masks of {name}", f"{len(masks) - len(missing)} of {len(masks)} there")
    if missing:
        found.problems.append(
            f"{name}: {len(missing)} of {len(masks)} masks are missing: {_examples(missing)}; such segments do not count, "
            "and `lavish prepare` leaves out clips that have no mask at all"
        )


def _check_decoding(
    chosen: Sequence[ClipSource], which: str, segments: int, segment_seconds: float, jobs: int, found: Findings
) -> None:
    clips: list[Clip] = list(enumerate(chosen))
    outcomes: dict[int, Outcome] = {}
    work = partial(_decode_chunk, segments, segment_seconds)
    with tqdm(total=len(clips), desc="decoding", unit="clip", disable=None) as bar:
        for chunk in run_all(work, clips, jobs, ["lavish.data.decoding.media"]):
            outcomes |= {outcome.index: outcome for outcome in chunk}
            bar.update(len(chunk))
    by_status: dict[str, list[str]] = {"ok": [], "repaired": [], "excluded": []}
    for index, source in clips:
        by_status[outcomes[index].status].append(f"{source.video.name}: {outcomes[index].reason}")
    bad, odd = by_status["excluded"], by_status["repaired"]
    found.add("decoding", f"{len(chosen) - len(bad)} of {len(chosen)} media decoded ({which} that are there)")
    if bad:
        found.problems.append(f"{len(bad)} of {len(chosen)} media cannot be decoded: {_examples(bad)}; restore them")
    if odd:
        found.remarks.append(f"{len(odd)} of {len(chosen)} media are kept with repairs: {_examples(odd)}")


def _decode_chunk(segments: int, segment_seconds: float, clips: Sequence[Clip]) -> list[Outcome]:
    """Decode clips and keep nothing of them; runs in a worker process."""
    from lavish.data.decoding.masks import decode_masks
    from lavish.data.decoding.media import MediaError, decode_clip

    outcomes = []
    for index, source in clips:
        try:
            *_, notes = decode_clip(
                source,
                segments=segments,
                duration=segments * segment_seconds,
                frame_size=_FRAME_SIZE,
                sample_rate=_SAMPLE_RATE,
            )
            notes += decode_masks(source.masks, _FRAME_SIZE)[1] if source.masks else []
        except MediaError as error:
            outcomes.append(Outcome(index, "excluded", str(error)))
        else:
            outcomes.append(Outcome(index, "repaired" if notes else "ok", "; ".join(notes)))
    return outcomes


def _spread(sources: Sequence[ClipSource], count: int) -> list[ClipSource]:
    """Return `count` sources, evenly spread, the same each time."""
    count = min(count, len(sources))
    return [sources[round(index * (len(sources) - 1) / max(1, count - 1))] for index in range(count)]


def _examples(items: Sequence[str]) -> str:
    return "; ".join(items[:_EXAMPLES]) + ("; ..." if len(items) > _EXAMPLES else "")
