"""The typed configuration of runs, data sets and weights.

Plain data that imports neither torch nor Snakemake, so that the workflow can validate every row of every table while it
is being parsed.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from lavish.config.merging import with_values
from lavish.config.options import add_source, check_options, has_sites, is_cross_modal, option_model
from lavish.config.source_code import code_digest
from lavish.config.sources import SourceError, add_file, external_file
from lavish.errors import LavishError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

Source = Literal["initialisation", "order", "composition"]
SOURCES: tuple[Source, ...] = ("initialisation", "order", "composition")
"""Sources of variance between trainings of one run."""
FIXED_SEED = 2**31 - 1
"""Seed of the sources that do not follow a run's seed; one that no list of seeds is likely to have."""

KeptFeatures = Literal["pooled", "tokens", "stages"]
"""What is kept of the features of an image: the pooled feature, also the tokens of the last block, or of all stages."""


class Config(BaseModel):
    """Base of all configuration: immutable, and a misspelt key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SplitCounts(Config):
    """A number for each split."""

    train: int = Field(gt=0)
    val: int = Field(gt=0)
    test: int = Field(gt=0)


class ProceduralAssetsConfig(Config):
    """Procedural images and sounds from a seed."""

    kind: Literal["procedural"] = "procedural"
    instances: SplitCounts = Field(description="Number of different images and sounds of each class, per split.")
    seed: int = 0


class FolderAssetsConfig(Config):
    """Real images and sounds: ``root/<class>/images/*.png`` (with alpha) and ``root/<class>/sounds/*``."""

    kind: Literal["folder"] = "folder"
    root: Path
    sha256: str | None = Field(default=None, description="Checksum over the folder; filled in by the workflow.")


class ComposeConfig(Config):
    """How clips are composed from assets (the scene model is documented in docs/task_cards/).

    Each layout reads only some keys; changing a key that the layout does not read is an error.
    """

    assets: Annotated[ProceduralAssetsConfig | FolderAssetsConfig, Field(discriminator="kind")]
    clips: SplitCounts
    picture_size: int = Field(default=48, ge=16, description="Height and width of the composed video, pixels.")
    frame_rate: int = Field(default=4, ge=1, description="Frames per second of the composed video.")
    sample_rate: int = Field(default=16000, ge=8000, description="Samples per second of the composed audio.")
    silent_object: float = Field(
        default=0.8, ge=0, le=1, description="Probability of an object that is visible but silent."
    )
    unseen_sound: float = Field(
        default=0.7, ge=0, le=1, description="Probability of a sound whose object is not visible."
    )
    objects: int = Field(default=3, ge=1, description="Visible objects in a clip (AVSBench).")
    seed: int = 0


class SpectrogramConfig(Config):
    """Log-mel filter bank of one window per segment; by default Kaldi's, as LAVISH computes it."""

    sample_rate: int = 16000
    mel_bins: int = Field(default=48, ge=8)
    shift_ms: float = Field(default=20.0, gt=0, description="Hop between analysis frames, milliseconds.")
    length_ms: float = Field(default=25.0, gt=0, description="Length of an analysis frame, milliseconds.")
    frames: int = Field(default=48, ge=8, description="Analysis frames kept per window; shorter ones are zero-padded.")
    window_seconds: float = Field(default=1.0, gt=0, description="Audio of one segment's window, seconds.")
    window_margin: float = Field(
        default=0.1,
        description="Windows start at linspace(0, duration - window - margin, segments), seconds; if negative, the "
        "last one extends past the end and is zero-padded.",
    )
    # Excluded at their defaults, so that what was recorded before they existed stays equal.
    filter_bank: Literal["kaldi", "slaney"] = Field(
        default="kaldi",
        exclude_if=lambda value: value == "kaldi",
        description="Kaldi's filter bank in natural logarithms, or librosa's (mel scale and norm of Slaney, centred "
        "frames, periodic Hann window) in decibels, on which HTS-AT was trained.",
    )
    low_hz: float = Field(
        default=20.0,
        ge=0,
        exclude_if=lambda value: value == 20.0,
        description="Lower limit of the filters, hertz.",
    )
    high_hz: float | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="Upper limit of the filters, hertz; by default half the sample rate.",
    )

    @model_validator(mode="after")
    def _filters_have_a_range(self) -> SpectrogramConfig:
        most = self.sample_rate / 2
        if not self.low_hz < (most if self.high_hz is None else self.high_hz) <= most:
            raise ValueError(f"give `low_hz` < `high_hz`, which is at most half the sample rate ({most:g} Hz)")
        return self


class StoreConfig(Config):
    """How the prepared store keeps frames. Masks, log-mels and waveforms are always exact."""

    frames: Literal["raw", "jpeg", "webp"] = Field(
        default="raw",
        description="Pixels as they are, or each frame as a picture: many times smaller, decoded when a batch is read.",
    )
    quality: int = Field(default=90, ge=1, le=100, description="Of the pictures; must not be given for raw frames.")

    @model_validator(mode="after")
    def _only_pictures_have_a_quality(self) -> StoreConfig:
        if self.frames == "raw" and self.quality != 90:
            raise ValueError("raw frames have no `quality`: remove it, or choose `frames: jpeg` or `frames: webp`")
        return self


class CompositionConfig(Config):
    """Everything that the composer reads, and that the identity of composed data depends on."""

    format: str
    segments: int
    segment_seconds: float
    compose: ComposeConfig


class DataConfig(Config):
    """A data set in an official layout, on disk or composed, and how it is prepared."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_]*$", description="Used in captions.")
    format: Literal["ave", "avsbench_s4", "avsbench_ms3", "music_avqa", "actions"] = "ave"
    root: Path | None = Field(default=None, description="Folder of the official layout; excludes `compose`.")
    sha256: str | None = Field(default=None, description="Checksum over the folder; filled in by the workflow.")
    compose: ComposeConfig | None = None
    num_classes: int = Field(
        ge=1,
        description="Number of classes of events (without background), actions or answers; checked by preparation.",
    )
    vocabulary: int = Field(
        default=0, ge=0, description="Number of words in the questions, without padding; checked by preparation."
    )
    segments: int = Field(default=10, ge=1, description="Segments per clip.")
    segment_seconds: float = Field(default=1.0, gt=0)
    frame_size: int = Field(default=224, ge=16, description="Frames are resized (bicubic) to this square, pixels.")
    spectrogram: SpectrogramConfig = SpectrogramConfig()
    store: StoreConfig = Field(
        default=StoreConfig(),
        exclude_if=lambda value: value == StoreConfig(),
        description="The form of the prepared store; part of identities, because pictures are not exact.",
    )
    fraction: float = Field(
        default=1.0,
        gt=0,
        le=1,
        exclude_if=lambda value: value == 1.0,
        description="Part of the training clips to train on, drawn by the seed: the same part of each class, and "
        "contained in larger parts. Statistics for normalisation are those of all training clips.",
    )
    duplicates: Literal["published", "drop_from_train"] = Field(
        default="published",
        exclude_if=lambda value: value == "published",
        description="Clips in the training list and in another one: as published, or left out of training.",
    )
    max_lost: float = Field(
        default=0.02, ge=0, le=1, description="Maximum fraction of excluded clips; not part of identities."
    )

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        if (self.root is None) == (self.compose is None):
            raise ValueError("give exactly one of `root` (a data set on disk) and `compose` (a composed one)")
        return self

    def image_sizes(self) -> dict[Literal["visual", "audio"], tuple[int, int]]:
        """Return the rows and columns of each stream's images: of frames, and of spectrograms."""
        side, sound = self.frame_size, self.spectrogram
        return {"visual": (side, side), "audio": (sound.mel_bins, sound.frames)}

    def composition(self) -> CompositionConfig:
        """Return the composer's configuration; raise an error for a data set on disk."""
        if self.compose is None:
            raise LavishError(f"data set '{self.name}' is on disk at {self.root} and is not composed")
        return CompositionConfig(
            format=self.format, segments=self.segments, segment_seconds=self.segment_seconds, compose=self.compose
        )


class NormalisationConfig(Config):
    """Statistics that normalise frames and log-mels."""

    frames: Literal["imagenet", "train"] = "imagenet"
    audio: Literal["train", "standardised"] | tuple[float, float] = Field(
        default="train",
        description="(x - mean) / (2 std), with the statistics of the training split or a published (mean, std); with "
        "'standardised' (x - mean) / std of the training split, as much contrast as normalised pictures have.",
    )


class PretrainConfig(Config):
    """How the small frozen backbones of the embedded default are trained, on other classes than the task's."""

    instances: int = Field(default=200, gt=0, description="Number of different images or sounds of each class.")
    samples: int = Field(gt=0, description="Number of training scenes.")
    batch_size: int = Field(default=64, gt=0)
    epochs: int = Field(gt=0)
    lr: float = Field(default=2e-3, gt=0)
    token_norm: float | None = Field(
        default=None,
        gt=0,
        exclude_if=lambda value: value is None,
        description="Mean norm of the tokens that enter the first block of a 'vit'. After the training its residual "
        "stream is scaled to it; the norms of its blocks cancel that, so that its features stay the same.",
    )
    seed: int = 0


class HubWeights(Config):
    """Weights from the model hub; config/weights.lock.yaml pins them to a commit and a sha256."""

    source: Literal["hub"] = "hub"
    repository: str | None = Field(default=None, description="Hub repository; by default timm's own for the model.")
    filename: str = "model.safetensors"
    revision: str = "main"
    sha256: str | None = None


class FileWeights(Config):
    """A safetensors file on disk."""

    source: Literal["file"] = "file"
    path: Path
    sha256: str | None = Field(default=None, description="Expected checksum; the workflow fills in the measured one.")


class PretrainedWeights(Config):
    """Weights trained inside the workflow."""

    source: Literal["pretrain"] = "pretrain"
    recipe: PretrainConfig


class RandomWeights(Config):
    """Random weights from a seed: to check that a configuration runs, not for results."""

    source: Literal["random"] = "random"
    seed: int = 0


WeightsConfig = Annotated[HubWeights | FileWeights | PretrainedWeights | RandomWeights, Field(discriminator="source")]


EXPLICIT_BACKBONES = ("vit", "eva", "ast", "swin", "swinv2", "htsat")
"""Names of backbones that `spec` describes."""
NAMED_BACKBONES = ("vit_*", "deit*", "eva_*", "eva02_*", "swin_*", "swinv2_*")
"""Patterns of timm's names of the backbones that are supported."""


class BackboneConfig(Config):
    """A frozen image transformer, of both streams or of one."""

    model: str = Field(
        description=f"A timm name ({', '.join(NAMED_BACKBONES)}) with its weights tag, or an explicit "
        f"{', '.join(map(repr, EXPLICIT_BACKBONES))}."
    )
    spec: dict[str, Any] = Field(
        default_factory=dict,
        description="Constructor arguments of timm's class for an explicit backbone; of an 'ast' also `stride`, mel "
        "bins and frames from one patch to the next. The defaults of an 'htsat' are the published sizes.",
    )
    weights: WeightsConfig
    stochastic_depth: bool = Field(default=False, description="Keep the backbone's own stochastic depth in training.")
    tune_norms: bool = Field(default=False, description="Train the backbone's normalisation layers.")
    positions: Literal["bicubic", "linear"] = Field(
        default="bicubic",
        description="Resizing of a ViT's position embedding for other image sizes: as a grid, or (published code) as "
        "a sequence including the class token. An 'ast' cuts or stretches its own as published.",
    )
    # Excluded from identities at its default, because it changes no trained or evaluated number.
    classifier: Literal["dropped", "counted"] = Field(
        default="dropped",
        exclude_if=lambda value: value == "dropped",
        description="Count the unused classifier of the pretraining among the total parameters, as the paper does; "
        "it is never built for training.",
    )

    @field_validator("model")
    @classmethod
    def _known_family(cls, model: str) -> str:
        known = model in EXPLICIT_BACKBONES or any(fnmatchcase(model, pattern) for pattern in NAMED_BACKBONES)
        if not known:
            raise ValueError(f"'{model}' is no ViT or Swin: use a timm name {', '.join(NAMED_BACKBONES)}")
        return model

    @model_validator(mode="after")
    def _spec_and_classifier_fit_the_model(self) -> BackboneConfig:
        explicit = self.model in EXPLICIT_BACKBONES
        if self.spec and not explicit:
            names = " or ".join(map(repr, EXPLICIT_BACKBONES))
            raise ValueError(f"`spec` only describes an explicit {names}, not the timm model '{self.model}': remove it")
        if self.classifier == "counted" and explicit:
            raise ValueError(f"an explicit '{self.model}' has no pretraining classifier: remove `classifier`")
        if self.model != "vit":
            _check_no_token_norm(self.weights, f"a '{self.model}'")
        return self


def _check_no_token_norm(weights: WeightsConfig, name: str) -> None:
    """Raise ValueError if the pretraining of a model that is no ViT has a `token_norm`."""
    if weights.source == "pretrain" and weights.recipe.token_norm is not None:
        raise ValueError(f"weights.recipe.token_norm scales a 'vit', not {name}: remove it, or set it to null")


class VisualBackboneConfig(BackboneConfig):
    """A backbone of the visual stream, with its input."""

    frame_size: int | None = Field(default=None, ge=16, description="Instead of data.frame_size.")
    normalisation: Literal["imagenet", "train"] | None = Field(
        default=None, description="Instead of normalisation.frames."
    )


class AudioBackboneConfig(BackboneConfig):
    """A backbone of the audio stream, with its input. It may take one channel or three."""

    spectrogram: SpectrogramConfig | None = Field(default=None, description="Instead of data.spectrogram.")
    normalisation: Literal["train", "standardised"] | tuple[float, float] | None = Field(
        default=None, description="Instead of normalisation.audio."
    )


class StreamBackbones(Config):
    """A frozen backbone for each stream, with weights of its own; one that is not given is `backbone`."""

    use: Literal["none", "separate"] = Field(
        default="separate",
        description="With 'none' both streams share `backbone`, so that the defaults can describe separate ones and "
        "single rows enable them.",
    )
    visual: VisualBackboneConfig | None = None
    audio: AudioBackboneConfig | None = None


CodeDigest = Annotated[
    str | None,
    Field(
        exclude_if=lambda value: value is None,
        description="Digest of the code of the class, see lavish/config/source_code.py; filled in by the workflow.",
    ),
]


def _check_code(kind: str, name: str, planned: str | None) -> None:
    """Raise SourceError if the code of a planned job's class has changed."""
    if planned is not None and code_digest(kind, name) != planned:
        raise SourceError(
            f"the code of {kind[:-1].replace('_', ' ')} '{name}' has changed since this job was planned, so its result "
            "would have the name of another: restore the code, or call snakemake again to plan anew"
        )


class AudioEncoderConfig(Config):
    """A separate frozen audio encoder whose pooled features join the head."""

    kind: Literal["whisper", "transformer"]
    weights: WeightsConfig
    spec: dict[str, Any] = Field(default_factory=dict, description="Constructor arguments of the encoder: its sizes.")
    code: CodeDigest = None
    use: Literal["none", "join", "replace"] = Field(
        default="join",
        description="Concatenate its features with both streams', or replace the audio stream's at the head; with "
        "'none' the encoder is not used, so that the defaults can describe it and single rows enable it.",
    )

    @property
    def model(self) -> str:
        """The name of the model, as for a backbone."""
        return self.kind

    @model_validator(mode="after")
    def _spec_and_code_exist(self) -> AudioEncoderConfig:
        _check_code("audio_encoders", self.kind, self.code)
        check_options("audio_encoders", self.kind, self.spec)
        _check_no_token_norm(self.weights, "an audio encoder")
        return self


class SourceConfig(Config):
    """The file of an external method or task. The identity of a run has the digest of its code instead."""

    path: Path
    sha256: str | None = Field(default=None, description="Checksum of the file; filled in by the workflow.")


ExternalSource = Annotated[
    SourceConfig | None,
    Field(
        exclude_if=lambda value: value is None,
        description="The file of an external method or task; filled in by the workflow.",
    ),
]


def _with_source(kind: str, key: str, values: Any) -> Any:
    """Fill in the source of an external method or task, and check the one that a planned run names."""
    if not isinstance(values, dict) or not isinstance(values.get(key), str):
        return values
    if values.get("source") is None:
        found = external_file(kind, values[key])
    else:
        source = SourceConfig.model_validate(values["source"])
        found = add_file(kind, source.path, values[key], source.sha256)
    return values if found is None else {**values, "source": {"path": found.path, "sha256": found.sha256}}


class AdapterConfig(Config):
    """Which adapter, with its own options (the keyword-only arguments of its class)."""

    method: str = "lavish"
    options: dict[str, Any] = Field(default_factory=dict)
    source: ExternalSource = None
    code: CodeDigest = None

    @model_validator(mode="before")
    @classmethod
    def _find_source(cls, values: Any) -> Any:
        return _with_source("methods", "method", values)

    @model_validator(mode="after")
    def _options_exist(self) -> AdapterConfig:
        if self.method != "none":
            check_options("methods", self.method, self.options)
            _check_code("methods", self.method, self.code)
        elif self.options:
            raise ValueError("adapter 'none' is the frozen backbone and has no options")
        return self


class FusionConfig(Config):
    """Direction of cross-modal fusion, and the positions of adapters."""

    direction: Literal["both", "a2v", "v2a", "none"] = "both"
    position: Literal["default", "both", "attention", "ffn"] = Field(
        default="default", description="Sublayers with adapters; by default the method's own."
    )
    arrangement: Literal["default", "parallel", "sequential"] = Field(
        default="default", description="Adapters read a sublayer's input, or its output; by default the method's own."
    )
    layers: Literal["all"] | Annotated[str, Field(pattern=r"^(first|last) [1-9][0-9]*$")] | list[int] = Field(
        default="all",
        description="Blocks with adapters; with two backbones of unequal depth the steps of the forward pass, counted "
        "with the blocks that run alone.",
    )
    adapted: Literal["both", "visual", "audio"] = Field(
        default="both",
        exclude_if=lambda value: value == "both",
        description="The streams with adapters; the other one is frozen, and can be read.",
    )


def check_fusion(method: str, fusion: FusionConfig) -> None:
    """Raise ValueError if `fusion` has a direction, position or arrangement that the method does not support."""
    if fusion.direction in ("a2v", "v2a") and method != "none" and not is_cross_modal(method):
        raise ValueError(
            f"fusion.direction is '{fusion.direction}', but method '{method}' never reads the other stream: "
            "remove the key"
        )
    for key in ("position", "arrangement", "adapted"):
        value = getattr(fusion, key)
        if value != FusionConfig.model_fields[key].default and method != "none" and not has_sites(method):
            raise ValueError(f"fusion.{key} is '{value}', but method '{method}' has no adapter sites: remove the key")


class TaskConfig(Config):
    """Which task, with its own options (the keyword-only arguments of its class)."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)
    source: ExternalSource = None
    code: CodeDigest = None

    @model_validator(mode="before")
    @classmethod
    def _find_source(cls, values: Any) -> Any:
        return _with_source("tasks", "name", values)

    @model_validator(mode="after")
    def _options_exist(self) -> TaskConfig:
        check_options("tasks", self.name, self.options)
        _check_code("tasks", self.name, self.code)
        return self


class ScheduleConfig(Config):
    """Learning-rate schedule."""

    kind: Literal["constant", "cosine", "step"] = "constant"
    warmup: float = Field(default=0.0, ge=0, lt=1, description="Fraction of all steps with a linear warm-up.")
    factor: float = Field(default=0.35, gt=0, description="Multiplier of `step`.")
    every: int = Field(default=3, ge=1, description="Epochs between two multiplications of `step`.")


class TrainingConfig(Config):
    """Optimisation."""

    epochs: int = Field(default=50, ge=1)
    passes: int = Field(
        default=1,
        ge=1,
        exclude_if=lambda value: value == 1,
        description="Passes over the training clips in an epoch, after which the selection metric is computed. As many "
        "as 1 / data.fraction keep the steps, the schedule and the choice of checkpoints as with all clips.",
    )
    batch_size: int = Field(default=2, ge=1, description="Units (clips or questions) per batch, or clips.")
    batch_of: Literal["units", "clips"] = Field(
        default="units",
        description="Random units or, cheaper if many questions share a clip, random clips with all their units.",
    )
    accumulate: int = Field(default=1, ge=1, description="Batches per optimizer step.")
    lr_adapter: float = Field(default=5e-5, gt=0)
    lr_head: float = Field(default=4e-6, gt=0)
    optimizer: Literal["adam", "adamw"] = "adam"
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: ScheduleConfig = ScheduleConfig()
    patience: int = Field(default=5, ge=1, description="Epochs without improvement before stopping.")
    precision: Literal["float32", "bf16", "fp16"] = Field(
        default="float32",
        description="Of matrix products; trained weights, norms and losses stay in float32. fp16 is for GPUs. On a CPU "
        "bf16 needs avx512_bf16 or amx_bf16 and `cpu_dispatch: native`, without which it is slower than float32.",
    )
    tf32: bool = Field(
        default=False,
        exclude_if=lambda value: not value,
        description="Round the inputs of float32 products to 10 bits on a GPU that has TF32: faster, other numbers.",
    )
    deterministic: bool = True
    cpu_threads: int = Field(
        default=1, ge=1, description="Threads on a CPU; part of the run, because results depend on it."
    )
    cpu_dispatch: Literal["avx2", "native"] = Field(
        default="avx2",
        description="Instructions that kernels are chosen for on a CPU: those of almost every x86 processor, so that "
        "machines agree, or all that the machine has.",
    )
    capture: Literal["auto", "none"] = Field(
        default="auto",
        exclude_if=lambda value: value == "auto",
        description="On a GPU the step is captured as a CUDA graph where it can be. Equal numbers, shorter steps.",
    )
    compile: bool = Field(
        default=False,
        exclude_if=lambda value: not value,
        description="Compile the method's modules for a GPU: fewer kernels, other last digits, later first step.",
    )
    recompute: Literal["none", "adapters", "blocks"] = Field(
        default="none",
        exclude_if=lambda value: value == "none",
        description="What the backward pass computes again instead of keeping it in memory: the insides of the "
        "method's modules, or each block of the backbone with its adapters. Equal numbers, less memory, longer steps.",
    )


_Part = TypeVar("_Part", bound=Config)


def _changed(config: _Part, changes: dict[str, Any]) -> _Part:
    """Return a configuration with the changes that are not None."""
    return config.model_copy(update={key: value for key, value in changes.items() if value is not None})


class RangeConfig(Config):
    """A number that is searched between two others, on the logarithmic scale or not."""

    scale: Literal["log", "linear"]
    low: float
    high: float


class ChoicesConfig(Config):
    """A value that is searched among several, each as likely as the others; in ascending order if they have one."""

    choices: list[str | int | float | bool | None] = Field(min_length=2)


class SearchConfig(Config):
    """The hyperparameter search of one run: how much is tried, and what."""

    trials: int = Field(ge=1, description="Configurations that are tried.")
    seeds: list[int] = Field(description="Seeds of each trial; none of those that tables report.")
    sampler: Literal["halton", "uniform"]
    sampler_seed: int
    space: dict[str, RangeConfig | ChoicesConfig] = Field(
        min_length=1, description="What is searched, by the key in a run, such as `training.lr_adapter`."
    )


class TuningConfig(Config):
    """The budget of the hyperparameter search, the same for every row of tables that say `tuned: true`."""

    trials: int = Field(
        default=6,
        ge=1,
        description="Configurations that are tried for each row and task. More of them continue the same sequence, so "
        "that those tried already are not tried again.",
    )
    seeds: int = Field(default=1, ge=1, description="Trainings of each trial; their seeds begin at 1000.")
    sampler: Literal["halton", "uniform"] = Field(
        default="halton",
        description="A scrambled quasi-random sequence, which fills the space evenly, or random points.",
    )
    sampler_seed: int = 0
    size: bool = Field(
        default=False,
        description="Search a method's size (its `budget_option`) as well, where it is not matched to another row's: "
        "then rows have the sizes that are best, whatever these cost.",
    )


class FrozenStreamConfig(Config):
    """Everything that a stream's features of the frozen backbone depend on, besides the prepared store."""

    stream: Literal["visual", "audio"]
    kept: KeptFeatures
    backbone: BackboneConfig
    normalisation: NormalisationConfig
    cpu_threads: int = Field(default=1, ge=1)
    cpu_dispatch: Literal["avx2", "native"] = "avx2"


class RunConfig(Config):
    """One resolved configuration: with a seed, everything a training depends on."""

    task: TaskConfig
    modalities: Literal["audio_visual", "audio", "visual"] = "audio_visual"
    data: DataConfig
    normalisation: NormalisationConfig = NormalisationConfig()
    backbone: BackboneConfig = Field(description="The frozen backbone that both streams share.")
    backbones: StreamBackbones | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="Backbones of single streams, instead of the shared `backbone`.",
    )
    audio_encoder: AudioEncoderConfig | None = None
    adapter: AdapterConfig = AdapterConfig()
    fusion: FusionConfig = FusionConfig()
    training: TrainingConfig = TrainingConfig()
    select_on: Literal["val", "test"] = Field(
        default="val", description="'test' replicates published practice and is marked in every table."
    )
    tuning: SearchConfig | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="The search whose result replaces values of the configuration; from `tuned: true` in a table.",
    )
    randomise: tuple[Source, ...] = Field(
        default=SOURCES,
        exclude_if=lambda value: value == SOURCES,
        description="What follows the seed of a training: the initial weights; the order of batches, with dropout, "
        "other noise and sampled negatives; the clips that `data.fraction` draws. What is not named is the same for "
        "every seed.",
    )

    @field_validator("randomise")
    @classmethod
    def _in_one_order(cls, named: tuple[Source, ...]) -> tuple[Source, ...]:
        return tuple(source for source in SOURCES if source in named)

    @model_validator(mode="after")
    def _what_is_randomised_varies(self) -> RunConfig:
        if self.randomise == SOURCES or self.data.fraction < 1:
            return self
        if "composition" in self.randomise:
            raise ValueError(
                "`randomise` has 'composition', the draw of data.fraction, but all clips are used: give a fraction "
                "below 1, or remove it"
            )
        if len(self.randomise) == len(SOURCES) - 1:
            raise ValueError("with all clips, `randomise` names all that a seed changes anyway: remove the key")
        return self

    def seed_of(self, source: Source, seed: int) -> int:
        """Return the seed of a source of variance in the training with a seed."""
        return seed if source in self.randomise else FIXED_SEED

    def with_values(self, values: Mapping[str, Any]) -> RunConfig:
        """Return the run with other values, by their keys, such as `training.lr_adapter`."""
        return RunConfig.model_validate(with_values(self.model_dump(mode="json"), values))

    def used_backbones(self) -> tuple[BackboneConfig, ...]:
        """Return the backbone of the model's streams, then that of the audio stream if it has its own."""
        run = self.resolved()
        own = run.backbones and run.backbones.audio
        return (run.backbone, own) if own else (run.backbone,)

    def resolved(self) -> RunConfig:
        """Return the run with each stream's own input, and with `backbones` only if the streams differ in them.

        `backbone` is then that of the visual stream, or of the only one, `backbones.audio` that of the audio stream.
        """
        own = self.backbones
        if own is None or own.use == "none":
            return self.model_copy(update={"backbones": None}) if own else self
        keys = set(BackboneConfig.model_fields)
        plain = [(given or self.backbone).model_dump(include=keys) for given in (own.visual, own.audio)]
        visual, audio = map(BackboneConfig.model_validate, plain)
        data: dict[str, Any] = {}
        normalisation: dict[str, Any] = {}
        if own.visual is not None and self.modalities != "audio":
            data |= {"frame_size": own.visual.frame_size}
            normalisation |= {"frames": own.visual.normalisation}
        if own.audio is not None and self.modalities != "visual":
            data |= {"spectrogram": own.audio.spectrogram}
            normalisation |= {"audio": own.audio.normalisation}
        separate = self.modalities == "audio_visual" and audio != visual
        return self.model_copy(
            update={
                "backbone": audio if self.modalities == "audio" else visual,
                "backbones": StreamBackbones(audio=AudioBackboneConfig(**plain[1])) if separate else None,
                "data": _changed(self.data, data),
                "normalisation": _changed(self.normalisation, normalisation),
            }
        )

    def with_weights(self, first: WeightsConfig, audio: WeightsConfig | None) -> RunConfig:
        """Return a resolved run with other weights of its backbones."""
        own = self.backbones
        if own is not None and own.audio is not None:
            own = StreamBackbones(audio=own.audio.model_copy(update={"weights": audio}))
        return self.model_copy(
            update={"backbone": self.backbone.model_copy(update={"weights": first}), "backbones": own}
        )

    def kept_features(self, head_reads: KeptFeatures) -> dict[Literal["visual", "audio"], KeptFeatures]:
        """Return what is kept of each stream's features: what the head reads; of audio beside frames, pooled ones."""
        if self.modalities == "audio_visual":
            return {"visual": head_reads, "audio": "pooled"}
        return {self.modalities: head_reads}

    @property
    def streams_read(self) -> tuple[Literal["visual", "audio"], ...]:
        """The streams that predictions may depend on, also if a separate audio encoder alone hears."""
        if self.modalities == "visual" and (self.audio_encoder is None or self.audio_encoder.use == "none"):
            return ("visual",)
        return ("audio",) if self.modalities == "audio" else ("visual", "audio")

    @property
    def frozen(self) -> bool:
        """Whether the features of the backbone are the same float32 numbers in every epoch."""
        changing = any(used.tune_norms or used.stochastic_depth for used in self.used_backbones())
        return self.adapter.method == "none" and self.training.precision == "float32" and not changing

    @model_validator(mode="after")
    def _the_adapter_can_be_placed_and_directed(self) -> RunConfig:
        check_fusion(self.adapter.method, self.fusion)
        if self.fusion.adapted not in ("both", self.modalities) and self.modalities != "audio_visual":
            raise ValueError(
                f"fusion.adapted is '{self.fusion.adapted}', but modalities is '{self.modalities}': remove the key"
            )
        return self

    @model_validator(mode="after")
    def _audio_encoder_reads_what_is_prepared(self) -> RunConfig:
        if self.audio_encoder is None or self.audio_encoder.kind != "transformer":
            return self
        expected = option_model("audio_encoders", "transformer")(**self.audio_encoder.spec)
        for key, prepared in self.data.spectrogram:
            if getattr(expected, key, prepared) != prepared:
                raise ValueError(
                    f"audio_encoder.spec.{key} is {getattr(expected, key)}, but data.spectrogram.{key} is {prepared}: "
                    "the encoder reads the log-mels that are prepared, so give both the same"
                )
        if odd := self.data.spectrogram.model_dump(include={"filter_bank", "low_hz", "high_hz"}):
            raise ValueError(
                f"audio_encoder 'transformer' is trained on Kaldi's default filters: remove {', '.join(odd)} from "
                "data.spectrogram"
            )
        return self


class RowChoice(Config):
    """A backbone for rows with `each_backbone`, or another change that rows of a table are repeated with."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_]*$", description="Added to the variant of the row.")
    label: str = Field(description="Added to the label of the row, or to the title of its section.")
    set: dict[str, Any] = Field(description="Changes to the row, such as `backbone` and sizes in `data`.")
    set_by_task: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="Further changes for single tasks; merged into `set`."
    )


class TaskDefaults(BaseModel):
    """A task's changes to the defaults (any key of a run), and its name in tables."""

    model_config = ConfigDict(extra="allow", frozen=True)

    title: str | None = Field(default=None, description="Short name in the headings of tables over several tasks.")

    @property
    def changes(self) -> dict[str, Any]:
        """The changes to the defaults; null takes back what another file changes, so that the default holds again."""
        return {key: value for key, value in (self.model_extra or {}).items() if value is not None}


class WorkflowConfig(Config):
    """The whole of config/*.yaml: seeds, the defaults of a run, what each task changes, and the tables."""

    seeds: list[int] = Field(min_length=1, description="One training per row and seed.")
    defaults: dict[str, Any] = Field(description="The run configuration that rows start from.")
    tasks: dict[str, TaskDefaults] = Field(description="Changes of each task to the defaults.")
    backbones: list[RowChoice] = Field(default_factory=list, description="Backbones for rows with `each_backbone`.")
    tables: list[str] = Field(min_length=1, description="Names of files in config/tables/.")
    tuning: TuningConfig | Literal["none"] = Field(
        default="none",
        description="The search of tables with `tuned: true`, or 'none': their rows as they are written.",
    )
    method_paths: list[Path] = Field(
        default_factory=list,
        description="Python files with one method each; the name of the file is the name of the method.",
    )
    task_paths: list[Path] = Field(
        default_factory=list,
        description="Python files with one task each; the name of the file is the name of the task.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="cpu",
        description="Where pretraining, encoding, training and evaluation run: on the CPU, on GPUs, or ('auto') on the "
        "GPUs of this machine if it has any. No part of identities; the records name the device.",
    )
    jobs_per_gpu: int = Field(
        default=1, ge=1, description="Jobs that share a GPU of this machine; a small backbone leaves most of it idle."
    )
    frozen_weights: bool = Field(
        default=False,
        description="Refuse weights from the model hub that are neither in config/weights.lock.yaml nor pinned by a "
        "commit and a sha256.",
    )
    cache_features: Literal["auto", "none"] = Field(
        default="auto",
        description="Compute the features of a frozen backbone once for the rows that train nothing below the head and "
        "only read small features, or ('none') in every epoch of every run: on a CPU with equal results.",
    )
    fork_server: bool = Field(
        default=True,
        description="Fork jobs on this machine from one process that has imported all libraries (Linux). Without "
        "it every job starts its own interpreter: equal results, two seconds more per job.",
    )
    monitor: Literal["none", "tensorboard", "wandb"] = Field(
        default="none",
        description="Also write the course of each training to results/monitor/, for TensorBoard or as offline runs "
        "for Weights & Biases; the package must be installed. No part of identities.",
    )
    all_tasks: bool = Field(
        default=False,
        description="Run all rows on all tasks of the columns, ignoring the rows' `tasks`.",
    )

    @field_validator("method_paths", "task_paths")
    @classmethod
    def _make_available(cls, paths: list[Path], info: ValidationInfo) -> list[Path]:
        for path in paths:
            add_source("methods" if info.field_name == "method_paths" else "tasks", path)
        return paths
