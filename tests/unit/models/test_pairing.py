"""Which blocks of two backbones run side by side."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lavish.models.pairing import pair_blocks


def paired(visual: tuple[int, ...], audio: tuple[int, ...]) -> dict[int, int]:
    """Return the audio block beside each visual one, for backbones with these blocks per scale."""
    backbones = {
        stream: SimpleNamespace(scale_depths=depths, num_blocks=sum(depths))
        for stream, depths in {"visual": visual, "audio": audio}.items()
    }
    steps = pair_blocks(backbones)
    for stream, backbone in backbones.items():  # every block runs once, in order
        assert [step[stream] for step in steps if stream in step] == list(range(backbone.num_blocks))
    assert all(list(step) == [s for s in ("visual", "audio") if s in step] for step in steps)
    return {step["visual"]: step["audio"] for step in steps if len(step) == 2}


def test_equal_depths_are_paired_one_to_one():
    assert paired((12,), (12,)) == {block: block for block in range(12)}
    assert paired((2, 2, 18, 2), (2, 2, 18, 2)) == {block: block for block in range(24)}


def test_dg_sct_pairs_swin_v2_l_and_hts_at():
    third = {4 + 3 * j + 2: 4 + j for j in range(6)}
    assert paired((2, 2, 18, 2), (2, 2, 6, 2)) == {0: 0, 1: 1, 2: 2, 3: 3, **third, 22: 10, 23: 11}


def test_cola_pairs_every_second_block_of_a_backbone_of_twice_the_depth():
    assert paired((24,), (12,)) == {2 * j + 1: j for j in range(12)}
    assert paired((12,), (24,)) == {j: 2 * j + 1 for j in range(12)}


@pytest.mark.parametrize(
    ("visual", "audio", "expected"),
    [
        ((3,), (2,), {1: 0, 2: 1}),
        ((2, 2, 6, 2), (12,), {block: block for block in range(12)}),
        ((2, 2), (6,), {j: (j + 1) * 6 // 4 - 1 if j % 2 else -(-(j + 1) * 6 // 4) - 1 for j in range(4)}),
        ((1, 3), (3, 1), {0: 2, 3: 3}),
    ],
)
def test_other_depths(visual, audio, expected):
    assert paired(visual, audio) == expected


def test_one_stream_runs_alone():
    assert pair_blocks({"audio": SimpleNamespace(num_blocks=3)}) == ({"audio": 0}, {"audio": 1}, {"audio": 2})
