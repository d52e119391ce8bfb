"""The rough time of trainings on a CPU."""

from __future__ import annotations

from lavish.config.schema import RunConfig
from lavish.config.validation import parse
from lavish.cost.cpu_time import GMACS_PER_SECOND, describe, training_macs
from tests.stores import run_values


def config(**changes: object) -> RunConfig:
    return parse(RunConfig, run_values(**changes), "test")


def composed(clips: int, **changes: object) -> RunConfig:
    data = {**run_values()["data"], "root": None}
    assets = {"kind": "procedural", "instances": {"train": 1, "val": 1, "test": 1}}
    data["compose"] = {"assets": assets, "clips": {"train": clips, "val": 1, "test": 1}}
    return config(data=data, **changes)


def test_multiply_adds_are_those_of_the_backbones():
    run = composed(7, training={"epochs": 3})
    tokens, width, blocks = 5, 16, 2
    image = 4 * 8 * 8 * 3 * width + blocks * (12 * tokens * width**2 + 2 * tokens**2 * width)
    there_and_back, segments, streams = 2, 2, 2
    assert training_macs([run]) == 3 * 7 * there_and_back * segments * streams * image
    assert training_macs([run, run]) == 2 * training_macs([run])
    part = composed(7, training={"epochs": 3, "passes": 2})
    part = part.model_copy(update={"data": part.data.model_copy(update={"fraction": 0.5})})
    assert training_macs([part]) == training_macs([run])
    frozen = composed(7, training={"epochs": 3}, adapter={"method": "none"})
    assert training_macs([frozen]) == training_macs([run]) / 2


def test_the_sentence_says_how_it_was_estimated(monkeypatch):
    assert describe([]) == ""
    days = 25.0
    monkeypatch.setattr("lavish.cost.cpu_time.training_macs", lambda _: days * 86400 * GMACS_PER_SECOND * 1e9)
    said = describe([config()])
    assert said.startswith("On a CPU the training would take up to 25 days of one core: the multiply-adds")
