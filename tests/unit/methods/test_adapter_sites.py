"""Sites of adapters: their order, names, token counts and patch grids."""

from __future__ import annotations

import pytest

from lavish.checks.method import small_backbone as build
from lavish.methods.base import adapter_sites
from lavish.models.interfaces import STREAMS, MethodContext, other_stream
from lavish.models.pairing import pair_blocks


@pytest.mark.parametrize(("name", "audio_size"), [("vit", (16, 64)), ("swinv2", (32, 32))])
def test_sites_have_the_grids_of_both_streams(name, audio_size):
    backbone = build(name)
    prefix = backbone.num_prefix_tokens
    grids = {stream: backbone.grid_sizes(size) for stream, size in {"visual": (32, 32), "audio": audio_size}.items()}
    blocks = tuple(range(backbone.num_blocks))
    backbones = dict.fromkeys(STREAMS, backbone)
    context = MethodContext(
        backbones=backbones,
        readers=frozenset({"audio"}),
        steps=pair_blocks(backbones),
        tokens={stream: tuple(prefix + rows * columns for rows, columns in grids[stream]) for stream in STREAMS},
        grids=grids,
        segments=1,
    )
    sites = list(adapter_sites(context))
    assert [site.name for site in sites] == [
        f"{block}_{position}_{stream}" for block in blocks for position in ("attention", "ffn") for stream in STREAMS
    ]
    for site in sites:
        other = other_stream(site.stream)
        assert (site.grid, site.other_grid) == (grids[site.stream][site.block], grids[other][site.block])
        assert site.tokens == prefix + site.grid[0] * site.grid[1]
        assert site.other_tokens == prefix + site.other_grid[0] * site.other_grid[1]
        assert site.cross_modal == (site.stream == "audio")
    assert (sites[0].grid != sites[0].other_grid) == (name == "vit")


def test_single_stream_is_its_own_other_stream():
    backbone = build("vit")
    grids = {"audio": backbone.grid_sizes((32, 32))}
    tokens = {"audio": (5,) * backbone.num_blocks}
    context = MethodContext({"audio": backbone}, frozenset(), ({"audio": 1},), tokens, grids, segments=1)
    sites = list(adapter_sites(context, ("ffn",)))
    assert [site.name for site in sites] == ["1_ffn_audio"]
    assert sites[0].other_grid == sites[0].grid
