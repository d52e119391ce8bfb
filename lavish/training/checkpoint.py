"""The state of an interrupted training."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lavish.io.atomic import replacing

if TYPE_CHECKING:
    from lavish.learner.model import AudioVisualModel


@dataclass
class Progress:
    """The state of a training apart from its tensors."""

    epoch: int = 0
    step: int = 0
    best_epoch: int = -1
    best_value: float = -math.inf
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    step_seconds: list[float] = field(default_factory=list)


def forget_state(out: Path) -> None:
    """Remove the resumable state from the folder `out` of a finished training."""
    for name in ("resume.safetensors", "best_so_far.safetensors"):
        (out / name).unlink(missing_ok=True)


class TrainingState:
    """The file that an interrupted training resumes from: tensors and, in its header, :class:`Progress` as JSON."""

    def __init__(
        self,
        path: Path,
        identity: str,
        model: AudioVisualModel,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
    ) -> None:
        self.path, self.identity = path, identity
        self.model, self.optimizer, self.scaler = model, optimizer, scaler

    def save(self, progress: Progress) -> None:
        tensors = {f"model.{name}": tensor for name, tensor in self.model.trainable_state().items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            for name, value in slots.items():
                tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
        header = {
            "identity": self.identity,
            "progress": json.dumps(asdict(progress)),
            "scaler": json.dumps(self.scaler.state_dict()),
        }
        save_tensors(self.path, tensors, header)

    def load(self, device: torch.device) -> Progress | None:
        if not self.path.exists():
            return None
        with safe_open(self.path, framework="pt", device=str(device)) as file:
            header = file.metadata() or {}
            if header.get("identity") != self.identity:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        prefix = "model."
        weights = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        self.model.load_trainable_state(weights, self.path)
        saved = self.optimizer.state_dict()
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, slot = name.split(".", 2)
                # With the parameter's strides, because fused optimizers pair elements by their place in memory.
                like = torch.empty(()) if slot == "step" else parameters[int(index)]
                tensor = torch.empty_like(like).copy_(tensor)
                saved["state"].setdefault(int(index), {})[slot] = tensor
        self.optimizer.load_state_dict(saved)
        self.scaler.load_state_dict(json.loads(header["scaler"]))
        return Progress(**json.loads(header["progress"]))


def save_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, str] | None = None) -> None:
    """Write a safetensors file atomically."""
    with replacing(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary, header)
