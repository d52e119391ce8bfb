"""Pretraining of the small frozen backbone: classify the object that covers each token.

Only images, as in the paper, and objects of other classes than the task's: a backbone trained on the task's own classes
would leave nothing for the adapters to learn. Labels per token train a small transformer in a minute, labels per image
do not (Jiang et al., "All Tokens Matter: Token Labeling", NeurIPS 2021).
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from lavish.config.schema import EXPLICIT_BACKBONES, PretrainConfig, ProceduralAssetsConfig, SplitCounts
from lavish.data.synthetic.assets import open_library
from lavish.data.synthetic.scenes import labelled_scene
from lavish.errors import LavishError
from lavish.learner.model import IMAGENET_MEAN, IMAGENET_STD
from lavish.models.backbones.base import Backbone
from lavish.models.backbones.build import build_backbone
from lavish.models.weights import write_weights
from lavish.training.pretraining.token_norm import MEASURED, set_token_norm

_OBJECTS = (1, 4)  # minimum and maximum number of objects of a scene
_HELD_OUT = 8  # one in this many scenes is held out, with other instances
_WEIGHT_DECAY = 0.05
_WARMUP = 0.1


def pretrain(model: str, spec: dict[str, Any], recipe: PretrainConfig, out: Path, device: torch.device) -> None:
    """Train an explicit small backbone from scratch and write its weights and the measured accuracy to `out`.

    Deterministic on a CPU with one thread.
    """
    size = spec.get("img_size")
    if model not in EXPLICIT_BACKBONES or not isinstance(size, int):
        raise LavishError(
            f"backbone.weights.source 'pretrain' trains {' or '.join(map(repr, EXPLICIT_BACKBONES))} on square "
            f"pictures of backbone.spec.img_size, not '{model}' with {spec}: name one, or take weights from the hub or "
            "a file"
        )
    started = time.perf_counter()
    torch.manual_seed(recipe.seed)
    backbone = build_backbone(model, spec, size).to(device)
    if backbone.in_channels != 3:
        raise LavishError(f"'{model}' with {spec} reads spectrograms of one channel, no pictures")
    backbone.requires_grad_(True)
    images, labels, classes = _scenes(backbone, recipe, "train", recipe.samples, size)
    held_out = _scenes(backbone, recipe, "val", max(1, recipe.samples // _HELD_OUT), size)
    head = nn.Linear(backbone.feature_dim, classes + 1).to(device)
    _fit(backbone, head, images, labels, recipe)
    set_token_norm(backbone, images[:MEASURED].to(device), recipe.token_norm)
    accuracy = _accuracy(backbone.eval(), head, *held_out)
    metadata = {
        "source": "pretrain",
        "model": model,
        "spec": spec,
        "recipe": recipe.model_dump(),
        "object_token_accuracy": accuracy,
        "device": device.type,
        "wall_seconds": round(time.perf_counter() - started, 1),
    }
    write_weights(backbone.model.state_dict(), out, metadata)
    print(f"pretrained {model}: {accuracy:.3f} of the held-out object tokens named, {metadata['wall_seconds']} s")


def _scenes(
    backbone: Backbone, recipe: PretrainConfig, split: str, count: int, size: int
) -> tuple[Tensor, Tensor, int]:
    """Render scenes; return images (count, 3, size, size), token classes (count, N), number of classes."""
    counts = SplitCounts(train=recipe.instances, val=max(1, recipe.instances // 4), test=1)
    library = open_library(ProceduralAssetsConfig(instances=counts, seed=recipe.seed), purpose="pretraining")
    background = len(library.classes)
    rows, columns = backbone.grid_sizes((size, size))[-1]
    rng = np.random.default_rng([recipe.seed, split == "val"])
    images = np.empty((count, size, size, 3), np.uint8)
    labels = np.empty((count, rows * columns), np.int64)
    for index in tqdm(range(count), desc=f"scenes ({split})", unit="scene", mininterval=1.0):
        objects = int(rng.integers(_OBJECTS[0], _OBJECTS[1] + 1))
        images[index], class_map = labelled_scene(rng, library, split, size, objects)
        labels[index] = _token_labels(class_map, rows, columns, background)
    mean, std = torch.tensor(IMAGENET_MEAN) * 255, torch.tensor(IMAGENET_STD) * 255
    normalised = ((torch.from_numpy(images) - mean) / std).permute(0, 3, 1, 2).contiguous()
    return normalised, torch.from_numpy(labels), background


def _token_labels(class_map: np.ndarray, rows: int, columns: int, background: int) -> np.ndarray:
    """Return the most frequent class of each token's pixels."""
    height, width = class_map.shape[0] // rows, class_map.shape[1] // columns
    patches = class_map.reshape(rows, height, columns, width).transpose(0, 2, 1, 3).reshape(rows * columns, -1)
    votes = (patches[:, :, None] == np.arange(background + 1)).sum(axis=1)
    return votes.argmax(axis=1)


def _tokens(backbone: Backbone, images: Tensor) -> Tensor:
    return backbone.encode(images)[:, backbone.num_prefix_tokens :]


def _fit(backbone: Backbone, head: nn.Linear, images: Tensor, labels: Tensor, recipe: PretrainConfig) -> None:
    parameters = [*backbone.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=_WEIGHT_DECAY)
    steps = recipe.epochs * math.ceil(len(images) / recipe.batch_size)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.lr, total_steps=steps, pct_start=_WARMUP, cycle_momentum=False
    )
    for epoch in tqdm(range(recipe.epochs), desc="epochs", unit="epoch"):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(recipe.seed * 1000 + epoch))
        for chosen in order.split(recipe.batch_size):
            logits = head(_tokens(backbone, images[chosen].to(head.weight.device)))
            loss = functional.cross_entropy(logits.flatten(0, 1), labels[chosen].flatten().to(logits.device))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            rate.step()


@torch.inference_mode()
def _accuracy(backbone: Backbone, head: nn.Linear, images: Tensor, labels: Tensor, background: int) -> float:
    """Return the accuracy on object tokens of held-out scenes, without background."""
    right = total = 0
    for start in range(0, len(images), 256):
        truth = labels[start : start + 256]
        named = head(_tokens(backbone, images[start : start + 256].to(head.weight.device))).argmax(dim=-1).cpu()
        objects = truth != background
        right += int((named[objects] == truth[objects]).sum())
        total += int(objects.sum())
    return right / max(1, total)
