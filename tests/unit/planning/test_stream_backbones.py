"""Backbones of single streams: which ones a run uses, its inputs, and its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lavish.config.schema import RunConfig
from lavish.config.validation import parse
from lavish.errors import LavishError
from lavish.planning.identities import Identities, Run
from tests.stores import run_values

OTHER = {"model": "vit", "spec": {"embed_dim": 8}, "weights": {"source": "random", "seed": 7}}


def run(modalities: str = "audio_visual", **backbones: Any) -> Run:
    """Return the run with these backbones of single streams."""
    values = run_values(modalities=modalities, **({"backbones": backbones} if backbones else {}))
    return named(parse(RunConfig, values, "test"))


def named(config: RunConfig) -> Run:
    identities = Identities()
    identities.needs_inputs = False  # there are no data
    return identities.run(config)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_run_without_them_has_the_shared_backbone_only():
    shared = run()
    assert shared.audio_backbone is None
    assert "backbones" not in shared.config.model_dump(mode="json")
    assert run(use="none", audio=OTHER) == shared


def test_the_backbone_of_each_stream_is_part_of_the_name():
    audio, visual = run(audio=OTHER), run(visual=OTHER)
    assert len({run().name, audio.name, visual.name}) == 3
    assert audio.backbone == run().backbone and audio.audio_backbone == visual.backbone
    assert visual.audio_backbone == run().backbone
    again = named(audio.config)
    assert (again.name, again.config) == (audio.name, audio.config)


def test_equal_backbones_are_one_shared_backbone():
    shared = run_values()["backbone"]
    assert run(audio=shared) == run(visual=shared) == run()


def test_a_model_of_one_stream_has_its_backbone_only():
    assert run("audio", audio=OTHER).backbone == run(audio=OTHER).audio_backbone
    assert run("audio", audio=OTHER).audio_backbone is None
    assert run("visual", audio=OTHER) == run("visual")


def test_each_stream_has_its_own_input():
    own = {"mel_bins": 64, "frames": 32}
    found = run(
        visual={**OTHER, "frame_size": 32, "normalisation": "train"},
        audio={**OTHER, "spectrogram": own, "normalisation": [1.0, 2.0]},
    ).config
    assert (found.data.frame_size, found.data.spectrogram.mel_bins) == (32, 64)
    assert (found.normalisation.frames, found.normalisation.audio) == ("train", (1.0, 2.0))
    assert len(found.used_backbones()) == 1  # only their inputs differ


def test_a_misspelt_key_names_the_stream():
    with pytest.raises(LavishError, match=r"backbones\.audio\.spectogram"):
        run(audio={**OTHER, "spectogram": {}})
