"""Files that are not what was meant to be downloaded, recognised by their first bytes."""

from __future__ import annotations

_PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")


def instead_of_file(start: bytes) -> str | None:
    """Return what was saved in place of a binary file, with the remedy; None if `start` is of neither kind."""
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the file itself: run `git lfs pull` in its repository, or download the file"
    if text.startswith(_PAGES):
        return (
            "a web page, not the file itself (an error, a login, a quota?): read it in a browser, and download the "
            "file by its direct link"
        )
    return None
