"""Checking a data set in its official layout: which files exist, which are missing, and whether they can be decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tqdm import tqdm

from lavish.data.formats.base import ClipSource, missing_media, printable, read_lines, read_records
from lavish.data.formats.official import OFFICIAL, Official
from lavish.data.formats.registry import reader
from lavish.data.leaks import look_alike, media_of, picture_hash, shared_media
from lavish.data.store.clip_jobs import Clip, Outcome, each_clip, run_all
from lavish.errors import LavishError, did_you_mean
from lavish.io.paths import kind_of

_EXAMPLES = 5
# The decoded frames are discarded, so small ones are enough.
_FRAME_SIZE = 32
_SAMPLE_RATE = 16000


@dataclass
class Findings:
    """The results of a check.

    Attributes:
        facts: the checked items and their states, in the order of the check: (item, state).
        problems: each with its remedy; empty for a data set that can be used as it is.
        remarks: information that requires no action.
    """

    facts: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def add(self, item: str, state: str) -> None:
        """Add a fact."""
        self.facts.append((item, state))

    def add_problem(self, problem: str) -> None:
        """Add a problem unless it is already listed."""
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
    """Check everything that the preparation of a data set would read.

    Lists that differ from the published ones are a remark, not a problem, because a user may have lists of their own.
    For some data sets only the length of the published lists is known.

    Args:
        format_name: the official layout, a value of `data.format`.
        root: its folder.
        sample: number of clips whose media are decoded, evenly spaced over the list; None for all.
        jobs: number of worker processes.
        segments, segment_seconds: segments per clip and their length; by default those of the official data set.

    Raises:
        LavishError: an unknown format or a number out of range. Problems of the folder are reported, not raised.
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
    if not _check_text_files(official, root, found):
        return found
    _check_class_and_word_counts(format_name, official, root, found)
    clips = _check_clips(format_name, official, root, segments, segment_seconds, found)
    # Each pair of media files once, with the split that first names it.
    sources = {media_of(source): (source, split) for split in reversed(clips) for source in reversed(clips[split])}
    split_of = dict(sources.values())
    media = sorted(split_of, key=lambda source: source.video)
    found.remarks += [f"{count} {what}" for what, count in reader(format_name).unread(root).items()]
    _check_shared(clips, found)
    present = [source for source in media if not missing_media(source)]
    selected = present if sample is None else _evenly_spaced(present, sample)
    if selected:
        which = "all" if len(selected) == len(present) else f"a sample of the {len(present)}"
        _check_decoding(selected, split_of, which, segments, segment_seconds, jobs, found)
    elif media:
        found.add("decoding", "nothing decoded")
    return found


def report(format_name: str, root: Path, found: Findings) -> str:
    """Return the results of a check as readable text."""
    official = OFFICIAL[format_name]
    width = max((len(item) for item, _ in found.facts), default=0)
    lines = [f"{official.title} data set in {root}"]
    lines += [f"  {item:<{width}}  {state}" for item, state in found.facts]
    if found.remarks:
        lines += ["", "Remarks:", *(f"  - {remark}" for remark in found.remarks)]
    if found.problems:
        lines += ["", "Problems:", *(f"  - {problem}" for problem in found.problems)]
        lines += ["", f"Where to get it: {official.obtained}."]
    else:
        lines += ["", "No problems found."]
    return printable("\n".join(lines))


def _check_text_files(official: Official, root: Path, found: Findings) -> bool:
    """Check the text files; return whether all required ones exist, so that the rest can be checked."""
    modified = []
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
            entries = (
                len(read_records(base / name, "restore the published file"))
                if name.endswith(".json")
                else max(0, len(lines) - published.header)
            )
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
            modified.append(f"{name} (published: {published.entries} {official.entry}{too})")
    if modified:
        found.remarks.append(
            f"not as published: {', '.join(modified)}. Lists of your own are fine, but results are then not comparable "
            "with published ones"
        )
    required = [name for name in absent if not official.texts[name].optional]
    if required:
        found.problems.append(f"missing in {root}: {', '.join(required)}")
        inner = [folder for folder in sorted(root.iterdir()) if folder.is_dir() and (folder / required[0]).is_file()]
        if inner:
            found.problems[-1] += f"; but {inner[0]} has {required[0]}: give that folder as --root"
    return not found.problems


def _check_class_and_word_counts(format_name: str, official: Official, root: Path, found: Findings) -> None:
    """Compare the numbers of classes and, for formats with questions, of words with the published ones."""
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
            found.remarks.append(
                f"{number} {what}, but the published data set has {published}: set data.{key} to {number}"
            )


def _check_clips(
    format_name: str, official: Official, root: Path, segments: int, segment_seconds: float, found: Findings
) -> dict[str, list[ClipSource]]:
    """Read all lists and their targets; return the clips of those that can be read, by split."""
    layout = reader(format_name)
    clips: dict[str, list[ClipSource]] = {}
    for split, name in official.splits.items():
        try:
            layout.targets(root, split, segments=segments, segment_seconds=segment_seconds)
            sources = layout.clips(root, split)
        except LavishError as error:
            # An error that all splits share, such as a missing media folder, is reported once.
            found.add_problem(str(error))
            continue
        clips[split] = sources
        missing = [reason for source in sources if (reason := missing_media(source))]
        found.add(f"media of {name}", f"{len(sources) - len(missing)} of {len(sources)} clips present")
        if missing:
            share = len(missing) / len(sources)
            found.problems.append(
                f"{name}: {len(missing)} of {len(sources)} clips ({share:.1%}) have no media: {_examples(missing)}; "
                "`lavish prepare` excludes them, up to the share data.max_lost"
            )
        published = official.clips.get(split, len(sources))
        if len(sources) != published:
            found.remarks.append(f"{name}: {len(sources)} clips, but the published data set has {published}")
        _check_segment_frames(name, sources, found)
        _check_masks(name, sources, found)
    return clips


def _check_shared(clips: Mapping[str, Sequence[ClipSource]], found: Findings) -> None:
    if shared := shared_media(clips):
        names = sorted(f"{video.name} ({', '.join(splits)})" for (video, _), splits in shared.items())
        found.remarks.append(
            f"{len(shared)} media of the training list are in another list as well: {_examples(names)}; "
            "`data.duplicates: drop_from_train` leaves them out of training"
        )


def _check_segment_frames(name: str, sources: Sequence[ClipSource], found: Findings) -> None:
    missing = [
        f"{source.video.name}: segment {number}"
        for source in sources
        for number, frame in enumerate(source.segment_frames, start=1)
        if frame is None and kind_of(source.video) != "missing"
    ]
    if missing:
        found.problems.append(
            f"{name}: {len(missing)} segments have no frame: {_examples(missing)}; such segments are not evaluated, "
            "and `lavish prepare` excludes clips with frames for fewer than half of the segments"
        )


def _check_masks(name: str, sources: Sequence[ClipSource], found: Findings) -> None:
    masks = [mask for source in sources for mask in source.masks if mask is not None]
    if not masks:
        return
    missing = [f"{mask.parent.name}/{mask.name}" for mask in masks if kind_of(mask) == "missing"]
    found.add(f"masks of {name}", f"{len(masks) - len(missing)} of {len(masks)} present")
    if missing:
        found.problems.append(
            f"{name}: {len(missing)} of {len(masks)} masks are missing: {_examples(missing)}; such segments are not "
            "evaluated, and `lavish prepare` excludes clips without any mask"
        )


def _check_decoding(
    sources: Sequence[ClipSource],
    split_of: Mapping[ClipSource, str],
    which: str,
    segments: int,
    segment_seconds: float,
    jobs: int,
    found: Findings,
) -> None:
    clips: list[Clip] = list(enumerate(sources))
    outcomes: dict[int, Outcome] = {}
    work = partial(_decode_chunk, segments, segment_seconds)
    with tqdm(total=len(clips), desc="decoding", unit="clip", disable=None) as bar:
        for chunk in run_all(work, clips, jobs, ["lavish.data.decoding.media"]):
            outcomes |= {outcome.index: outcome for outcome in chunk}
            bar.update(len(chunk))
    by_status: dict[str, list[str]] = {"ok": [], "repaired": [], "excluded": []}
    for index, source in clips:
        by_status[outcomes[index].status].append(f"{source.video.name}: {outcomes[index].reason}")
    excluded, repaired = by_status["excluded"], by_status["repaired"]
    count = len(sources)
    found.add("decoding", f"{count - len(excluded)} of {count} media decoded ({which} that are present)")
    if excluded:
        found.problems.append(
            f"{len(excluded)} of {count} media cannot be decoded: {_examples(excluded)}; restore them"
        )
    found_hashes = {index: one.picture_hash for index, one in outcomes.items() if isinstance(one, _Checked)}
    hashes = {index: value for index, value in found_hashes.items() if value is not None}
    alike = list(look_alike(hashes, {index: split_of[source] for index, source in clips}))
    if alike:
        pairs = [" and ".join(f"{sources[i].video.name} ({split_of[sources[i]]})" for i in pair) for pair in alike]
        found.remarks.append(
            f"media of different splits look alike in the middle (pairs: {len(alike)}): {_examples(pairs)}; look at "
            "them, since the test split should have nothing that training has"
        )
    if repaired:
        found.remarks.append(f"{len(repaired)} of {count} media are kept with repairs: {_examples(repaired)}")


@dataclass(frozen=True)
class _Checked(Outcome):
    """The outcome of a clip whose data are discarded, with the hash of its middle frame."""

    picture_hash: int | None = None


def _decode_chunk(segments: int, segment_seconds: float, clips: Sequence[Clip]) -> list[Outcome]:
    """Decode clips and discard the data; runs in a worker process."""
    from lavish.data.decoding.media import decode_source

    def decode(index: int, source: ClipSource) -> Outcome:
        frames, *_, notes = decode_source(
            source,
            segments=segments,
            duration=segments * segment_seconds,
            frame_size=_FRAME_SIZE,
            sample_rate=_SAMPLE_RATE,
        )
        return _Checked(index, "repaired" if notes else "ok", "; ".join(notes), picture_hash=picture_hash(frames))

    return each_clip(clips, decode)


def _evenly_spaced(sources: Sequence[ClipSource], count: int) -> list[ClipSource]:
    """Return `count` sources, evenly spaced, always the same ones."""
    count = min(count, len(sources))
    return [sources[round(index * (len(sources) - 1) / max(1, count - 1))] for index in range(count)]


def _examples(items: Sequence[str]) -> str:
    return "; ".join(items[:_EXAMPLES]) + ("; ..." if len(items) > _EXAMPLES else "")
