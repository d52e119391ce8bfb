"""The model of a configuration with uninitialised weights, for counting: needs neither data nor weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch.overrides import TorchFunctionMode

from lavish.learner.build import build_model, frozen_backbones
from lavish.learner.model import AudioVisualModel
from lavish.models.audio_encoders.build import build

if TYPE_CHECKING:
    from lavish.config.schema import RunConfig
    from lavish.models.audio_encoders.base import AudioEncoder
    from lavish.models.backbones.base import Backbone

_STATISTICS = {"frames": {"mean": [0.5] * 3, "std": [0.5] * 3}, "log_mels": {"mean": 0.0, "std": 1.0}}


def uninitialised_backbones(config: RunConfig) -> tuple[Backbone, Backbone | None]:
    """Build the backbones of a configuration; see :func:`lavish.learner.build.frozen_backbones`."""
    with skip_initialisation():
        return frozen_backbones(config, None, None)


def uninitialised_model(
    config: RunConfig, backbones: tuple[Backbone, Backbone | None] | None = None
) -> tuple[AudioVisualModel, AudioEncoder | None]:
    """Build the model of a configuration, with existing `backbones` if they are given.

    Returns:
        The model, and the separate audio encoder if the configuration has one.
    """
    with skip_initialisation():
        encoder = build(config.audio_encoder.kind, config.audio_encoder.spec) if config.audio_encoder else None
        model = build_model(
            config,
            classes=[str(index) for index in range(config.data.num_classes)],
            vocabulary=config.data.vocabulary,
            statistics=_STATISTICS,
            weights=None,
            audio_feature_dim=encoder.feature_dim if encoder else 0,
            backbones=backbones,
        )
    return model, encoder


_DRAWING = {"uniform_", "normal_", "trunc_normal_", "erfinv_", "bernoulli_", "exponential_"}


@contextmanager
def skip_initialisation() -> Iterator[None]:
    """Build models without initialising their weights, because counts do not depend on the values."""
    with _NothingDrawn():
        yield


class _NothingDrawn(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        drawn = getattr(function, "__module__", None) == "torch.nn.init" or function.__name__ in _DRAWING
        return (args[0] if args else kwargs["tensor"]) if drawn else function(*args, **kwargs)
