"""The stand-in for torch's compiler: what it saves, and that nothing else changes."""

from __future__ import annotations

import subprocess
import sys

STEP = """
import sys, torch, timm
from timm.models.vision_transformer import VisionTransformer
torch.manual_seed(0)
model = VisionTransformer(img_size=16, patch_size=8, embed_dim=8, depth=1, num_heads=1, num_classes=2)
for kind in (torch.optim.Adam, torch.optim.AdamW):
    optimizer = kind(model.parameters(), lr=0.1)
    model(torch.ones(1, 3, 16, 16)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
print("sympy" in sys.modules, sum(p.double().sum().item() for p in model.parameters()))
"""
PREFIX = "from lavish.runtime.fast_start import without_compiler; without_compiler()\n"


def run(code: str) -> tuple[str, str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.split()
    return first, second


def test_steps_start_without_the_compiler_and_compute_the_same():
    assert run(PREFIX + STEP) == ("False", run(STEP)[1])


def test_an_imported_compiler_stays():
    code = "import torch._dynamo as d\n" + PREFIX + "import sys; print(sys.modules['torch._dynamo'] is d, 0)"
    assert run(code)[0] == "True"


def test_the_compiler_comes_back():
    code = (
        PREFIX
        + STEP.rpartition("print")[0]
        + """
from lavish.runtime.fast_start import with_compiler
with_compiler()
twice = torch.compile(lambda x: 2 * x, backend="eager")
print("sympy" in sys.modules, twice(torch.ones(1)).item())
"""
    )
    assert run(code) == ("True", "2.0")
