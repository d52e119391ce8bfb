"""The public Python API, re-exported by :mod:`lavish`: thin functions over the packages below."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from lavish.config.options import add_source
from lavish.config.schema import EXPLICIT_BACKBONES, AdapterConfig, BackboneConfig, FusionConfig, check_fusion
from lavish.config.sources import available
from lavish.config.validation import parse
from lavish.errors import LavishError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

    from lavish.learner.model import ClipEncoder
    from lavish.models.backbones.base import Backbone
    from lavish.models.interfaces import Stream
    from lavish.reporting.records import Cost
    from lavish.reporting.statistics import PairedTest


def available_methods() -> list[str]:
    """Return the names of all methods, sorted."""
    return available("methods")


def available_tasks() -> list[str]:
    """Return the names of all tasks, sorted."""
    return available("tasks")


def build_encoder(
    backbone: str,
    *,
    method: str | PathLike[str] = "lavish",
    options: Mapping[str, Any] | None = None,
    direction: Literal["both", "a2v", "v2a", "none"] = "both",
    position: Literal["default", "both", "attention", "ffn"] = "default",
    arrangement: Literal["default", "parallel", "sequential"] = "default",
    layers: str | Sequence[int] = "all",
    modalities: Literal["audio_visual", "audio", "visual"] = "audio_visual",
    weights: str | PathLike[str] | Mapping[str, Any] = "pretrained",
    spec: Mapping[str, Any] | None = None,
    audio_backbone: Mapping[str, Any] | None = None,
    frame_size: int | None = None,
    spectrogram_size: tuple[int, int] | None = None,
    segments: int = 10,
    recompute: Literal["none", "adapters", "blocks"] = "none",
) -> ClipEncoder:
    """Build a frozen image transformer that encodes frames and spectrograms, with a trainable adaptation method.

    Call the result with frames (B, S, 3, H, W) and spectrograms (B, S, mel bins, analysis frames) of B clips of S
    segments; see :class:`lavish.learner.model.ClipEncoder`. The trainable parameters are sampled from torch's current
    random state.

    Args:
        backbone: a timm name with its weights tag (vit_*, deit*, eva_*, eva02_*, swin_*, swinv2_*), or 'vit', 'eva',
            'ast', 'swin', 'swinv2', 'htsat' with a `spec`.
        method: one of :func:`available_methods`, the path of a file with a method, or 'none' for the frozen backbone.
        options: of the method; docs/methods.md lists them.
        direction: 'both', audio to visual ('a2v'), visual to audio ('v2a'), or 'none'.
        position: the sublayers with adapters.
        arrangement: whether adapters read a sublayer's input ('parallel') or its output ('sequential').
        layers: the blocks to adapt: 'all', 'first 4', 'last 4' or a list of indices.
        modalities: the streams of the encoder.
        weights: 'pretrained' (from the model hub), 'random', the path of a safetensors file, or a mapping as under the
            configuration key `backbone.weights`, for example with `revision` and `sha256`.
        spec: constructor arguments of an explicit backbone.
        audio_backbone: `model`, `weights` and `spec` of a backbone of the audio stream's own, as those above; by
            default both streams share one.
        frame_size: height and width of the frames in pixels, by default those of the pretraining.
        spectrogram_size: mel bins and analysis frames of the spectrograms, by default the size of the frames, or that
            of the audio stream's own backbone.
        segments: of a clip.
        recompute: what the backward pass computes again instead of keeping it in memory: nothing, the insides of the
            method's modules, or each block.

    Raises:
        LavishError: an unknown name, an option that does not fit, or weights that are missing or do not fit.
    """
    from lavish.learner.build import streams_of
    from lavish.learner.encoder import TwoStreamEncoder
    from lavish.learner.model import ClipEncoder

    if str(method).endswith(".py"):
        method = add_source("methods", Path(method))
    where = "build_encoder"
    adapter = parse(AdapterConfig, {"method": str(method), "options": dict(options or {})}, where)
    fusion_values = {"direction": direction, "position": position, "arrangement": arrangement}
    layers = layers if isinstance(layers, str) else list(layers)
    fusion = parse(FusionConfig, {**fusion_values, "layers": layers}, where)
    try:
        check_fusion(adapter.method, fusion)
    except ValueError as error:
        raise LavishError(f"{where}: {error}") from None
    frozen, frames = _backbone({"model": backbone, "spec": spec, "weights": weights}, frame_size, where)
    own_audio, spectrograms = None, frames
    if audio_backbone is not None:
        if modalities != "audio_visual":
            raise LavishError(f"{where}: a single stream has one backbone: give it as `backbone`, without another")
        of_audio = {"weights": "pretrained", **audio_backbone}
        for key in of_audio.keys() - (known := {"model", "weights", "spec"}):
            raise LavishError(f"{where}, audio_backbone: unknown key '{key}'{did_you_mean(key, known)}")
        own_audio, spectrograms = _backbone(of_audio, spectrogram_size, f"{where}, audio_backbone")
    sizes: dict[Stream, tuple[int, int]] = {"visual": frames, "audio": spectrogram_size or spectrograms}
    encoder = TwoStreamEncoder(
        frozen,
        audio_backbone=own_audio,
        streams=streams_of(modalities),
        method=adapter.method,
        options=adapter.options,
        direction=fusion.direction,
        position=fusion.position,
        arrangement=fusion.arrangement,
        layers=fusion.layers,
        sizes=sizes,
        segments=segments,
        recompute=recompute,
    )
    return ClipEncoder(encoder, sizes, segments)


def _backbone(
    values: Mapping[str, Any], size: int | tuple[int, int] | None, where: str
) -> tuple[Backbone, tuple[int, int]]:
    """Build a frozen backbone; return it with the size of its images, by default that of its pretraining."""
    import torch

    from lavish.models.backbones.build import build_backbone, pretrained_image_size
    from lavish.training.jobs import provide_weights

    weights = values["weights"]
    if weights == "pretrained":
        weights = {"source": "hub"}
    elif weights == "random":
        weights = {"source": "random"}
    elif not isinstance(weights, Mapping):
        weights = {"source": "file", "path": weights}
    config = parse(BackboneConfig, {**values, "spec": dict(values.get("spec") or {}), "weights": weights}, where)
    size = size or (0 if config.model in EXPLICIT_BACKBONES else pretrained_image_size(config.model))
    if config.weights.source == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.weights.seed)
            built = build_backbone(config.model, config.spec, size)
    else:
        with TemporaryDirectory() as folder:
            file = Path(folder, "weights.safetensors")
            provide_weights(config, file)
            built = build_backbone(config.model, config.spec, size, weights=file)
    if isinstance(size, int):
        size = (size, size) if size else built.image_size
    return built, size


def count_cost(encoder: ClipEncoder, segments: int | None = None) -> Cost:
    """Count the parameters of an encoder and its multiply-adds on one clip, as the tables of this project do.

    `adapter_macs` is what the method adds to the backbone on both streams. `segments` is the length of the clip, by
    default that of the encoder. A multiply-add counts once; see :mod:`lavish.cost.counter`.

    Raises:
        LavishError: the method uses an operator whose multiply-adds the counter does not know.
    """
    from lavish.cost.counter import count_encoder
    from lavish.reporting.records import Cost

    counts = count_encoder(encoder.encoder, encoder.sizes, segments or encoder.segments)
    others = {name: counts[name] for name in ("adapter_macs_without_norms", "total_macs_without_norms")}
    return Cost(**{name: counts[name] for name in _COUNTS}, others=others)


def load_results(results: str | PathLike[str]) -> pd.DataFrame:
    """Return the evaluated runs below a folder, one row per run, seed and split.

    The columns are `run` (the run's folder), `variant` (the rows of tables that it belongs to), `task`, `method`,
    `backbone`, `direction` and `modalities` (of its configuration; missing where the record has none), `seed`, `split`,
    `metric`, `value`, `best_epoch`, the counts of cost.json (`trainable_params`, `total_params`, `adapter_params`,
    `adapter_macs`, `total_macs`; missing where the cost has not been counted) and one `measures.<name>` per further
    measure. `task` is the key under `tasks` in the configuration, such as `segmentation_s4`; like `variant`, it is
    missing for a run that no index.csv beside it knows. Raises LavishError when the folder does not exist or a file in
    it is invalid.
    """
    import pandas as pd

    from lavish.planning.run_labels import labels_of
    from lavish.reporting.records import MissingResult, read_cost, read_evaluation, read_record

    root = Path(results)
    if not root.is_dir():
        raise LavishError(f"{root} is not a folder: give the folder that holds the runs")

    @functools.cache
    def counts(run: Path) -> dict[str, int | None]:
        try:
            cost = read_cost(run)
        except MissingResult:
            return dict.fromkeys(_COUNTS)
        return {name: getattr(cost, name) for name in _COUNTS}

    @functools.cache
    def labels(run: Path) -> dict[str, str | None]:
        found = labels_of(run)
        keys = ("task", "variant")
        return {key: ", ".join(dict.fromkeys(getattr(label, key) for label in found)) or None for key in keys}

    rows: list[dict[str, Any]] = []
    for path in sorted(root.rglob("seed*/*/metrics.json")):
        split, training = path.parent.name, path.parents[1]
        record, evaluation = read_record(training), read_evaluation(training, split)
        row = {
            "run": str(training.parent),
            **labels(training.parent),
            **_choices(record.values.get("config") or {}),
            "seed": record.seed,
            "split": split,
            "metric": evaluation.metric,
            "value": evaluation.value,
            "best_epoch": record.best_epoch,
            **counts(training.parent),
            **{f"measures.{name}": value for name, value in evaluation.measures.items()},
        }
        rows.append(row)
    return pd.DataFrame(rows)


_COUNTS = ("trainable_params", "total_params", "adapter_params", "adapter_macs", "total_macs")


def _choices(config: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the entries of a run's resolved configuration that runs are grouped by."""
    keys = {"method": ("adapter", "method"), "backbone": ("backbone", "model"), "direction": ("fusion", "direction")}
    chosen = {name: config.get(section, {}).get(key) for name, (section, key) in keys.items()}
    return {**chosen, "modalities": config.get("modalities")}


def compare(a: str | PathLike[str], b: str | PathLike[str], split: str = "test") -> PairedTest:
    """Return the difference a - b of two runs' metrics, with its 95 % confidence interval and two-sided p-value.

    `a` and `b` are folders of runs, as in the column `run` of :func:`load_results`. The seeds that both have are
    paired, and so are the test units. Raises LavishError when there are none in common or the units differ.
    """
    from lavish.reporting.records import read_run, seed_directories, unit_order
    from lavish.reporting.statistics import clip_values, paired_test

    first, second = Path(a), Path(b)
    seeds = [seed for seed in seed_directories(first) if seed in seed_directories(second)]
    if not seeds:
        raise LavishError(f"{first} and {second} have no seed in common: train both with the same seeds")
    one, other = read_run(first, seeds, split), read_run(second, seeds, split)
    if one.metric != other.metric:
        raise LavishError(f"{first} has the metric '{one.metric}', {second} '{other.metric}': compare runs of one task")
    order = unit_order(one.clips, other.clips)
    if order is None:
        raise LavishError(f"{first} and {second} were evaluated on different clips: evaluate both on the same data")
    return paired_test(clip_values(one.scores, one.clips), clip_values(other.scores[:, order], one.clips))
