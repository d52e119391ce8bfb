"""Declared conditions: validation and identities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from lavish.config import conditions
from lavish.config.conditions import Condition, Conditions, NamedCondition
from lavish.config.validation import parse
from lavish.errors import LavishError

NOISE = {"title": "Noise", "kind": "noise", "snr_db": 10, "seed": 0}


def named(name: str = "noisy", **changes: Any) -> NamedCondition:
    return NamedCondition.of(name, TypeAdapter(Condition).validate_python(NOISE | changes))


def test_the_declared_conditions_cover_every_kind() -> None:
    values = yaml.safe_load((Path(__file__).parents[3] / "config/conditions.yaml").read_text())
    declared = parse(Conditions, values, "config/conditions.yaml").root
    kinds = {model.model_fields["kind"].annotation.__args__[0] for model in conditions.BaseCondition.__subclasses__()}
    assert {one.kind for one in declared.values()} == kinds
    assert {one.stream for one in declared.values()} == {"audio", "visual"}
    assert all(one.title and one.effect for one in declared.values())
    assert len({one.title for one in declared.values()}) == len(declared)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"snr_bd": 3}, "unknown key 'noisy.noise.snr_bd' (did you mean 'snr_db'?)"),
        ({"snr_db": None}, "key 'noisy.noise.snr_db': Input should be a valid number"),
        ({"kind": "noize"}, "key 'noisy': Input tag 'noize'"),
        ({"stream": "audio"}, "key 'noisy.noise.stream': 'noise' has no 'stream': remove it"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LavishError) as caught:
        parse(Conditions, {"noisy": NOISE | changes}, "config/conditions.yaml")
    assert str(caught.value).startswith("config/conditions.yaml:")
    assert message in str(caught.value)


def test_names_are_plain() -> None:
    with pytest.raises(LavishError, match="String should match pattern"):
        parse(Conditions, {"10 dB": NOISE}, "conditions.yaml")


def test_what_a_condition_does_is_its_identity_and_its_title_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    first = named()
    assert first.identity.startswith("noisy-") and first.folder == f"test-{first.identity}"
    assert named(title="Another").identity == first.identity
    others = {named(snr_db=5).identity, named(seed=1).identity, named("loud").identity}
    monkeypatch.setattr(conditions, "module_digest", lambda _: "0123456789abcdef")
    assert len({first.identity, named().identity, *others}) == 5


def test_code_that_changed_since_the_plan_is_refused() -> None:
    planned = named().model_dump(mode="json")
    assert parse(NamedCondition, planned, "--condition") == named()
    with pytest.raises(LavishError, match="the code of the conditions has changed since this job was planned"):
        parse(NamedCondition, planned | {"code": "0123456789abcdef"}, "--condition")


@pytest.mark.parametrize(
    ("values", "effect"),
    [
        ({"kind": "shift", "segments": 1}, "the sound comes one segment late, its end first"),
        ({"kind": "shift", "segments": 2}, "the sound comes 2 segments late, its end first"),
        (
            {"kind": "blur", "sigma": 0.08},
            "frames are blurred by a Gaussian with a standard deviation of 8 % of their height",
        ),
        ({"kind": "darken", "factor": 0.1}, "pixel values are multiplied by 0.1"),
        (
            {"kind": "missing", "stream": "audio"},
            "the spectrograms are the mean that normalisation subtracts, which leaves zeros",
        ),
    ],
)
def test_effects_are_said_with_their_numbers(values: dict[str, Any], effect: str) -> None:
    condition: Any = TypeAdapter(Condition).validate_python({"title": "", **values})
    assert condition.effect == effect
