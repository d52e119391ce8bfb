"""The memory of an unfinished preparation: which clips are already in the array files."""

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

_JOB = "job.json"
_JOURNAL = "journal.jsonl"


class Journal:
    """Outcomes of finished clips in a work folder, one line each; what an interruption left behind is taken up again.

    `job` describes what is made (anything that changes numbers or rows); a folder of another job is emptied. A finished
    clip counts only while its media have the size and time they had, and its rows the contents they had: rows may be
    lost when a machine, not only a process, stops.

    Args:
        folder: the work folder; made if it does not exist.
        job: JSON values.
        sources: the listed clips.
        make_arrays: called with `folder` when there is nothing to take up.
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
        # Rewritten: a line that the interruption cut off must not run into the next one.
        fresh = folder / f"{_JOURNAL}.new"
        fresh.write_text("".join(map(self._line, self.finished.values())), encoding="utf-8")
        self._file = fresh.replace(folder / _JOURNAL).open("a", encoding="utf-8")

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Note outcomes; from now on an interruption does not lose them."""
        self.finished.update((outcome.index, outcome) for outcome in outcomes)
        self._file.write("".join(map(self._line, outcomes)))
        self._file.flush()

    def remove(self) -> None:
        """Remove the journal's files: the work folder is finished."""
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
            # A clip that was left out gets another chance: its media may be the reason for the new start.
            if (
                outcome.status != "excluded"
                and media == self._media[outcome.index]
                and rows_checksum(arrays, outcome.index) == outcome.checksum
            ):
                self.finished[outcome.index] = outcome


def _reads(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == text
    except OSError:
        return False


def _media_state(source: ClipSource) -> list[list[Any]]:
    states = []
    for path in (source.pictures, source.sound, *filter(None, (*source.frames, *source.masks))):
        try:
            status = path.stat()
            states.append([path.name, status.st_size, status.st_mtime_ns])
        except OSError:
            states.append([path.name, None, None])
    return states
