"""Where scenes take their pictures and sounds from: drawn and synthesised ones, or a folder of real ones.

Both are split by *instance*: no picture and no recording of one split occurs in another one, so a test clip shows and
plays things that were never trained on.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from PIL import Image

from lavish.config import schema as configuration
from lavish.config.schema import SPLITS
from lavish.data.synthetic import procedural_pictures, procedural_sounds
from lavish.errors import LavishError, did_you_mean

_LEVEL = 0.1  # root mean square that every sound is brought to
_PICTURE, _SOUND = 0, 1  # parts of seeds
_VARIATIONS = 64  # instances drawn from one file, each turned, stretched, mirrored or cut otherwise
_MAX_PICTURE = 256  # pixels a side that pictures from files are held at
_SHARE = 0.2  # of a class' files for validation, and as many for the test


class AssetLibrary(Protocol):
    """Classes of things that can be seen and heard, and their instances."""

    classes: list[str]

    def pictures(self, class_index: int, split: str) -> int:
        """Return how many pictures a class has in a split."""

    def sounds(self, class_index: int, split: str) -> int:
        """Return how many sounds a class has in a split."""

    def picture(self, class_index: int, split: str, instance: int) -> np.ndarray:
        """Return a cut-out, uint8 (h, w, 4) RGBA, cropped to what is not transparent; not to be written to."""

    def sound(self, class_index: int, split: str, instance: int, sample_rate: int, seconds: float) -> np.ndarray:
        """Return a sound, float32 (round(seconds * sample_rate),) mono within [-1, 1], all of about the same level."""


def open_library(
    assets: configuration.ProceduralAssetsConfig | configuration.FolderAssetsConfig,
    purpose: Literal["task", "pretraining"] = "task",
) -> AssetLibrary:
    """Return the library that a configuration describes."""
    if isinstance(assets, configuration.ProceduralAssetsConfig):
        return ProceduralAssets(assets, purpose)
    if purpose != "task":
        raise LavishError("assets.kind 'folder' has no other classes to pretrain on: use 'procedural'")
    return FolderAssets(assets)


class ProceduralAssets:
    """Pictures and sounds drawn and synthesised from a seed; see the modules `procedural_pictures` and `_sounds`.

    Args:
        assets: numbers of instances per class and split, and the seed.
        purpose: "task" for the 8 classes of composed data, "pretraining" for 12 others.
    """

    def __init__(
        self, assets: configuration.ProceduralAssetsConfig, purpose: Literal["task", "pretraining"] = "task"
    ) -> None:
        pretraining = purpose == "pretraining"
        self.looks = procedural_pictures.PRETRAINING_LOOKS if pretraining else procedural_pictures.TASK_LOOKS
        self.families = list(procedural_sounds.PRETRAINING_FAMILIES if pretraining else procedural_sounds.TASK_FAMILIES)
        self.classes = [f"{look}, {family}" for look, family in zip(self.looks, self.families, strict=True)]
        self._instances = assets.instances.model_dump()
        self._seed = [assets.seed, pretraining]
        # Scenes to pretrain on show the same few thousand pictures again and again.
        self._drawn = functools.lru_cache(maxsize=4096)(self._draw)

    def pictures(self, class_index: int, split: str) -> int:
        return self._instances[split]

    def sounds(self, class_index: int, split: str) -> int:
        return self._instances[split]

    def picture(self, class_index: int, split: str, instance: int) -> np.ndarray:
        return self._drawn(class_index, split, instance)

    def sound(self, class_index: int, split: str, instance: int, sample_rate: int, seconds: float) -> np.ndarray:
        rng = self._rng(_SOUND, class_index, split, instance)
        return _levelled(procedural_sounds.synthesise(rng, self.families[class_index], sample_rate, seconds))

    def _draw(self, class_index: int, split: str, instance: int) -> np.ndarray:
        picture = procedural_pictures.draw(self._rng(_PICTURE, class_index, split, instance), self.looks[class_index])
        picture.flags.writeable = False
        return picture

    def _rng(self, kind: int, class_index: int, split: str, instance: int) -> np.random.Generator:
        _check_instance(instance, self._instances[split])
        return np.random.default_rng([*self._seed, kind, class_index, _split_number(split), instance])


class FolderAssets:
    """Real pictures and sounds: ``root/<class>/images/*`` (with alpha) and ``root/<class>/sounds/*`` (any format).

    Every folder of `root` with either of the two is a class; anything else is left alone. The files of a class are
    divided among the splits, at least one each. Files whose names differ only in a last letter after an underscore
    (``dog_a.png``, ``dog_b.png``) are variants of one thing and stay together where there are enough others. An
    instance is a variation of a file: mirrored, slightly turned, stretched, brighter or darker; another part of a
    recording at a slightly other speed.

    Raises:
        LavishError: there is no such folder, or it holds fewer than two classes, or a class fewer than three images or
            sounds; later, a file cannot be read, or a picture has no transparent part.
    """

    def __init__(self, assets: configuration.FolderAssetsConfig) -> None:
        root = assets.root
        if not root.is_dir():
            raise LavishError(f"{root}: there is no such folder of assets: correct compose.assets.root")
        folders = [folder for folder in _entries(root) if (folder / "images").is_dir() or (folder / "sounds").is_dir()]
        if len(folders) < 2:
            raise LavishError(
                f"{root}: {len(folders)} classes, at least 2 are needed: give one folder per class, each with images/ "
                "and sounds/"
            )
        self.classes = [folder.name for folder in folders]
        self._images = [divide(folder, "images") for folder in folders]
        self._sounds = [divide(folder, "sounds") for folder in folders]
        self._cut_out = functools.cache(_read_picture)
        # Imported by whoever reads recordings: pictures alone need no decoder.
        from lavish.data.synthetic.recordings import read_recording

        self._recording = functools.cache(read_recording)

    def pictures(self, class_index: int, split: str) -> int:
        return _VARIATIONS * len(self._images[class_index][split])

    def sounds(self, class_index: int, split: str) -> int:
        return _VARIATIONS * len(self._sounds[class_index][split])

    def picture(self, class_index: int, split: str, instance: int) -> np.ndarray:
        path, rng = self._variation(_PICTURE, self._images, class_index, split, instance)
        return _varied_picture(rng, self._cut_out(path))

    def sound(self, class_index: int, split: str, instance: int, sample_rate: int, seconds: float) -> np.ndarray:
        from lavish.data.synthetic.recordings import part_of

        path, rng = self._variation(_SOUND, self._sounds, class_index, split, instance)
        recording = self._recording(path, sample_rate)
        return _levelled(part_of(rng, recording, sample_rate, round(seconds * sample_rate)))

    def _variation(
        self, kind: int, files: Sequence[dict[str, list[Path]]], class_index: int, split: str, instance: int
    ) -> tuple[Path, np.random.Generator]:
        paths = files[class_index][split]
        _check_instance(instance, _VARIATIONS * len(paths))
        seed = [kind, class_index, _split_number(split), instance]
        return paths[instance % len(paths)], np.random.default_rng(seed)


def divide(folder: Path, kind: str) -> dict[str, list[Path]]:
    """Return the files of one class and kind ("images", "sounds") per split, in an order that only names decide."""
    files = [path for path in _entries(folder / kind) if path.is_file()] if (folder / kind).is_dir() else []
    if len(files) < len(SPLITS):
        raise LavishError(
            f"{folder / kind}: {len(files)} files, but every split needs one of its own: give at least {len(SPLITS)}"
        )
    things: dict[str, list[Path]] = {}
    for path in files:
        things.setdefault(re.sub(r"_[a-z]$", "", path.stem), []).append(path)
    groups = list(things.values()) if len(things) >= len(SPLITS) else [[path] for path in files]
    # Names tell where files came from: in their order, each split would get another style.
    groups.sort(key=lambda group: hashlib.sha256(f"{folder.name}/{kind}/{group[0].name}".encode()).digest())
    held_out = max(1, round(_SHARE * len(groups)))
    parts = {"val": groups[:held_out], "test": groups[held_out : 2 * held_out], "train": groups[2 * held_out :]}
    return {split: [path for group in parts[split] for path in group] for split in SPLITS}


def _entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _read_picture(path: Path) -> Image.Image:
    """Return a cut-out cropped to what can be seen, its colours multiplied by alpha (mode RGBa) for resampling."""
    try:
        with Image.open(path) as file:
            file.load()
            transparent = "A" in file.getbands() or "transparency" in file.info
            picture = file.convert("RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise LavishError(f"{path}: not a readable picture ({error}): replace or remove the file") from None
    box = picture.getchannel("A").point(lambda alpha: 255 * (alpha > 8)).getbbox()
    if not transparent or box is None:
        found = "nothing but transparency" if transparent else "no alpha channel"
        raise LavishError(f"{path}: {found}: give a cut-out, the object on a transparent background")
    premultiplied = picture.crop(box).convert("RGBa")
    premultiplied.thumbnail((_MAX_PICTURE, _MAX_PICTURE))
    return premultiplied


def _varied_picture(rng: np.random.Generator, picture: Image.Image) -> np.ndarray:
    if rng.uniform() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    stretch = np.sqrt(rng.uniform(0.85, 1.18))
    width, height = max(1, round(picture.width * stretch)), max(1, round(picture.height / stretch))
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    picture = picture.rotate(rng.uniform(-15, 15), Image.Resampling.BILINEAR, expand=True)
    picture = picture.crop(picture.getchannel("a").getbbox())
    varied = np.array(picture.convert("RGBA"))
    # A curve instead of a factor: black and white stay what they are.
    curve = np.rint(255 * (np.arange(256) / 255) ** rng.uniform(0.75, 1.3)).astype(np.uint8)
    varied[..., :3] = curve[varied[..., :3]]
    return varied


def _levelled(sound: np.ndarray) -> np.ndarray:
    """Return the sound at the common level; a peak that would leave [-1, 1] brings all of it down."""
    level, peak = np.sqrt(np.mean(np.square(sound))), np.abs(sound).max(initial=0.0)
    return (sound * min(_LEVEL / max(level, 1e-9), 1 / max(peak, 1e-9))).astype(np.float32)


def _split_number(split: str) -> int:
    if split not in SPLITS:
        raise LavishError(f"unknown split '{split}'{did_you_mean(split, SPLITS)}")
    return SPLITS.index(split)


def _check_instance(instance: int, count: int) -> None:
    if not 0 <= instance < count:
        raise IndexError(f"instance {instance} of {count}")
