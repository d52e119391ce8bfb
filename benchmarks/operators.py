"""Operators that a step of LAVISH calls on a ViT, counted on a CPU, as it is and with compiled modules.

    python benchmarks/operators.py            # 12 blocks of width 384, 2 pairs of 56 px: a minute, needs a C++ compiler
    python benchmarks/operators.py --blocks 2

Counted are torch's calls (`aten::...`, those within others included) in a forward pass of the encoder and the backward
pass from its pooled features, without head and optimizer, in the third step: the first one compiles. The kernels
that the compiler writes are no such calls. `copies` are gradients that autograd copies because it may not take them.
"""

from __future__ import annotations

import argparse

import torch
from torch.profiler import profile

from lavish.learner.encoder import TwoStreamEncoder
from lavish.models.backbones.build import build_backbone
from lavish.training.device import seed_everything


def counted(blocks: int, *, compiled: bool) -> tuple[int, int]:
    """Return the operators of a step, and how many of them copy gradients."""
    spec = {"img_size": 56, "patch_size": 14, "embed_dim": 384, "depth": blocks, "num_heads": 6}
    backbone = build_backbone("vit", spec, 56).requires_grad_(False)
    encoder = TwoStreamEncoder(backbone, method="lavish", compiled=compiled).train()
    backbone.eval()
    images = {stream: torch.randn(2, 3, 56, 56) for stream in encoder.streams}

    def step() -> None:
        visual, audio = encoder(images).values()
        (visual.pooled.sum() + audio.pooled.sum()).backward()
        for parameter in encoder.parameters():
            parameter.grad = None

    step()
    step()
    with profile() as found:
        step()
    calls = [event for event in found.events() or () if event.name.startswith("aten::")]
    own = [event for event in calls if event.cpu_parent and event.cpu_parent.name == "torch::autograd::AccumulateGrad"]
    return len(calls), sum(event.name != "aten::detach" for event in own)


def main() -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=12)
    blocks = parser.parse_args().blocks
    seed_everything(0, deterministic=True)
    import torch.utils._triton

    torch.utils._triton.has_triton = lambda: True  # the compiler for a CPU makes the same graphs, and needs no Triton
    for compiled in (False, True):
        calls, copies = counted(blocks, compiled=compiled)
        print(f"{'compiled' if compiled else 'as it is':10}{calls:8,} operators, {copies} copies")


if __name__ == "__main__":
    main()
