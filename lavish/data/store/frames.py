"""Frames as pictures: each a JPEG or WebP of its own, one after the other in shards, read by an index.

Pictures are written by Pillow and read by torchvision, which gives the same pixels as Pillow in less time.
"""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from lavish.errors import LavishError

SHARD_BYTES = 256 * 2**20
"""A shard is not longer, unless a single clip is."""
INDEX = "frame_index.npy"
INDEX_TYPE = np.dtype([("shard", "<u4"), ("offset", "<u8"), ("length", "<u4")])
PICTURES = "pictures"
"""Folder of an unfinished preparation: a file for each clip, its pictures one after the other."""
REMEDY = "prepare the split again (lavish prepare)"


def shard_name(number: int) -> str:
    """Return the name of a shard."""
    return f"frames-{number:05d}.bin"


def is_shard(name: str) -> bool:
    """Return whether `name` is that of a shard."""
    return re.fullmatch(r"frames-\d{5,}\.bin", name) is not None


def encode(frame: np.ndarray, form: str, quality: int) -> bytes:
    """Return a frame, uint8 (H, W, 3), as a picture."""
    from PIL import Image

    picture = io.BytesIO()
    Image.fromarray(frame).save(picture, form, quality=quality)
    return picture.getvalue()


def decode(picture: bytes | np.ndarray, form: str) -> np.ndarray:
    """Return the frame, uint8 (H, W, 3), of a picture; what the decoder raises if it cannot be decoded."""
    # The command that prepares decodes in worker processes only, and starts faster without these.
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg, decode_webp

    content = torch.from_numpy(np.frombuffer(picture, np.uint8).copy())
    decoder = decode_jpeg if form == "jpeg" else decode_webp
    return decoder(content, mode=ImageReadMode.RGB).numpy().transpose(1, 2, 0)


def write_pictures(file: Path, frames: np.ndarray, form: str, quality: int) -> tuple[list[int], np.ndarray]:
    """Write frames (segments, H, W, 3) one after the other; return the lengths, and the frames as they will be read.

    Raises:
        LavishError: the file cannot be written.
    """
    pictures = [encode(frame, form, quality) for frame in frames]
    try:
        file.write_bytes(b"".join(pictures))
    except OSError as error:
        raise LavishError(
            f"{file}: {(error.strerror or str(error)).lower()}: free some room, or choose another --out; "
            "finished clips are kept"
        ) from None
    return [len(picture) for picture in pictures], np.stack([decode(picture, form) for picture in pictures])


def pack(folder: Path, lengths: Mapping[int, Sequence[int]]) -> list[str]:
    """Write the shards and their index from the files of clips, in the order of `lengths`; return the files' names."""
    for path in folder.iterdir():
        if is_shard(path.name):  # left by an interruption
            path.unlink()
    index = np.zeros((len(lengths), len(next(iter(lengths.values())))), INDEX_TYPE)
    shard = offset = 0
    for entries, (clip, sizes) in zip(index, lengths.items(), strict=True):
        if offset and offset + sum(sizes) > SHARD_BYTES:
            shard, offset = shard + 1, 0
        entries["shard"], entries["length"] = shard, sizes
        entries["offset"] = offset + np.cumsum([0, *sizes[:-1]])
        with (folder / PICTURES / str(clip)).open("rb") as source, (folder / shard_name(shard)).open("ab") as target:
            shutil.copyfileobj(source, target)
        offset += sum(sizes)
    np.save(folder / INDEX, index)
    return [INDEX, *map(shard_name, range(shard + 1))]


class CompressedFrames:
    """Frames uint8 (clips, segments, H, W, 3) that are decoded when they are read.

    They are read as from an array, but by clip, or by clip and segment, only: by numbers, slices or arrays of numbers.

    Args:
        folder: of the store.
        form: jpeg or webp.
        size: height and width of a frame, pixels.
        index: (clips, segments), of type `INDEX_TYPE`.
        sizes: of the shards, bytes.
        threads: how many frames are decoded at once.

    Raises:
        LavishError: the index has other entries, or points outside the shards; or the first frame cannot be read.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        folder: Path,
        form: str,
        size: int,
        index: np.ndarray,
        sizes: Sequence[int],
        threads: int,
    ) -> None:
        if index.dtype != INDEX_TYPE or index.ndim != 2:
            raise LavishError(f"{folder / INDEX}: {index.dtype} {index.shape} is no index of the frames: {REMEDY}")
        self.shape = (*index.shape, size, size, 3)
        self._folder, self._form, self._index, self._threads = folder, form, index, threads
        self._shards: dict[int, np.ndarray] = {}
        ends = np.array([*sizes, 0], np.uint64)[np.minimum(index["shard"], len(sizes))]
        outside = (index["offset"] > ends) | (index["length"] > ends - np.minimum(index["offset"], ends))
        if outside.any():
            clip, segment = np.argwhere(outside)[0]
            raise LavishError(f"{folder / INDEX}: frame {segment} of clip {clip} lies outside the shards: {REMEDY}")
        if index.size:
            self._read(*index.flat[0])  # room is made for frames of `size` before the others are read

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        entries = np.asarray(self._index[key])
        frames = np.empty((entries.size, *self.shape[2:]), self.dtype)

        def read(number: int) -> None:
            frames[number] = self._read(*entries.flat[number])

        if self._threads > 1:
            # The decoders release the interpreter's lock.
            with ThreadPoolExecutor(self._threads) as pool:
                list(pool.map(read, range(len(frames))))
        else:
            for number in range(len(frames)):
                read(number)
        return frames.reshape(*entries.shape, *self.shape[2:])

    def _read(self, shard: int, offset: int, length: int) -> np.ndarray:
        path = self._folder / shard_name(shard)
        if shard not in self._shards:
            self._shards[shard] = np.memmap(path, np.uint8, "r")
        try:
            frame = decode(self._shards[shard][offset : offset + length], self._form)
        except Exception as error:  # what decoders raise of damaged pictures has no end
            raise LavishError(f"{path}: the picture at byte {offset} cannot be decoded ({error}): {REMEDY}") from None
        if frame.shape != self.shape[2:]:
            raise LavishError(f"{path}: the picture at byte {offset} has another size: {REMEDY}")
        return frame
