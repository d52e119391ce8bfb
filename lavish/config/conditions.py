"""The conditions that finished runs are evaluated under: changes of the test split, declared in config/conditions.yaml.

Plain data like :mod:`lavish.config.schema`. What a condition does to sounds and pictures is in
:mod:`lavish.data.store.conditions`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, RootModel, model_validator

from lavish.config.hashing import digest
from lavish.config.schema import Config
from lavish.config.source_code import module_digest
from lavish.config.sources import SourceError

StreamName = Literal["visual", "audio"]
CODE = "data.store.conditions"
"""The module of this package whose code is part of a condition's identity."""


class BaseCondition(Config):
    """What all conditions have in common."""

    title: str = Field(description="Name in headings, figures and notes; not part of the identity.")


class Silence(BaseCondition):
    """The sound is silenced: digital zeros."""

    kind: Literal["silence"]
    stream: ClassVar[StreamName] = "audio"

    @property
    def effect(self) -> str:
        """What it does, for notes."""
        return "the waveform is zero"


class Noise(BaseCondition):
    """White Gaussian noise is added to the sound of each clip. A silent clip stays silent."""

    kind: Literal["noise"]
    snr_db: float = Field(description="Signal-to-noise ratio over the whole clip, decibels.")
    seed: int = Field(ge=0)
    stream: ClassVar[StreamName] = "audio"

    @property
    def effect(self) -> str:
        """What it does, for notes."""
        return f"white Gaussian noise at {self.snr_db:g} dB (signal-to-noise ratio over the clip) is added"


class Shift(BaseCondition):
    """The sound is late: shifted in time against the pictures, its end played first."""

    kind: Literal["shift"]
    segments: int = Field(ge=1, description="By how many segments.")
    stream: ClassVar[StreamName] = "audio"

    @property
    def effect(self) -> str:
        """What it does, for notes."""
        by = "one segment" if self.segments == 1 else f"{self.segments} segments"
        return f"the sound comes {by} late, its end first"


class Blur(BaseCondition):
    """The pictures are blurred by a Gaussian."""

    kind: Literal["blur"]
    sigma: float = Field(gt=0, le=1, description="Standard deviation, as a part of the picture's height.")
    stream: ClassVar[StreamName] = "visual"

    @property
    def effect(self) -> str:
        """What it does, for notes."""
        return f"frames are blurred by a Gaussian with a standard deviation of {100 * self.sigma:g} % of their height"


class Darken(BaseCondition):
    """The pictures are darkened: pixel values times a factor."""

    kind: Literal["darken"]
    factor: float = Field(ge=0, lt=1)
    stream: ClassVar[StreamName] = "visual"

    @property
    def effect(self) -> str:
        """What it does, for notes."""
        return f"pixel values are multiplied by {self.factor:g}"


class Swap(BaseCondition):
    """The stream is that of another clip of the split, drawn from those of other classes."""

    kind: Literal["swap"]
    stream: StreamName
    seed: int = Field(ge=0)

    @property
    def effect(self) -> str:
        """What it does, for notes."""
        what = "sound is that" if self.stream == "audio" else "frames are those"
        return f"the {what} of another clip of the split, of another class where clips have one"


class MissingStream(BaseCondition):
    """The stream is missing: its input is constant, the mean that normalisation subtracts."""

    kind: Literal["missing"]
    stream: StreamName

    @property
    def effect(self) -> str:
        """What it does, for notes."""
        what = "spectrograms" if self.stream == "audio" else "frames"
        return f"the {what} are the mean that normalisation subtracts, which leaves zeros"


Condition = Annotated[
    Silence | Noise | Shift | Blur | Darken | Swap | MissingStream,
    Field(discriminator="kind"),
]
ConditionName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]


class Conditions(RootModel[dict[ConditionName, Condition]]):
    """The file config/conditions.yaml: conditions by the names that columns and figures of tables use."""


class NamedCondition(Config):
    """A condition with its name and the digest of the code that carries it out, as a planned evaluation has it."""

    name: ConditionName
    condition: Condition
    code: str

    @classmethod
    def of(cls, name: str, condition: Condition) -> NamedCondition:
        """Return a declared condition with the digest of the code as it is now."""
        return cls(name=name, condition=condition, code=module_digest(CODE))

    @model_validator(mode="after")
    def _the_code_is_the_planned_one(self) -> NamedCondition:
        if self.code != module_digest(CODE):
            raise SourceError(
                "the code of the conditions has changed since this job was planned, so its result would have the name "
                "of another: restore the code, or call snakemake again to plan anew"
            )
        return self

    @property
    def stream(self) -> StreamName:
        """The stream that is disturbed."""
        return self.condition.stream

    @property
    def identity(self) -> str:
        """The name with a hash of everything that the condition does."""
        definition = self.condition.model_dump(mode="json", exclude={"title"}, exclude_defaults=True)
        return f"{self.name}-{digest('condition', definition, self.code)}"

    @property
    def folder(self) -> str:
        """Name of the folder of an evaluation on the test split under this condition."""
        return f"test-{self.identity}"
