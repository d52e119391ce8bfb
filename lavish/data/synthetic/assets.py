"""Asset libraries: the images and sounds of scenes, either procedural or from a folder.

Both are split by *instance*: no image or recording of one split occurs in another, so that test clips contain only
instances that were not in training.
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

from lavish.config.schema import SPLITS, FolderAssetsConfig, ProceduralAssetsConfig
from lavish.data.decoding.pictures import UNREADABLE, open_picture
from lavish.data.synthetic import procedural_images, procedural_sounds
from lavish.errors import LavishError, did_you_mean

_LEVEL = 0.1  # root mean square to which sounds are normalised
_IMAGE, _SOUND = 0, 1  # parts of seeds
_VARIATIONS = 64  # instances per file, each a different random augmentation
_MAX_SIDE = 256  # pixels, to which images from files are reduced
_HELD_OUT = 0.2  # fraction of a class's files for validation, and the same for the test


class AssetLibrary(Protocol):
    """Classes that can be seen and heard, and their instances."""

    classes: list[str]

    def count_images(self, class_index: int, split: str) -> int:
        """Return the number of images of a class in a split."""

    def count_sounds(self, class_index: int, split: str) -> int:
        """Return the number of sounds of a class in a split."""

    def image(self, class_index: int, split: str, instance: int) -> np.ndarray:
        """Return a cut-out, uint8 (h, w, 4) RGBA, cropped to its opaque part; must not be modified."""

    def sound(self, class_index: int, split: str, instance: int, sample_rate: int, seconds: float) -> np.ndarray:
        """Return a sound, float32 (round(seconds * sample_rate),) mono within [-1, 1], normalised in level."""


def open_library(
    assets: ProceduralAssetsConfig | FolderAssetsConfig,
    purpose: Literal["task", "pretraining"] = "task",
) -> AssetLibrary:
    """Return the library that a configuration describes."""
    if isinstance(assets, ProceduralAssetsConfig):
        return ProceduralAssets(assets, purpose)
    if purpose != "task":
        raise LavishError("assets.kind 'folder' has no separate classes for pretraining: use 'procedural'")
    return FolderAssets(assets)


class ProceduralAssets:
    """Images and sounds generated from a seed by :mod:`.procedural_images` and :mod:`.procedural_sounds`.

    Args:
        assets: numbers of instances per class and split, and the seed.
        purpose: "task" for the 8 classes of composed data, "pretraining" for 12 others.
    """

    def __init__(self, assets: ProceduralAssetsConfig, purpose: Literal["task", "pretraining"] = "task") -> None:
        pretraining = purpose == "pretraining"
        self.looks = procedural_images.PRETRAINING_LOOKS if pretraining else procedural_images.TASK_LOOKS
        self.families = list(procedural_sounds.PRETRAINING_FAMILIES if pretraining else procedural_sounds.TASK_FAMILIES)
        self.classes = [f"{look}, {family}" for look, family in zip(self.looks, self.families, strict=True)]
        self._instances = assets.instances.model_dump()
        self._seed = [assets.seed, pretraining]
        # Scenes for pretraining use the same few thousand images many times.
        self._cached_image = functools.lru_cache(maxsize=4096)(self._draw)

    def count_images(self, class_index: int, split: str) -> int:
        return self._instances[split]

    def count_sounds(self, class_index: int, split: str) -> int:
        return self._instances[split]

    def image(self, class_index: int, split: str, instance: int) -> np.ndarray:
        return self._cached_image(class_index, split, instance)

    def sound(self, class_index: int, split: str, instance: int, sample_rate: int, seconds: float) -> np.ndarray:
        rng = self._rng(_SOUND, class_index, split, instance)
        return _normalise_level(procedural_sounds.synthesise(rng, self.families[class_index], sample_rate, seconds))

    def _draw(self, class_index: int, split: str, instance: int) -> np.ndarray:
        image = procedural_images.draw(self._rng(_IMAGE, class_index, split, instance), self.looks[class_index])
        image.flags.writeable = False
        return image

    def _rng(self, kind: int, class_index: int, split: str, instance: int) -> np.random.Generator:
        _check_instance(instance, self._instances[split])
        return np.random.default_rng([*self._seed, kind, class_index, _split_number(split), instance])


class FolderAssets:
    """Images and sounds from files: ``root/<class>/images/*`` (with alpha) and ``root/<class>/sounds/*`` (any format).

    Every folder of `root` with `images` or `sounds` is a class; other entries are ignored. The files of a class are
    divided among the splits, at least one each. Files whose names differ only in a final letter after an underscore
    (``dog_a.png``, ``dog_b.png``) are variants of one original and stay together if there are enough originals. An
    instance is an augmented file: an image is mirrored, slightly rotated, stretched, brightened or darkened; of a
    recording, another part is played at a slightly different speed.

    Raises:
        LavishError: the folder does not exist, or has fewer than two classes, or a class has fewer than three images or
            sounds; later, when a file cannot be read or an image has no alpha channel.
    """

    def __init__(self, assets: FolderAssetsConfig) -> None:
        root = assets.root
        if not root.is_dir():
            raise LavishError(f"{root}: no such folder of assets: correct compose.assets.root")
        folders = [folder for folder in _entries(root) if (folder / "images").is_dir() or (folder / "sounds").is_dir()]
        if len(folders) < 2:
            raise LavishError(
                f"{root}: {len(folders)} classes instead of at least 2: give one folder per class, each with images/ "
                "and sounds/"
            )
        self.classes = [folder.name for folder in folders]
        self._images = [divide(folder, "images") for folder in folders]
        self._sounds = [divide(folder, "sounds") for folder in folders]
        self._cut_out = functools.cache(_read_image)
        # Imported here, because procedural assets need no decoder.
        from lavish.data.synthetic.recordings import read_recording

        self._recording = functools.cache(read_recording)

    def count_images(self, class_index: int, split: str) -> int:
        return _VARIATIONS * len(self._images[class_index][split])

    def count_sounds(self, class_index: int, split: str) -> int:
        return _VARIATIONS * len(self._sounds[class_index][split])

    def image(self, class_index: int, split: str, instance: int) -> np.ndarray:
        path, rng = self._variation(_IMAGE, self._images, class_index, split, instance)
        return _vary_image(rng, self._cut_out(path))

    def sound(self, class_index: int, split: str, instance: int, sample_rate: int, seconds: float) -> np.ndarray:
        from lavish.data.synthetic.recordings import part_of

        path, rng = self._variation(_SOUND, self._sounds, class_index, split, instance)
        recording = self._recording(path, sample_rate)
        return _normalise_level(part_of(rng, recording, sample_rate, round(seconds * sample_rate)))

    def _variation(
        self, kind: int, files: Sequence[dict[str, list[Path]]], class_index: int, split: str, instance: int
    ) -> tuple[Path, np.random.Generator]:
        paths = files[class_index][split]
        _check_instance(instance, _VARIATIONS * len(paths))
        seed = [kind, class_index, _split_number(split), instance]
        return paths[instance % len(paths)], np.random.default_rng(seed)


def divide(folder: Path, kind: str) -> dict[str, list[Path]]:
    """Return the files of one class and kind ("images", "sounds") per split; the order depends only on the names."""
    files = [path for path in _entries(folder / kind) if path.is_file()] if (folder / kind).is_dir() else []
    if len(files) < len(SPLITS):
        raise LavishError(
            f"{folder / kind}: {len(files)} files, but every split needs at least one: give at least {len(SPLITS)}"
        )
    originals: dict[str, list[Path]] = {}
    for path in files:
        originals.setdefault(re.sub(r"_[a-z]$", "", path.stem), []).append(path)
    groups = list(originals.values()) if len(originals) >= len(SPLITS) else [[path] for path in files]
    # Ordered by a hash: names often indicate the origin, so in their order the splits would differ in style.
    groups.sort(key=lambda group: hashlib.sha256(f"{folder.name}/{kind}/{group[0].name}".encode()).digest())
    held_out = max(1, round(_HELD_OUT * len(groups)))
    parts = {"val": groups[:held_out], "test": groups[held_out : 2 * held_out], "train": groups[2 * held_out :]}
    return {split: [path for group in parts[split] for path in group] for split in SPLITS}


def asset_files(root: Path) -> list[Path]:
    """Return the images and sounds of a folder of assets; other files in it are not read."""
    kinds = [folder / kind for folder in _entries(root) for kind in ("images", "sounds")]
    return [path for kind in kinds if kind.is_dir() for path in _entries(kind) if path.is_file()]


def _entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _read_image(path: Path) -> Image.Image:
    """Return a cut-out cropped to its visible part, with premultiplied alpha (mode RGBa) for resampling."""
    try:
        picture = open_picture(path)
        transparent = picture.has_transparency_data
        image = picture.convert("RGBA")
    except UNREADABLE as error:
        raise LavishError(f"{path}: not a readable image ({error}): replace or remove the file") from None
    box = image.getchannel("A").point(lambda alpha: 255 * (alpha > 8)).getbbox()
    if not transparent or box is None:
        problem = "completely transparent" if transparent else "no alpha channel"
        raise LavishError(f"{path}: {problem}: give a cut-out, the object on a transparent background")
    premultiplied = image.crop(box).convert("RGBa")
    premultiplied.thumbnail((_MAX_SIDE, _MAX_SIDE))
    return premultiplied


def _vary_image(rng: np.random.Generator, image: Image.Image) -> np.ndarray:
    if rng.uniform() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    stretch = np.sqrt(rng.uniform(0.85, 1.18))
    width, height = max(1, round(image.width * stretch)), max(1, round(image.height / stretch))
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    image = image.rotate(rng.uniform(-15, 15), Image.Resampling.BILINEAR, expand=True)
    image = image.crop(image.getchannel("a").getbbox())
    varied = np.array(image.convert("RGBA"))
    # A gamma curve rather than a factor, which leaves black and white unchanged.
    curve = np.rint(255 * (np.arange(256) / 255) ** rng.uniform(0.75, 1.3)).astype(np.uint8)
    varied[..., :3] = curve[varied[..., :3]]
    return varied


def _normalise_level(sound: np.ndarray) -> np.ndarray:
    """Return the sound at the common level, or quieter if its peak would otherwise leave [-1, 1]."""
    level, peak = np.sqrt(np.mean(np.square(sound))), np.abs(sound).max(initial=0.0)
    return (sound * min(_LEVEL / max(level, 1e-9), 1 / max(peak, 1e-9))).astype(np.float32)


def _split_number(split: str) -> int:
    if split not in SPLITS:
        raise LavishError(f"unknown split '{split}'{did_you_mean(split, SPLITS)}")
    return SPLITS.index(split)


def _check_instance(instance: int, count: int) -> None:
    if not 0 <= instance < count:
        raise IndexError(f"instance {instance} of {count}")
