"""Source files of methods and tasks from outside the package, and a distribution that installs them."""

from __future__ import annotations

from pathlib import Path

METHOD = '''"""A method from outside the package."""

import torch
from torch import Tensor, nn

from lavish.methods.base import Adapter, AdapterSite


class MeanAdapter(Adapter):
    """A gated bottleneck on the mean token of the other stream."""

    budget_option = "width"

    def __init__(self, site: AdapterSite, *, width: int = 4) -> None:
        super().__init__()
        self.reads_other = site.cross_modal
        read = site.other_width if site.cross_modal else site.width
        self.down, self.up = nn.Linear(read, width), nn.Linear(width, site.width)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, tokens: Tensor, other: Tensor) -> Tensor:
        read = other.mean(dim=1, keepdim=True) if self.reads_other else tokens
        return self.gate * self.up(torch.relu(self.down(read)))
'''

# The gate is never used, and the other stream is read whatever the direction.
BROKEN_METHOD = METHOD.replace("self.gate * self", "self").replace(" if self.reads_other else tokens", "")

TASK = '''"""A task from outside the package."""

import numpy as np
import torch
from torch import Tensor, nn

from lavish.config.measures import Measure
from lavish.tasks.base import EncodedBatch, FeatureShape, Inputs, Task


class Labels(Task):
    """A linear layer on the features of a segment."""

    metric = Measure("accuracy")

    def __init__(self, shape: FeatureShape, *, bias: bool = True) -> None:
        super().__init__()
        self.logits = nn.Linear(sum(shape.widths), len(shape.classes) + 1, bias=bias)

    def forward(self, encoded: EncodedBatch, inputs: Inputs) -> Tensor:
        return self.logits(torch.cat(encoded.features, dim=-1))

    def loss(self, output: Tensor, targets: Inputs) -> Tensor:
        return nn.functional.cross_entropy(output.flatten(0, 1), targets["labels"].flatten())

    def score(self, output: Tensor, targets: Inputs) -> dict[str, np.ndarray]:
        return {"score": (output.argmax(dim=-1) == targets["labels"]).float().mean(dim=1).cpu().numpy()}
'''


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def install(folder: Path, entry_points: str, **modules: str) -> None:
    """Write a distribution with modules and entry points, as pip would, into a folder for `sys.path`."""
    for name, text in modules.items():
        write(folder / f"{name}.py", text)
    write(folder / "other_lab-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: other-lab\nVersion: 1.0\n")
    write(folder / "other_lab-1.0.dist-info/entry_points.txt", entry_points)
