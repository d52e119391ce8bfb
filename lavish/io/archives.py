"""Unpacking of untrusted zip and tar archives: completely or not at all, and never outside the given folder.

Data sets consist of files and folders, so links, devices and pipes are refused, and so are names that are absolute,
contain '..', or occur twice. tarfile's own filter for data checks each member of a tar archive as well. No member may
write more than its declared size, and the sum of the declared sizes is limited, which stops decompression bombs.
"""

from __future__ import annotations

import errno
import json
import lzma
import re
import shutil
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from lavish.errors import LavishError
from lavish.io.checksums import sha256_of
from lavish.io.downloads import instead_of_file

MARK = ".unpacked.json"
"""File in an unpacked folder: the archive's sha256 and the size of every file. Hidden, so readers ignore it."""

MAX_MEMBERS = 5_000_000
_CHUNK = 1 << 20
# A damaged header may ask for more memory than there is.
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, MemoryError)
_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK00")
_OTHER_FORMATS = {b"7z\xbc\xaf": "7z", b"Rar!": "RAR", b"\x28\xb5\x2f\xfd": "zstd"}
_PART = re.compile(r"\.(z\d\d|\d{2,3})$", re.IGNORECASE)
_END_OF_ZIP = b"PK\x05\x06"
_END_OF_ZIP_REACH = 22 + 65535  # the record itself and the comment behind it


@dataclass(frozen=True)
class Unpacked:
    """The content of an unpacked folder; `earlier` if an earlier call has unpacked it."""

    files: int
    size: int
    earlier: bool
    remarks: tuple[str, ...] = ()
    """What is odd about the names of the files."""


@dataclass(frozen=True)
class _Member:
    """A file of an archive, or a folder (`open` is None)."""

    name: str
    size: int
    open: Callable[[], IO[bytes]] | None
    garbled: bool = False
    """Whether the name is probably not what its author saw, because the archive does not say how it is encoded."""


def unpack(archive: Path, out: Path, *, max_bytes: int) -> Unpacked:
    """Unpack a zip or tar archive (compressed or not) to the folder `out`.

    Files are written to ``<out>.partial``, which is renamed to `out` at the end; the remains of an interrupted call are
    removed. An `out` that holds the complete content of this archive is left as it is.

    Args:
        archive: the file; its format is recognised by content, not by name.
        out: folder to write; it must be absent or empty, or hold what an earlier call unpacked from this archive.
        max_bytes: limit of the total size of the files.

    Raises:
        LavishError: the archive is damaged, holds anything but plain files and folders below `out`, or is too large, or
            `out` holds something else. Nothing is left behind.
    """
    if not archive.is_file():
        raise LavishError(f"{archive}: there is no such file")
    out = out.resolve()  # "." has no name to put ".partial" behind
    checksum = sha256_of(archive)
    if earlier := _earlier(out, archive, checksum):
        return earlier
    out.parent.mkdir(parents=True, exist_ok=True)
    limit = min(max_bytes, shutil.disk_usage(out.parent).free)
    with _partial_folder(out) as folder:
        sizes, remarks = _write_members(archive, folder, limit)
        mark = {"archive": archive.name, "sha256": checksum, "files": sizes, "remarks": remarks}
        (folder / MARK).write_text(json.dumps(mark, indent=0) + "\n", encoding="utf-8")
        folder.rename(out)  # over an empty folder at most
    return Unpacked(len(sizes), sum(sizes.values()), earlier=False, remarks=tuple(remarks))


def _earlier(out: Path, archive: Path, checksum: str) -> Unpacked | None:
    """Return what an earlier call unpacked to `out`; None if it is absent or empty."""
    if not out.exists():
        return None
    if not out.is_dir():
        raise LavishError(f"{out} is no folder: give another --out")
    if not any(out.iterdir()):
        return None
    try:
        mark = json.loads((out / MARK).read_text(encoding="utf-8"))
        sizes: dict[str, int] = dict(mark["files"])
        same = mark["sha256"] == checksum
    except (OSError, ValueError, KeyError, TypeError):
        raise LavishError(f"{out} holds other files, not an unpacked archive: give another --out") from None
    if not same:
        raise LavishError(
            f"{out} holds another archive ({mark.get('archive')}), not {archive.name}: give another --out"
        )
    changed = [name for name, size in sizes.items() if _size(out / name) != size]
    if changed:
        raise LavishError(
            f"{out}: {len(changed)} of the {len(sizes)} files of {archive.name} are gone or have another length "
            f"('{changed[0]}'): remove the folder and unpack again, or give another --out"
        )
    return Unpacked(len(sizes), sum(sizes.values()), earlier=True, remarks=tuple(mark.get("remarks", ())))


def _size(path: Path) -> int | None:
    try:
        return path.lstat().st_size
    except OSError:
        return None


@contextmanager
def _partial_folder(out: Path) -> Iterator[Path]:
    """Create and lock an empty folder beside `out`, and remove it at the end unless it was renamed."""
    folder = out.with_name(out.name + ".partial")
    lock = FileLock(out.with_name(f"{out.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise LavishError(f"another process is unpacking to {out}: wait for it to end") from None
    try:
        if folder.is_symlink() or folder.is_file():
            raise LavishError(f"{folder}: not a folder: remove it, or choose another --out")
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
        yield folder
    except OSError as error:
        raise LavishError(f"{folder}: {error.strerror}: remove it, or choose another --out") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _write_members(archive: Path, folder: Path, limit: int) -> tuple[dict[str, int], list[str]]:
    """Write all files of an archive to an empty folder; return their sizes by name, and remarks on the names."""
    sizes: dict[str, int] = {}
    garbled: list[str] = []
    total = 0
    member = None
    try:
        with _open(archive, folder) as members, tqdm(desc=archive.name, unit="B", unit_scale=True, disable=None) as bar:
            for number, member in enumerate(members):
                path = _safe_path(archive, member.name)
                total += member.size
                if total > limit or number >= MAX_MEMBERS:
                    raise LavishError(
                        f"{archive}: unpacks to more than {limit / 1e9:.1f} GB or {MAX_MEMBERS} entries: free some "
                        "room, or raise --max-gigabytes if the archive is meant to be that large"
                    )
                target = folder / path
                if member.open is None:
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with member.open() as source, target.open("xb") as copy:
                    shutil.copyfileobj(source, copy, _CHUNK)
                    written = copy.tell()
                if written != member.size:
                    raise LavishError(f"{archive}: '{member.name}' is cut off: get the archive again")
                sizes[str(path)] = written
                if member.garbled:
                    garbled.append(str(path))
                bar.update(written)
    except (FileExistsError, NotADirectoryError):
        assert member is not None
        raise LavishError(f"{archive}: '{member.name}' comes twice, or is both a file and a folder") from None
    except _DAMAGED as error:
        raise LavishError(f"{archive}: damaged archive ({error}): get it again") from None
    except UnicodeError:
        what = "a name" if member is None else repr(member.name)
        raise LavishError(f"{archive}: {what} is not valid text, or no valid name on this file system") from None
    except NotImplementedError as error:
        raise LavishError(
            f"{archive}: {_lower(error)}; the archive is not damaged: unpack it with unzip or 7z"
        ) from None
    except RuntimeError as error:  # what zipfile says of a compression that this Python was built without
        raise LavishError(f"{archive}: {error}") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise LavishError(f"{folder}: no room left: free some, or choose another --out") from None
        raise LavishError(f"{archive}: {error.strerror or error}") from None
    if not sizes:
        raise LavishError(f"{archive}: no file in it")
    return sizes, _remarks(sizes, garbled)


def _remarks(names: Iterable[str], garbled: list[str]) -> list[str]:
    remarks = []
    if garbled:
        remarks.append(
            f"{len(garbled)} names are not in the encoding that the archive implies and are probably garbled "
            f"(the first: {garbled[0]!r}): if so, unpack with `unzip -O ENCODING` or 7z"
        )
    forms = Counter(unicodedata.normalize("NFC", name) for name in names if not name.isascii())
    alike = [name for name, count in forms.items() if count > 1]
    if alike:
        remarks.append(
            f"{len(alike)} names occur in several Unicode forms that look the same (the first: {alike[0]!r})"
        )
    return remarks


def _lower(error: Exception) -> str:
    text = str(error)
    return text[:1].lower() + text[1:]


def _safe_path(archive: Path, name: str) -> PurePosixPath:
    """Return the path of a member below the folder; LavishError for a name that could leave it."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or path.parts[:1] == (MARK,):
        raise LavishError(
            f"{archive}: the entry {name!r} is not a path below the folder (an absolute path, '..', a backslash), or "
            f"has the name {MARK}, which unpacking needs: refused, nothing was unpacked; get the archive from its "
            "authors"
        )
    return path


@contextmanager
def _open(archive: Path, folder: Path) -> Iterator[Iterator[_Member]]:
    with archive.open("rb") as file:
        start = file.read(512)
    if start.startswith(_ZIP):
        if _is_part(archive, start):
            raise _a_part(archive)
        with zipfile.ZipFile(archive) as opened:
            yield _zip_members(archive, opened)
        return
    try:
        tar = tarfile.open(archive)  # noqa: SIM115
    except tarfile.ReadError:
        raise _no_archive(archive, start) from None
    with tar:
        yield _tar_members(archive, tar, folder)


def _no_archive(archive: Path, start: bytes) -> LavishError:
    if (download := instead_of_file(start)) is not None:
        return LavishError(f"{archive} is {download}")
    if _PART.search(archive.name) or _is_part(archive, start):
        return _a_part(archive)
    for signature, name in _OTHER_FORMATS.items():
        if start.startswith(signature):
            return LavishError(f"{archive}: the format {name} is not supported: unpack it with 7z")
    return LavishError(f"{archive}: neither a zip nor a tar archive")


def _a_part(archive: Path) -> LavishError:
    return LavishError(
        f"{archive} is a part of a split archive: put all parts into one folder and unpack them with 7z, or join "
        "them first (.zip.001, .zip.002, ...: `cat NAME.zip.* > NAME.zip`; .z01, ..., .zip: "
        "`zip -s 0 NAME.zip --out ONE.zip`)"
    )


def _is_part(archive: Path, start: bytes) -> bool:
    """Return whether a file is a part of a split zip archive, of which only the last has the record at its end."""
    if start.startswith(b"PK\x07\x08"):
        return True
    with archive.open("rb") as file:
        file.seek(max(0, archive.stat().st_size - _END_OF_ZIP_REACH))
        tail = file.read()
    end = tail.rfind(_END_OF_ZIP)
    if end < 0:
        return _PART.search(archive.name) is not None
    disk = int.from_bytes(tail[end + 4 : end + 6], "little")
    return disk not in (0, 0xFFFF)  # the latter stands for a number in the record of a large archive


def _zip_members(archive: Path, opened: zipfile.ZipFile) -> Iterator[_Member]:
    for info in opened.infolist():
        if not info.filename:
            raise zipfile.BadZipFile("an entry without a name")
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _no_plain_file(archive, info.filename)
        if info.flag_bits & 1:
            raise LavishError(f"{archive}: '{info.filename}' is encrypted: unpack it with unzip or 7z and its password")
        if info.is_dir():
            yield _Member(info.filename, 0, None)
        else:
            # zipfile reads names that are not marked as UTF-8 in the encoding of DOS: symbols mean that it is another.
            garbled = not info.flag_bits & 0x800 and not all(c.isascii() or c.isalpha() for c in info.filename)
            opener = _opener(opened.open, info)
            yield _Member(info.filename, info.file_size, opener, garbled or "\ufffd" in info.filename)


def _tar_members(archive: Path, opened: tarfile.TarFile, folder: Path) -> Iterator[_Member]:
    for info in opened:
        if not (info.isreg() or info.isdir()):
            raise _no_plain_file(archive, info.name)
        _safe_path(archive, info.name)  # refuses an absolute path, which the filter would only strip
        tarfile.data_filter(info, str(folder))
        if info.isdir():
            yield _Member(info.name, 0, None)
        else:
            garbled = any("\ud800" <= c <= "\udfff" or c == "\ufffd" for c in info.name)  # bytes that are not UTF-8
            yield _Member(info.name, info.size, _opener(opened.extractfile, info), garbled)
        opened.members = []  # type: ignore[attr-defined]  # keep no list of a million members in memory


def _opener(open_member: Any, info: Any) -> Callable[[], IO[bytes]]:
    return lambda: open_member(info)


def _no_plain_file(archive: Path, name: str) -> LavishError:
    return LavishError(
        f"{archive}: the entry '{name}' is a link or a device, not a file or a folder: refused, nothing was unpacked; "
        "get the archive from its authors"
    )
