"""`lavish methods`: every method with what it trains and costs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lavish.cli.main import main
from lavish.config.options import budget_option, summary
from lavish.methods.registry import methods


@pytest.fixture(autouse=True)
def repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, dict[str, list[str]]]:
    """Return the first line of the output and the cells of each method's line."""
    assert main(["methods", *arguments]) == 0
    first, _, *table = capsys.readouterr().out.splitlines()
    rules = table[1]
    columns = [(found.start(), found.end()) for found in re.finditer("-+", rules)]
    lines = [[line[start:end].strip() for start, end in columns] for line in table[2:]]
    return first, {line[0]: line[1:] for line in lines}


def test_every_method_on_the_embedded_default(capsys: pytest.CaptureFixture[str]) -> None:
    first, lines = listed(capsys)
    assert "event_localization on vit" in first
    assert "one clip of 3 segments, frames 48 x 48, spectrograms 48 x 48" in first
    assert list(lines) == ["none", *methods()]
    head = int(lines["none"][0].replace(",", ""))
    for name in methods():
        trained, adapter, total, size, _, what = lines[name]
        if what.startswith("Not at its defaults"):
            assert (trained, adapter, total) == ("–", "–", "–")
            continue
        assert int(trained.replace(",", "")) > head
        assert float(total) >= float(lines["none"][2])
        assert float(adapter) >= 0
        assert what == summary("methods", name)
        assert size.startswith(f"{budget_option(name)} ") if budget_option(name) else size == ""
    # As the reference table of the ablation has it.
    assert lines["lavish"][:5] == ["87,337", "0.00139", "0.0179", "reduction 8", "yes"]


def test_a_named_backbone_gets_pictures_of_its_own_size(capsys: pytest.CaptureFixture[str]) -> None:
    first, lines = listed(capsys, "lavish", "--backbone", "vit_tiny_patch16_224", "--task", "segmentation_s4")
    assert "segmentation on vit_tiny_patch16_224" in first
    assert "1 segment, frames 224 x 224, spectrograms 224 x 224" in first
    assert list(lines) == ["none", "lavish"]
    # 12 blocks, 2 sublayers, 2 streams; width 192, hidden 24.
    adapter = 2 * 192 * 24 // 2 + 2 * (192 + 24) + 4 * 192 + 2 * 192 + 2
    trained, head = (int(lines[name][0].replace(",", "")) for name in ("lavish", "none"))
    assert trained - head == 48 * adapter


def test_a_method_that_a_backbone_does_not_suit_has_a_line_that_says_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # A reduction of 8 leaves a width of 3, which two groups do not divide.
    narrow = tmp_path / "narrow.yaml"
    narrow.write_text("defaults: {backbone: {spec: {embed_dim: 24}}}\n")
    _, lines = listed(capsys, "lavish", "--configfile", str(narrow))
    assert lines["lavish"][:3] == ["–"] * 3
    assert lines["lavish"][-1].startswith("Not at its defaults: adapter.options.groups: 2 does not divide")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lavsh"], "unknown method 'lavsh' (did you mean 'lavish'?)"),
        (["lavish", "--backbone", "resnet50"], "--backbone: 'resnet50' is no ViT or Swin"),
        (["lavish", "--backbone", "vit_tiny_patch16_22"], "did you mean 'vit_tiny_patch16_224'?"),
        (["lavish", "--task", "localization"], "the configuration has no task 'localization'"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", *arguments]) == 1
    assert message in capsys.readouterr().err
