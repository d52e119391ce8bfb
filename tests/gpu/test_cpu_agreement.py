"""Every method and task computes on a GPU what it computes on a CPU, in float32."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from timm.layers import DropPath
from torch import Tensor, nn

from lavish.checks.method import randomise
from lavish.data.store.batches import SplitReader
from lavish.learner.build import build_model
from lavish.learner.model import AudioVisualModel
from lavish.models.interfaces import Stream, StreamFeatures
from lavish.training.device import choose, place, seed_everything
from tests.gpu.small import BACKBONES, CLIPS, METHODS, TASKS, configured

pytestmark = pytest.mark.gpu

TOLERANCE = 1e-4


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", METHODS)
def test_features_and_gradients_agree_with_the_cpu(method, task, backbone, device, stores):
    choose(device, 1)
    seed_everything(0, deterministic=True)
    reader = SplitReader(stores / task / "train", ("visual", "audio"))
    model = small_model(method, task, backbone, reader)
    expected, found = (computed(deepcopy(model), reader, torch.device(one)) for one in ("cpu", device))
    assert expected.keys() == found.keys()
    largest = {kind: max(x.abs().max() for name, x in expected.items() if name.startswith(kind)) for kind in KINDS}
    for name, tensor in expected.items():
        # Gradients differ in size: what is far below the largest of them is the rest of sums that cancel.
        scale = float(max(tensor.abs().max(), FLOOR * largest[name.split()[0]]))
        torch.testing.assert_close(
            found[name], tensor, rtol=TOLERANCE, atol=TOLERANCE * scale, msg=lambda text, name=name: f"{name}: {text}"
        )


KINDS = ("features", "loss", "gradient")
FLOOR = 0.1


def small_model(method: str, task: str, backbone: str, reader: SplitReader) -> AudioVisualModel:
    """Return a model whose parameters are changed, as training would, and which draws nothing in a training step."""
    store = reader.store
    model = build_model(
        configured(task, method, backbone),
        classes=store.classes,
        vocabulary=store.vocabulary,
        statistics=store.statistics,
        weights=None,
        valid_frames=store.valid_frames,
    )
    for norm in model.encoder.backbone.norms():  # Swin V2 initialises them with zero, which would hide what is before
        nn.init.normal_(norm.weight, 1.0, 0.1)
    randomise(model.encoder)
    model.train()
    for module in model.modules():
        probability = getattr(module, "dropout", 0.0)  # of an LSTM 0.0, which has no backward pass in evaluation
        if isinstance(module, nn.Dropout | DropPath) or (isinstance(probability, float) and probability):
            module.training = False
    return model


def computed(model: AudioVisualModel, reader: SplitReader, device: torch.device) -> dict[str, Tensor]:
    """Return the features, the loss and the gradients of a training step on all clips."""
    place(model, device, "float32")
    kept: dict[Stream, StreamFeatures] = {}
    model.encoder.register_forward_hook(lambda module, given, features: kept.update(features))
    units = reader.by_clip(CLIPS)[0]
    negatives = np.random.default_rng(0) if model.task.negatives else None
    batch = next(reader.batches([units], device, negatives))
    # Of high contrast: norms would magnify the rounding of images that are almost alike.
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, batch.frames.shape, dtype=torch.uint8, generator=generator)
    log_mels = (2 * torch.randn(batch.log_mels.shape, generator=generator, dtype=torch.float32)).half()
    batch = replace(batch, frames=frames.to(device), log_mels=log_mels.to(device))
    loss = model.loss(model(batch), batch)
    loss.backward()
    found = {"loss": loss}
    for stream, features in kept.items():
        found |= {f"features {stream} pooled": features.pooled, f"features {stream} tokens": features.tokens}
        found |= {f"features {stream} stage {index}": stage for index, stage in enumerate(features.stages)}
    found |= {f"gradient {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: tensor.detach().cpu() for name, tensor in found.items()}
