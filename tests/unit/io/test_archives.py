"""Unpacking: what is refused, that nothing is written outside or left behind, and what is recognised as done."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lavish.cli.main import main
from lavish.errors import LavishError
from lavish.io import archives
from lavish.io.archives import unpack

FILES = {"AVE/-a.mp4": b"video" * 1000, "trainSet.txt": b"Bus&-a&good&0&10\n"}
GIGABYTE = 10**9


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a neighbour that no archive may reach."""
    (tmp_path / "work").mkdir()
    (tmp_path / "precious.txt").write_text("mine")
    return tmp_path / "work"


def zipped(path: Path, files: dict[str, bytes], change: Callable[[zipfile.ZipInfo], None] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            if change:
                change(info)
            archive.writestr(info, content)
    return path


def tarred(path: Path, *members: tarfile.TarInfo, files: dict[str, bytes] | None = None, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in (files or {}).items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for member in members:
            archive.addfile(member)
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != archives.MARK
    }


def refused(archive: Path, out: Path, message: str, max_bytes: int = GIGABYTE) -> None:
    """Check that an archive is refused and that the whole neighbourhood is as it was."""
    around = archive.parent.parent
    before = sorted(around.rglob("*"))
    with pytest.raises(LavishError, match=message) as caught:
        unpack(archive, out, max_bytes=max_bytes)
    assert str(archive) in str(caught.value) or str(out) in str(caught.value)
    assert sorted(around.rglob("*")) == before
    assert (around / "precious.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("suffix", "mode"), [("tar", "w"), ("tar.gz", "w:gz"), ("tar.bz2", "w:bz2"), ("tar.xz", "w:xz")]
)
def test_tar_archives_are_unpacked_whatever_their_compression(place: Path, suffix: str, mode: str) -> None:
    done = unpack(tarred(place / f"a.{suffix}", files=FILES, mode=mode), place / "out", max_bytes=GIGABYTE)
    assert contents(place / "out") == FILES
    assert (done.files, done.size, done.earlier) == (2, sum(map(len, FILES.values())), False)


def test_zip_archives_with_folders_are_unpacked_and_unpacked_once(place: Path) -> None:
    archive = zipped(place / "a.zip", {"AVE/": b"", **FILES})
    unpack(archive, place / "deep/out", max_bytes=GIGABYTE)
    assert contents(place / "deep/out") == FILES
    written = (place / "deep/out/trainSet.txt").stat().st_mtime_ns
    assert unpack(archive, place / "deep/out", max_bytes=GIGABYTE).earlier
    assert (place / "deep/out/trainSet.txt").stat().st_mtime_ns == written
    assert [path.name for path in (place / "deep").iterdir()] == ["out"]


@pytest.mark.parametrize(
    "name",
    [
        "../precious.txt",
        "a/../../precious.txt",
        "/tmp/lavish-escaped.txt",
        "..\\precious.txt",
        ".unpacked.json",
        ".unpacked.json/x",
        "./.unpacked.json/x",
    ],
)
def test_names_that_leave_the_folder_are_refused(place: Path, name: str) -> None:
    refused(zipped(place / "a.zip", {**FILES, name: b"evil"}), place / "out", "is not a path below the folder")
    refused(tarred(place / "a.tar", files={**FILES, name: b"evil"}), place / "out", "is not a path below")
    assert not Path("/tmp/lavish-escaped.txt").exists()


@pytest.mark.parametrize(
    "member",
    [
        special("link", tarfile.SYMTYPE, "../precious.txt"),
        special("link", tarfile.SYMTYPE, "trainSet.txt"),
        special("link", tarfile.LNKTYPE, "../precious.txt"),
        special("device", tarfile.CHRTYPE),
        special("pipe", tarfile.FIFOTYPE),
    ],
    ids=["symbolic link out", "symbolic link within", "hard link out", "device", "pipe"],
)
def test_links_and_devices_are_refused(place: Path, member: tarfile.TarInfo) -> None:
    refused(tarred(place / "a.tar", member, files=FILES), place / "out", "is a link or a device")


def test_a_file_behind_a_link_is_refused(place: Path) -> None:
    archive = place / "a.tar"
    with tarfile.open(archive, "w") as opened:
        opened.addfile(special("link", tarfile.SYMTYPE, ".."))
        info = tarfile.TarInfo("link/precious.txt")
        info.size = 4
        opened.addfile(info, io.BytesIO(b"evil"))
    refused(archive, place / "out", "is a link or a device")


def test_a_link_in_a_zip_is_refused(place: Path) -> None:
    def as_link(info: zipfile.ZipInfo) -> None:
        info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16

    refused(zipped(place / "a.zip", {"link": b"../precious.txt"}, as_link), place / "out", "is a link or a device")


def test_what_unpacks_to_too_much_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = {"small": b"1", "zeros": bytes(10**6)}
    refused(zipped(place / "a.zip", bomb), place / "out", "--max-gigabytes", max_bytes=10**6)
    refused(tarred(place / "a.tar.gz", files=bomb, mode="w:gz"), place / "out", "--max-gigabytes", max_bytes=10**6)
    monkeypatch.setattr(archives, "MAX_MEMBERS", 1)
    refused(place / "a.zip", place / "out", "or 1 entries")


def test_damaged_cut_off_and_other_files_are_refused(place: Path) -> None:
    whole = zipped(place / "a.zip", FILES).read_bytes()
    (place / "a.zip").write_bytes(whole[:-30])
    refused(place / "a.zip", place / "out", "damaged archive")
    changed = bytearray(whole)
    changed[60] ^= 255
    (place / "a.zip").write_bytes(changed)
    refused(place / "a.zip", place / "out", "damaged archive")
    whole = tarred(place / "a.tar.gz", files={"noise": os.urandom(50_000)}, mode="w:gz").read_bytes()
    (place / "a.tar.gz").write_bytes(whole[:20_000])
    refused(place / "a.tar.gz", place / "out", "damaged archive|is cut off")
    (place / "page.zip").write_text("<html>not found</html>")
    refused(place / "page.zip", place / "out", "page.zip is a web page, not the file itself")
    (place / "pointer.tar").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 7\n")
    refused(place / "pointer.tar", place / "out", "pointer.tar is a git-lfs pointer, .* `git lfs pull`")
    (place / "a.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(600))
    refused(place / "a.7z", place / "out", "the format 7z is not supported: unpack it with 7z")
    (place / "noise.zip").write_bytes(bytes(range(256)) * 8)
    refused(place / "noise.zip", place / "out", "neither a zip nor a tar archive")
    refused(tarred(place / "empty.tar"), place / "out", "no file in it")
    refused(tarred(place / "twice.tar", files={"a": b"1", "a/b": b"2"}), place / "out", "comes twice")
    refused(place / "absent.zip", place / "out", "no such file")


def test_an_entry_without_a_name_is_damage(place: Path) -> None:
    zipped(place / "a.zip", FILES, lambda info: setattr(info, "filename", ""))
    refused(place / "a.zip", place / "out", "damaged archive .an entry without a name")


def test_a_header_that_asks_for_more_memory_than_there_is_is_damage(place: Path, monkeypatch) -> None:
    zipped(place / "a.zip", FILES)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_, **__: (_ for _ in ()).throw(MemoryError))
    refused(place / "a.zip", place / "out", "damaged archive")


def test_a_compression_that_is_not_supported_is_no_damage(place: Path) -> None:
    archive = zipped(place / "a.zip", FILES)
    content = archive.read_bytes()
    local, central = content.index(b"PK\x03\x04"), content.index(b"PK\x01\x02")
    changed = bytearray(content)
    changed[local + 8] = changed[central + 10] = 9  # deflate64
    archive.write_bytes(changed)
    refused(archive, place / "out", "compression method is not supported; the archive is not damaged: .* unzip or 7z")


def test_the_deflate64_archive_of_the_cases_is_no_damage(shared: Path, place: Path) -> None:
    case = shared / "cases/deflate64_zip/d64.zip"
    if not case.is_file():
        pytest.skip(f"no {case}")
    with pytest.raises(LavishError, match="not supported; the archive is not damaged"):
        unpack(case, place / "out", max_bytes=GIGABYTE)


def test_an_encrypted_archive_is_named(place: Path) -> None:
    archive = zipped(place / "a.zip", FILES)
    changed = bytearray(archive.read_bytes())
    changed[changed.index(b"PK\x03\x04") + 6] |= 1
    changed[changed.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(changed)
    refused(archive, place / "out", "'AVE/-a.mp4' is encrypted: unpack it with unzip or 7z and its password")


def test_parts_of_a_split_archive_are_named(place: Path) -> None:
    whole = zipped(place / "whole.zip", {"noise": os.urandom(9000)}).read_bytes()
    for name, content in {
        "a.zip.001": whole[:5000],
        "a.zip.002": whole[5000:],
        "a.z01": b"PK\x07\x08" + whole[:5000],
    }.items():
        (place / name).write_bytes(content)
        refused(place / name, place / "out", rf"{name} is a part of a split archive: .* 7z, or join")
    last = bytearray(whole)
    last[last.rindex(b"PK\x05\x06") + 4] = 1  # number of this disk
    (place / "a.zip").write_bytes(last)
    refused(place / "a.zip", place / "out", "is a part of a split archive")
    (place / "a.zip").write_bytes(last[5000:])
    refused(place / "a.zip", place / "out", "is a part of a split archive")


def unmarked(archive: Path) -> Path:
    """Take the marks that the names are UTF-8 from a zip archive."""
    content = bytearray(archive.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 7), (b"PK\x01\x02", 9)):
        at = content.find(signature)
        while at >= 0:
            content[at + flags] &= ~8 & 255
            at = content.find(signature, at + 4)
    archive.write_bytes(content)
    return archive


def test_garbled_names_are_reported(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {"plain.txt": b"1", "n\u00e9.txt": b"2", "\u732b.txt": b"3"}
    assert not unpack(zipped(place / "good.zip", files), place / "good", max_bytes=GIGABYTE).remarks
    archive = unmarked(zipped(place / "a.zip", files))
    for _ in range(2):  # a later call that has nothing to do says it again
        assert main(["data", "unpack", str(archive), "--out", str(place / "out")]) == 0
        assert "remark: 2 names are not in the encoding that the archive implies" in capsys.readouterr().out
    archive = tarred(place / "a.tar", files={b"n\xe9.txt".decode(errors="surrogateescape"): b"1"})
    assert "1 names are not in the encoding" in unpack(archive, place / "tar", max_bytes=GIGABYTE).remarks[0]


def test_a_name_in_the_encoding_of_dos_is_no_remark(place: Path) -> None:
    archive = zipped(place / "a.zip", {"nXX.txt": b"1"})
    archive.write_bytes(archive.read_bytes().replace(b"nXX", b"n\x82\x81"))
    assert not unpack(archive, place / "out", max_bytes=GIGABYTE).remarks
    assert contents(place / "out") == {"n\u00e9\u00fc.txt": b"1"}


def test_names_that_look_the_same_are_reported(place: Path) -> None:
    archive = zipped(place / "a.zip", {"\u00e9.txt": b"1", "e\u0301.txt": b"2"})
    remarks = unpack(archive, place / "out", max_bytes=GIGABYTE).remarks
    assert remarks == ("1 names occur in several Unicode forms that look the same (the first: '\u00e9.txt')",)


def test_a_name_that_is_not_the_utf8_it_claims_to_be_is_one_message(place: Path) -> None:
    archive = zipped(place / "a.zip", {"n\u00e9.txt": b"2"})
    archive.write_bytes(archive.read_bytes().replace("\u00e9".encode(), b"\xe9\xe9"))
    refused(archive, place / "out", "a name is not valid text")


def test_what_an_interrupted_call_left_is_not_trusted(place: Path) -> None:
    (place / "out.partial/AVE").mkdir(parents=True)
    (place / "out.partial/AVE/-a.mp4").write_bytes(b"half")
    (place / "out.partial/stranger").symlink_to(place.parent / "precious.txt")
    unpack(zipped(place / "a.zip", FILES), place / "out", max_bytes=GIGABYTE)
    assert contents(place / "out") == FILES
    assert not (place / "out.partial").exists()
    assert (place.parent / "precious.txt").read_text() == "mine"


def test_a_folder_with_something_else_is_left_alone(place: Path) -> None:
    archive, out = zipped(place / "a.zip", FILES), place / "out"
    out.mkdir()
    unpack(archive, out, max_bytes=GIGABYTE)  # an empty folder is as good as none
    refused(zipped(place / "b.zip", {"other": b"1"}), out, r"holds another archive \(a\.zip\)")
    (out / "AVE/-a.mp4").write_bytes(b"short")
    refused(archive, out, r"1 of the 2 files of a\.zip are gone or have another length \('AVE/-a\.mp4'\)")
    (out / archives.MARK).unlink()
    refused(archive, out, "holds other files")
    refused(archive, place / "b.zip", "is no folder")


def test_the_command_says_what_it_did(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = zipped(place / "a.zip", FILES)
    arguments = ["data", "unpack", str(archive), "--out", str(place / "out")]
    assert main(arguments) == 0
    assert "2 files, 0.0 MB, unpacked" in capsys.readouterr().out
    assert main(arguments) == 0
    assert "already unpacked" in capsys.readouterr().out
    assert main(["data", "unpack", str(zipped(place / "b.zip", {"../x": b""})), "--out", str(place / "b")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("lavish data unpack: ")
    assert error.count("\n") == 1
