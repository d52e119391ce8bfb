"""Time and memory of a training step and of inference, as ratios to the frozen backbone as timm computes it.

    python benchmarks/training_step.py [--model swinv2_base_window12_192 --size 192 --pairs 4 --threads 2] [--json FILE]
    LAVISH_CPU_DISPATCH=native python benchmarks/training_step.py --learners float32 bf16

Without arguments the embedded default's backbone and batch. All variants take turns in one process: the frozen backbone
of timm, ours, and the learner with LAVISH adapters and Adam. A training step of the frozen backbone is its forward pass
on both streams and the gradient of its activations, which adapters in the first block need. Weights are random.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lavish.runtime.cpu_dispatch import limit

limit()

import pandas
import torch
import yaml
from measuring import frozen_timm, medians
from torch import Tensor, nn

from lavish.learner.encoder import TwoStreamEncoder
from lavish.models.backbones.base import Backbone
from lavish.models.backbones.build import build_backbone
from lavish.models.interfaces import STREAMS, Stream
from lavish.provenance import git_state, machine, versions
from lavish.training.device import autocast

CPU = torch.device("cpu")
CONFIG = Path(__file__).parents[1] / "config/config.yaml"


def main() -> None:
    """Print medians over repeated, interleaved runs, and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="timm name; the embedded default's backbone if omitted")
    parser.add_argument("--size", type=int, default=48, help="side of an image, pixels")
    parser.add_argument("--pairs", type=int, default=48, help="pairs of a frame and a spectrogram in a batch")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--learners", nargs="+", default=["float32", "float32:adapters"], metavar="PRECISION[:RECOMPUTE]",
        help="of training.precision and training.recompute; bf16 is fast with LAVISH_CPU_DISPATCH=native",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, help="file for the numbers, with machine and versions")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model, backbone = build(options.model, options.size).model, build(options.model, options.size)
    images = torch.randn(2 * options.pairs, 3, options.size, options.size)
    steps: dict[str, Callable[[], None]] = {
        "timm": lambda: frozen_timm(model, images),
        "frozen": lambda: frozen_own(backbone, images),
    }
    inferences: dict[str, Callable[[], Any]] = {
        "timm": lambda: model.forward_features(images),
        "frozen": lambda: backbone(images),
    }
    modules: list[nn.Module] = [model, backbone]
    for learner in options.learners:
        precision, _, recompute = learner.partition(":")
        encoder = TwoStreamEncoder(build(options.model, options.size), recompute=recompute or "none")
        if precision != "float32":
            encoder.backbone.cast_products(torch.bfloat16)
        steps[learner] = training_step(encoder, images, precision)
        inferences[learner] = inference(encoder, images, precision)
        modules.append(encoder)

    found = {"step, s": medians(steps, CPU, repeats=options.repeats)}
    with torch.inference_mode():
        found["inference, s"] = medians(inferences, CPU, repeats=options.repeats)
    found["kept, MB"] = {name: kept_megabytes(step, modules) for name, step in steps.items()}
    table = pandas.DataFrame(found)
    ratios = (table / table.loc["timm"]).add_suffix(" / timm")
    print(pandas.concat([table, ratios], axis=1).round(4).to_markdown())
    if options.json:
        facts = {"arguments": sys.argv[1:], "versions": versions(), "machine": machine(), "git": git_state()}
        options.json.write_text(json.dumps(found | facts, indent=2) + "\n", encoding="utf-8")


def build(name: str | None, size: int) -> Backbone:
    """Return a frozen backbone, always with the same weights; its `model` is timm's."""
    spec = {} if name else yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["defaults"]["backbone"]["spec"]
    torch.manual_seed(0)
    return build_backbone(name or "vit", spec, size).eval()


def streams(images: Tensor) -> dict[Stream, Tensor]:
    """Return the images as two streams."""
    return dict(zip(STREAMS, images.chunk(2), strict=True))


def frozen_own(backbone: Backbone, images: Tensor) -> None:
    """Do what `frozen_timm` does with our backbone."""
    tokens = backbone.embed(images).requires_grad_()
    for index in range(backbone.num_blocks):
        tokens = backbone.enter(index, tokens)
        tokens = tokens + backbone.attention(index, tokens)
        tokens = tokens + backbone.ffn(index, tokens)
    backbone.final(tokens).sum().backward()


def training_step(encoder: TwoStreamEncoder, images: Tensor, precision: str) -> Callable[[], None]:
    """Return a step of Adam on both streams."""
    optimizer = torch.optim.Adam([p for p in encoder.parameters() if p.requires_grad], lr=1e-3, fused=True)

    def step() -> None:
        with autocast(CPU, precision):
            features = encoder.train()(streams(images))
        torch.stack([f.tokens.float().sum() for f in features.values()]).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def inference(encoder: TwoStreamEncoder, images: Tensor, precision: str) -> Callable[[], None]:
    """Return a forward pass of both streams in evaluation."""

    def forward() -> None:
        with autocast(CPU, precision):
            encoder.eval()(streams(images))

    return forward


def kept_megabytes(step: Callable[[], None], modules: Iterable[nn.Module]) -> float:
    """Return what a step keeps for its backward pass besides parameters and buffers, MB."""
    weights = {x.untyped_storage().data_ptr() for m in modules for x in (*m.parameters(), *m.buffers())}
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    return sum(sizes.values()) / 1e6


if __name__ == "__main__":
    main()
