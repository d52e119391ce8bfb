"""A training step against the frozen backbone's own forward and activation backward on both streams.

    python benchmarks/training_step.py [--model vit_base_patch16_224 --size 224 --batch 2]

Without arguments the embedded default's backbone and batch. Prints medians over repeated, interleaved steps.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch

from lavish.learner.encoder import TwoStreamEncoder
from lavish.models.backbones.build import build_backbone

DEFAULT = {
    "img_size": 48, "patch_size": 8, "embed_dim": 64, "depth": 4, "num_heads": 4, "class_token": False,
    "global_pool": "avg", "fc_norm": False,
}  # fmt: skip


def main() -> None:
    """Print both times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit", help="timm name, or 'vit' for the embedded default's")
    parser.add_argument("--size", type=int, default=48, help="side of an image, pixels")
    parser.add_argument("--batch", type=int, default=48, help="clips x steps of a batch")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    backbone = build_backbone(options.model, DEFAULT if options.model == "vit" else {}, options.size)
    images = {name: torch.randn(options.batch, 3, options.size, options.size) for name in ("visual", "audio")}
    encoder = TwoStreamEncoder(backbone).train()
    optimizer = torch.optim.Adam([p for p in encoder.parameters() if p.requires_grad], lr=1e-3)

    def frozen() -> None:
        # Both streams as one batch; gradients of activations only, as adapters in the first block need them.
        tokens = backbone.embed(torch.cat(list(images.values()))).requires_grad_()
        for index in range(backbone.num_blocks):
            tokens = backbone.enter(index, tokens)
            tokens = tokens + backbone.attention(index, tokens)
            tokens = tokens + backbone.ffn(index, tokens)
        backbone.pool(backbone.final(tokens)).sum().backward()

    def step() -> None:
        sum(features.pooled.sum() for features in encoder(images).values()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    seconds: dict[str, list[float]] = {"frozen": [], "step": []}
    for repeat in range(options.repeats + 2):
        for name, function in (("frozen", frozen), ("step", step)):
            started = time.perf_counter()
            function()
            if repeat >= 2:
                seconds[name].append(time.perf_counter() - started)
    base, full = median(seconds["frozen"]), median(seconds["step"])
    print(f"frozen backbone, both streams, forward and activation backward: {base * 1000:.1f} ms")
    print(f"training step with LAVISH adapters and Adam:                    {full * 1000:.1f} ms ({full / base:.2f} x)")


if __name__ == "__main__":
    main()
