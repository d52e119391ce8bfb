"""The journal of an unfinished preparation: the clips that are already in the array files."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from lavish.data.formats.base import ClipSource
from lavish.data.store.clip_jobs import Outcome, open_arrays, rows_checksum
from lavish.io.atomic import write_text

_JOB = "job.json"
_JOURNAL = "journal.jsonl"


class Journal:
    """The outcomes of finished clips in a work folder, one per line, from which an interrupted preparation resumes.

    A clip only counts as finished while its media files have the recorded size and modification time, and its rows the
    recorded checksum: rows may be lost if the whole machine stops, not just the process.

    Args:
        folder: the work folder; created if it does not exist, emptied if it belongs to another job.
        job: JSON values that describe everything that affects the array files.
        sources: the listed clips.
        make_arrays: called with `folder` if there is nothing to resume.
    """

    def __init__(
        self, folder: Path, job: dict[str, Any], sources: Sequence[ClipSource], make_arrays: Callable[[Path], None]
    ) -> None:
        self.finished: dict[int, Outcome] = {}
        self._folder = folder
        self._media = [_media_state(source) for source in sources]
        text = json.dumps(job, sort_keys=True)
        if not _reads(folder / _JOB, text):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            make_arrays(folder)
            (folder / _JOB).write_text(text, encoding="utf-8")
        elif (folder / _JOURNAL).exists():
            self._resume()
        # Rewritten, because new lines must not be appended to a line that an interruption truncated.
        write_text(folder / _JOURNAL, "".join(map(self._line, self.finished.values())))
        self._file = (folder / _JOURNAL).open("a", encoding="utf-8")

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Record outcomes, which then survive an interruption."""
        self.finished.update((outcome.index, outcome) for outcome in outcomes)
        self._file.write("".join(map(self._line, outcomes)))
        self._file.flush()

    def remove(self) -> None:
        """Remove the journal's files once the work is finished."""
        self._file.close()
        (self._folder / _JOB).unlink()
        (self._folder / _JOURNAL).unlink()

    def _line(self, outcome: Outcome) -> str:
        return json.dumps({"media": self._media[outcome.index], **dataclasses.asdict(outcome)}) + "\n"

    def _resume(self) -> None:
        arrays = open_arrays(self._folder, "r")
        for line in (self._folder / _JOURNAL).read_text(encoding="utf-8").splitlines():
            try:
                values = json.loads(line)
            except ValueError:
                continue
            media = values.pop("media")
            outcome = Outcome(**values)
            # Excluded clips are decoded again, because their media may have been restored.
            if (
                outcome.status != "excluded"
                and media == self._media[outcome.index]
                and rows_checksum(self._folder, arrays, outcome.index) == outcome.checksum
            ):
                self.finished[outcome.index] = outcome


def _reads(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == text
    except OSError:
        return False


def _media_state(source: ClipSource) -> list[list[Any]]:
    states = []
    for path in (source.video, source.audio, *filter(None, (*source.segment_frames, *source.masks))):
        try:
            status = path.stat()
            states.append([path.name, status.st_size, status.st_mtime_ns])
        except OSError:
            states.append([path.name, None, None])
    return states
