"""The counts of other methods on the backbones they were published with, by the closed formulas of their code."""

from __future__ import annotations

from pathlib import Path

import pytest

from lavish.cost.job import count_run_parameters
from lavish.learner.uninitialised import uninitialised_model
from lavish.planning.experiments import load

ROOT = Path(__file__).parents[3]
# Width and tokens of each block where Swin-V2-L (192 px) and HTS-AT (64 mel bins) meet: 2/2/6/2 pairs.
_PAIRS = (2, 2, 6, 2)
_VISUAL = [(192 * 2**stage, 2304 // 4**stage) for stage, pairs in enumerate(_PAIRS) for _ in range(pairs)]
_AUDIO = [(96 * 2**stage, 4096 // 4**stage) for stage, pairs in enumerate(_PAIRS) for _ in range(pairs)]
_SITES = [(own, other) for a, b in zip(_VISUAL, _AUDIO, strict=True) for own, other in ((a, b), (b, a))]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch):
    """Return a function that counts a row of the cost table."""
    monkeypatch.chdir(ROOT)
    table = load([ROOT / "config/config.yaml"]).table("cost")
    rows = {row["variant"]: row for section in table.spec["sections"] for row in section["rows"]}

    def count(variant: str) -> dict[str, int]:
        folder = rows[variant]["runs"][rows[variant]["task"]]["folder"]
        config = next(run for run in table.runs if run.folder == folder).config
        return count_run_parameters(config, *uninitialised_model(config))

    return count


def bottleneck(c: int) -> int:
    """Reduction 8, two groups, batch norms inside, layer norms around."""
    return 2 * c * (c // 8) // 2 + 2 * (c // 8) + 2 * c + 4 * c


def token_map(own: tuple[int, int], other: tuple[int, int]) -> int:
    (c, n), (other_c, other_n) = own, other
    return other_n * n + n + other_c * c + c


def temporal_part(d: int = 256) -> int:
    """Maps, LSTMs in both directions, two layers of relations, a gate and a layer of queries in both streams."""

    def recurrence(width: int, inner: int, hidden: int) -> int:
        return (width + 1) * inner + 2 * 4 * hidden * (inner + hidden + 2)

    layer = 4 * (d + 1) * d + (d + 1) * 4 * d + (4 * d + 1) * d + 4 * d
    reading = 2 * (2 * d + 1) * d + 2 * (d + 1) * d + 2 * (3 * layer + d + 1)
    return recurrence(1536, 2 * d, d) + recurrence(768, d // 2, d // 2) + reading


def test_dg_sct_on_swin_v2_l_and_hts_at(counted):
    adapters = 2 * sum(
        4 * c * c + 5 * c + 1 + token_map((c, n), other) + 32 * c + bottleneck(c) + 2 for (c, n), other in _SITES
    )
    found = counted("dg_sct_published")
    assert found["adapter_params"] == adapters + temporal_part()
    # Published: 197.5 M by the formulas of the public code, of which 0.55 M are its own head (ours is LAVISH's).
    assert abs(adapters - 188.5e6) < 0.1e6
    assert abs(found["trainable_params"] - 197.5e6) < 1e6


def test_av_moe_on_swin_v2_l_and_hts_at(counted):
    # Stages 2 and 4 have no adapters: the sites of the first two pairs and of the fifth to the tenth remain.
    sites = [site for index, site in enumerate(_SITES) if index // 2 in (0, 1, *range(4, 10))]
    router = [256 * c + 4256 + 33 * 2 for (c, _), _ in sites]
    experts = [2 * (bottleneck(c) + 1) + 32 * c + 1 for (c, _), _ in sites]
    adapters = 2 * (sum(token_map(*site) for site in sites) + sum(router) + sum(experts))
    assert counted("av_moe_published")["adapter_params"] == adapters + temporal_part()
    assert abs(adapters - 90.5e6) < 0.1e6  # of the public code


def test_lavish_on_swin_v2_l_and_hts_at_adds_a_map_between_the_widths(counted):
    def adapter(c: int) -> int:
        return 2 * c + bottleneck(c) + 2

    maps = 2 * sum(other_c * c + c for (c, _), (other_c, _) in _SITES)
    # Twelve blocks of Swin's third stage run alone: without latent tokens and their gate.
    alone = 2 * 12 * (bottleneck(768) + 1)
    assert (
        counted("audio_backbone_adapted")["adapter_params"]
        == 2 * sum(adapter(c) for (c, _), _ in _SITES) + maps + alone
    )


def test_cola_on_dinov2_b_and_a_transformer_of_spectrograms(counted):
    # 742,758 in each of 24 blocks, of which a hyper-network reads 768 channels of the other stream.
    assert counted("cola_published")["adapter_params"] == 24 * 742_758
    assert abs(counted("cola_published")["trainable_params"] - 18.6e6) < 0.05e6  # published


def test_stg_cma_on_clip_is_exactly_the_published_count(counted):
    assert counted("stg_cma_clip_vit_l")["trainable_params"] == 20_117_581  # 20.1 M in its run scripts


def test_stg_cma_on_swin_l_is_exactly_the_published_count(counted):
    assert counted("stg_cma_swin_l")["trainable_params"] == 19_026_857  # 19 M in its run scripts
