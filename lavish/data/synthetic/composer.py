"""The composer: creates a data set in an official layout from assets; it is then read like a real one.

A module per format (:class:`Layout`) samples the content of a clip (:class:`lavish.data.synthetic.scene_graph.Scene`)
and writes its media, which :mod:`lavish.data.synthetic.rendering` renders.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from tqdm import tqdm

from lavish.config.hashing import canonical_json
from lavish.config.schema import SPLITS, ComposeConfig, CompositionConfig, FolderAssetsConfig
from lavish.data.synthetic.assets import AssetLibrary, asset_files, open_library
from lavish.data.synthetic.rendering import RenderSettings
from lavish.data.synthetic.scene_graph import Scene
from lavish.errors import LavishError, did_you_mean
from lavish.io.atomic import write_bytes, write_text
from lavish.io.fingerprint import fingerprint
from lavish.runtime.workers import open_pool

# Of the contents of the clips; increased when composing changes, so that unfinished work of older code is not resumed.
_VERSION = 1
_MODULES = {
    "actions": "lavish.data.synthetic.layouts.actions",
    "ave": "lavish.data.synthetic.layouts.ave",
    "avsbench_s4": "lavish.data.synthetic.layouts.avsbench_s4",
    "avsbench_ms3": "lavish.data.synthetic.layouts.avsbench_ms3",
    "music_avqa": "lavish.data.synthetic.layouts.music_avqa",
}
_MARKER = "composition.json"
_CHUNK = 8  # clips per task of a worker
# Keys of `data.compose` that all layouts read. The others are read only by the layouts that list them in `OPTIONS`.
_COMMON = ("assets", "clips", "picture_size", "sample_rate", "seed")


class Layout(Protocol):
    """The functions of a format's module. `out` is the folder of the data set, `seed` the seed of the composition.

    Attributes:
        OPTIONS: keys of `data.compose` that the layout reads in addition to the common ones. "frame_rate" is passed in
            the settings; the others are keyword-only arguments of `sample_scene`.
    """

    OPTIONS: tuple[str, ...]

    def sample_scene(
        self, seed: int, library: AssetLibrary, split: str, number: int, settings: RenderSettings, **options: Any
    ) -> Scene:
        """Sample the scene of clip `number` of a split, without rendering; equal arguments give equal scenes."""

    def check(self, classes: Sequence[str], settings: RenderSettings) -> None:
        """Raise LavishError for classes or settings that the layout does not support."""

    def clip_id(self, seed: int, scene: Scene) -> str:
        """Return the name of a clip, which is unique within the data set."""

    def is_finished(self, out: Path, seed: int, scene: Scene) -> bool:
        """Return whether the media of a clip have been written."""

    def write_clip(self, out: Path, seed: int, scene: Scene, library: AssetLibrary, settings: RenderSettings) -> None:
        """Render a clip and write its media files, each atomically."""

    def write_lists(
        self,
        out: Path,
        seed: int,
        scenes: Mapping[str, Sequence[Scene]],
        classes: Sequence[str],
        settings: RenderSettings,
    ) -> None:
        """Write the files that list the clips and their annotations."""


def compose(config: CompositionConfig, out: Path, jobs: int) -> None:
    """Compose a data set and write it to the folder `out` in the official layout of `config.format`.

    In addition to the layout's own files, scenes.jsonl describes the scene of each clip, one per line, and
    composition.json contains the configuration. The data set is written to ``<out>.partial``, which is renamed to `out`
    at the end; interrupted work is resumed. Equal configurations give equal bytes, regardless of `jobs` and
    interruptions.

    Args:
        config: the composition and its assets.
        out: folder to write; it may exist if it is empty or an older composition, which is replaced.
        jobs: number of worker processes.

    Raises:
        LavishError: the configuration is not feasible, an asset cannot be read, or `out` contains something else.
    """
    if jobs < 1:
        raise LavishError(f"--jobs {jobs}: give at least 1")
    if out.exists() and not (out.is_dir() and (_is_composition(out) or not any(out.iterdir()))):
        raise LavishError(f"--out {out}: neither an empty folder nor a composition: remove it or choose another folder")
    worker = _Worker(config)
    layout, library, settings = worker.layout, worker.library, worker.settings
    _check(config, layout)
    layout.check(library.classes, settings)
    description = _describe(config, layout)
    seed, counts = config.compose.seed, config.compose.clips.model_dump()
    scenes: dict[str, list[Scene]] = {
        split: [worker.scene(split, number) for number in range(counts[split])] for split in SPLITS
    }

    folder = out.with_name(f"{out.name}.partial")
    _prepare_folder(folder, description)
    all_scenes = [scene for split in SPLITS for scene in scenes[split]]
    pending = [(scene.split, scene.number) for scene in all_scenes if not layout.is_finished(folder, seed, scene)]
    with tqdm(total=len(all_scenes), initial=len(all_scenes) - len(pending), unit="clip", disable=None) as bar:
        bar.set_description("compose")
        for written in _write_all(config, worker, folder, pending, jobs):
            bar.update(written)
    lines = [json.dumps(_scene_record(layout.clip_id(seed, scene), scene, library.classes)) for scene in all_scenes]
    write_text(folder / "scenes.jsonl", "".join(f"{line}\n" for line in lines))
    layout.write_lists(folder, seed, scenes, library.classes, settings)
    if out.exists():
        shutil.rmtree(out)
    folder.rename(out)


class _Worker:
    """Composes clips; each process has its own, with its own asset library."""

    def __init__(self, config: CompositionConfig) -> None:
        if config.format not in _MODULES:
            raise LavishError(
                f"format: the composer does not support '{config.format}'{did_you_mean(config.format, _MODULES)}"
            )
        self.layout = cast(Layout, importlib.import_module(_MODULES[config.format]))
        self.library = open_library(config.compose.assets)
        self.settings = RenderSettings(
            config.segments,
            config.segment_seconds,
            config.compose.picture_size,
            config.compose.frame_rate,
            config.compose.sample_rate,
        )
        self._seed = config.compose.seed
        self._options = {
            name: getattr(config.compose, name) for name in self.layout.OPTIONS if not hasattr(self.settings, name)
        }

    def scene(self, split: str, number: int) -> Scene:
        return self.layout.sample_scene(self._seed, self.library, split, number, self.settings, **self._options)

    def write(self, out: Path, clips: Sequence[tuple[str, int]]) -> int:
        for split, number in clips:
            self.layout.write_clip(out, self._seed, self.scene(split, number), self.library, self.settings)
        return len(clips)


_worker: _Worker | None = None


def _start_worker(config: CompositionConfig) -> None:
    global _worker
    _worker = _Worker(config)


def _write_chunk(out: Path, clips: Sequence[tuple[str, int]]) -> int:
    assert _worker is not None
    return _worker.write(out, clips)


def _write_all(
    config: CompositionConfig, worker: _Worker, out: Path, clips: Sequence[tuple[str, int]], jobs: int
) -> Iterator[int]:
    """Write clips; yield the number of clips of each finished chunk."""
    chunks = [clips[start : start + _CHUNK] for start in range(0, len(clips), _CHUNK)]
    if jobs == 1 or len(chunks) < 2:
        yield from (worker.write(out, chunk) for chunk in chunks)
        return
    pool = open_pool(min(jobs, len(chunks)), [_MODULES[config.format]], _start_worker, (config,))
    try:
        yield from pool.map(_write_chunk, [out] * len(chunks), chunks)
    finally:
        pool.shutdown(cancel_futures=True)


def _check(config: CompositionConfig, layout: Layout) -> None:
    compose = config.compose
    for key, seed in (("compose.seed", compose.seed), ("compose.assets.seed", getattr(compose.assets, "seed", 0))):
        if seed < 0:
            raise LavishError(f"{key} is {seed}: give 0 or more")
    if config.segments < 1:
        raise LavishError(f"segments is {config.segments}: give at least 1")
    for key in _unread(layout):
        # Defaults are filled in already, so only a different value shows that the key was set.
        if getattr(compose, key) != ComposeConfig.model_fields[key].default:
            raise LavishError(f"compose.{key}: the layout '{config.format}' does not read it: remove the key")


def _unread(layout: Layout) -> list[str]:
    return [key for key in ComposeConfig.model_fields if key not in (*_COMMON, *layout.OPTIONS)]


def _describe(config: CompositionConfig, layout: Layout) -> bytes:
    """Return the text of composition.json: everything the clips depend on, hence not the path of the assets."""
    assets = config.compose.assets
    values = config.model_dump(mode="json", exclude={"compose": set(_unread(layout))})
    if isinstance(assets, FolderAssetsConfig):
        measured = fingerprint(assets.root, asset_files(assets.root))
        if assets.sha256 is not None and assets.sha256 != measured:
            raise LavishError(
                f"{assets.root}: its checksum is {measured}, but compose.assets.sha256 is {assets.sha256}: the folder "
                "has changed; restore it, or correct the key"
            )
        del values["compose"]["assets"]["root"]
        values["compose"]["assets"]["sha256"] = measured
    text = json.dumps(json.loads(canonical_json({"composer": _VERSION, **values})), indent=1)
    return f"{text}\n".encode()


def _is_composition(folder: Path) -> bool:
    return (folder / _MARKER).is_file()


def _prepare_folder(folder: Path, description: bytes) -> None:
    """Create the work folder, or keep its contents if they belong to the same composition."""
    marker = folder / _MARKER
    if not marker.is_file() or marker.read_bytes() != description:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_bytes(marker, description)


def _scene_record(clip: str, scene: Scene, classes: Sequence[str]) -> dict[str, Any]:
    values = dataclasses.asdict(scene)
    for kind in ("objects", "sounds"):
        values[kind] = values.pop(kind)  # moved to the end, after the short values
    for item in (values, *values["objects"], *values["sounds"]):
        if "class_index" in item:
            item["class"] = classes[item.pop("class_index")]
    for item in values["objects"]:
        item["place"] = item["place"]._asdict()
    return {"clip": clip, **values}
