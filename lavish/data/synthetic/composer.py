"""The composer: from assets to a data set in an official layout, which is then read like any real one.

A module per format (:class:`Layout`) says what happens in a clip, as a :class:`lavish.data.synthetic.scene_graph.Scene`;
:mod:`lavish.data.synthetic.rendering` makes pictures and sound of it; and the format's module writes them.
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
from lavish.data.synthetic.assets import AssetLibrary, open_library
from lavish.data.synthetic.rendering import Medium
from lavish.data.synthetic.scene_graph import Scene
from lavish.errors import LavishError, did_you_mean
from lavish.io.atomic import write_bytes
from lavish.io.fingerprint import fingerprint
from lavish.runtime.workers import open_pool

# Of the clips' contents: raised when composing changes, so that no unfinished work of older code is taken up.
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
# Keys of `data.compose` that every layout reads; each of the others is read by those that name it.
_COMMON = ("assets", "clips", "picture_size", "sample_rate", "seed")


class Layout(Protocol):
    """The functions of a format's module. `out` is the folder of the layout, `seed` that of the composition.

    Attributes:
        OPTIONS: keys of `data.compose` that the layout reads beside the common ones. "frame_rate" reaches it in the
            medium; the others are keyword-only arguments of `draw_scene`.
    """

    OPTIONS: tuple[str, ...]

    def draw_scene(
        self, seed: int, library: AssetLibrary, split: str, number: int, medium: Medium, **options: Any
    ) -> Scene:
        """Draw the scene of clip `number` of a split; equal arguments give equal scenes. Nothing is rendered."""

    def check(self, classes: Sequence[str], medium: Medium) -> None:
        """Raise LavishError for what the layout cannot hold."""

    def clip_id(self, seed: int, scene: Scene) -> str:
        """Return the name of a clip, unique within the data set."""

    def is_finished(self, out: Path, seed: int, scene: Scene) -> bool:
        """Tell whether the media of a clip have been written."""

    def write_clip(self, out: Path, seed: int, scene: Scene, library: AssetLibrary, medium: Medium) -> None:
        """Render and write the media of a clip; each file appears whole or not at all."""

    def write_lists(
        self, out: Path, seed: int, scenes: Mapping[str, Sequence[Scene]], classes: Sequence[str], medium: Medium
    ) -> None:
        """Write the files that list clips and annotations."""


def compose(config: CompositionConfig, out: Path, jobs: int) -> None:
    """Compose a data set and write it to the folder `out` in the official layout of `config.format`.

    Beside the layout's own files there are scenes.jsonl (what happens in each clip, a line each) and composition.json
    (the configuration). The work goes on in ``<out>.partial``, which becomes `out` by one rename at the end;
    interrupted work is taken up again. Equal configurations give equal bytes, whatever `jobs` and interruptions.

    Args:
        config: what to compose, from which assets.
        out: folder to write; it may exist if it is empty or an older composition, which is replaced.
        jobs: worker processes.

    Raises:
        LavishError: the configuration cannot be met, an asset cannot be read, or `out` holds something else.
    """
    if jobs < 1:
        raise LavishError(f"--jobs {jobs}: give at least 1")
    if out.exists() and not (out.is_dir() and (_is_composition(out) or not any(out.iterdir()))):
        raise LavishError(f"--out {out}: something else lies there: remove it or choose another folder")
    worker = _Worker(config)
    layout, library, medium = worker.layout, worker.library, worker.medium
    _check(config, layout)
    layout.check(library.classes, medium)
    description = _describe(config, layout)
    seed, counts = config.compose.seed, config.compose.clips.model_dump()
    scenes: dict[str, list[Scene]] = {
        split: [worker.scene(split, number) for number in range(counts[split])] for split in SPLITS
    }

    folder = out.with_name(f"{out.name}.partial")
    _open(folder, description)
    everything = [scene for split in SPLITS for scene in scenes[split]]
    pending = [(scene.split, scene.number) for scene in everything if not layout.is_finished(folder, seed, scene)]
    with tqdm(total=len(everything), initial=len(everything) - len(pending), unit="clip", disable=None) as bar:
        bar.set_description("compose")
        for written in _write_all(config, worker, folder, pending, jobs):
            bar.update(written)
    lines = [json.dumps(_inspectable(layout.clip_id(seed, scene), scene, library.classes)) for scene in everything]
    write_bytes(folder / "scenes.jsonl", "".join(f"{line}\n" for line in lines).encode())
    layout.write_lists(folder, seed, scenes, library.classes, medium)
    if out.exists():
        shutil.rmtree(out)
    folder.rename(out)


class _Worker:
    """What is needed to compose a clip; every process opens its own library."""

    def __init__(self, config: CompositionConfig) -> None:
        if config.format not in _MODULES:
            raise LavishError(
                f"format: nothing is composed as '{config.format}'{did_you_mean(config.format, _MODULES)}"
            )
        self.layout = cast(Layout, importlib.import_module(_MODULES[config.format]))
        self.library = open_library(config.compose.assets)
        self.medium = Medium(
            config.segments,
            config.segment_seconds,
            config.compose.picture_size,
            config.compose.frame_rate,
            config.compose.sample_rate,
        )
        self._seed = config.compose.seed
        self._options = {
            name: getattr(config.compose, name) for name in self.layout.OPTIONS if not hasattr(self.medium, name)
        }

    def scene(self, split: str, number: int) -> Scene:
        return self.layout.draw_scene(self._seed, self.library, split, number, self.medium, **self._options)

    def write(self, out: Path, clips: Sequence[tuple[str, int]]) -> int:
        for split, number in clips:
            self.layout.write_clip(out, self._seed, self.scene(split, number), self.library, self.medium)
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
    """Write clips; yields how many more there are."""
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
        # Configurations come with all their defaults, so only another value shows that somebody set the key.
        if getattr(compose, key) != ComposeConfig.model_fields[key].default:
            raise LavishError(f"compose.{key}: nothing of the layout '{config.format}' reads it: remove the key")


def _unread(layout: Layout) -> list[str]:
    return [key for key in ComposeConfig.model_fields if key not in (*_COMMON, *layout.OPTIONS)]


def _describe(config: CompositionConfig, layout: Layout) -> bytes:
    """Return the text of composition.json: what the clips depend on, so not where the assets lie."""
    assets = config.compose.assets
    values = config.model_dump(mode="json", exclude={"compose": set(_unread(layout))})
    if isinstance(assets, FolderAssetsConfig):
        measured = fingerprint(assets.root)
        if assets.sha256 is not None and assets.sha256 != measured:
            raise LavishError(
                f"{assets.root}: its checksum is {measured}, but compose.assets.sha256 says {assets.sha256}: the "
                "folder has changed; restore it, or correct the key"
            )
        del values["compose"]["assets"]["root"]
        values["compose"]["assets"]["sha256"] = measured
    text = json.dumps(json.loads(canonical_json({"composer": _VERSION, **values})), indent=1)
    return f"{text}\n".encode()


def _is_composition(folder: Path) -> bool:
    return (folder / _MARKER).is_file()


def _open(folder: Path, description: bytes) -> None:
    """Make the folder of unfinished work, or keep what it holds if that belongs to the same composition."""
    marker = folder / _MARKER
    if not marker.is_file() or marker.read_bytes() != description:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_bytes(marker, description)


def _inspectable(clip: str, scene: Scene, classes: Sequence[str]) -> dict[str, Any]:
    values = dataclasses.asdict(scene)
    for kind in ("objects", "sounds"):
        values[kind] = values.pop(kind)  # what is short comes first
    for item in (values, *values["objects"], *values["sounds"]):
        if "class_index" in item:
            item["class"] = classes[item.pop("class_index")]
    for item in values["objects"]:
        item["place"] = item["place"]._asdict()
    return {"clip": clip, **values}
