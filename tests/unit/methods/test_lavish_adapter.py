"""The LAVISH adapter against reference tensors of the published implementation, and its options."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lavish.errors import LavishError
from lavish.methods._shared.attention import attend
from lavish.methods._shared.bottleneck import GroupedLinear
from lavish.methods.lavish import LavishAdapter
from tests.unit.methods.sites import adapter_site

AVS = {
    "latents": 16,
    "reduction": 4,
    "groups": 2,
    "batch_norm": False,
    "norm_before": False,
    "gate_order": "gate_first",
}
PUBLISHED = {
    "ave": ("visual", {"latents": 2, "reduction": 8, "groups": 2}),
    "avqa": ("visual", {"latents": 64, "reduction": 8, "groups": 4, "batch_norm": False}),
    "avs_visual": ("visual", {**AVS, "gate": "visual"}),
    "avs_audio": ("audio", {**AVS, "gate": "visual"}),
}
# The public code's names of what is not a grouped convolution.
NAMES = {
    "my_tokens": "latents",
    "gate_av": "gate_av",
    "gate": "gate",
    "bn1": "down_norm",
    "bn2": "up_norm",
    "ln_before": "norm_before",
    "ln_post": "norm_after",
}


def ours(name: str, values: np.ndarray, groups: int) -> tuple[str, torch.Tensor]:
    """Translate a tensor of the public code, or its gradient, into our name and layout."""
    tensor = torch.from_numpy(np.asarray(values))
    if name.endswith("sampler.weight"):
        # (out, in / groups, 1, 1) -> (groups, narrow / groups, wide / groups)
        blocks = tensor[:, :, 0, 0].unflatten(0, (groups, -1))
        return ("down.weight", blocks) if name.startswith("down") else ("up.weight", blocks.transpose(1, 2))
    head, _, tail = name.partition(".")
    if head.startswith("gate"):
        return head, tensor.squeeze()
    return NAMES[head] + (f".{tail}" if tail else ""), tensor


def load_published(golden: Path, name: str) -> tuple[LavishAdapter, dict[str, np.ndarray]]:
    reference = dict(np.load(golden / f"adapter_{name}.npz"))
    stream, options = PUBLISHED[name]
    adapter = LavishAdapter(adapter_site(stream, 64), **options)
    state = dict(
        ours(key.removeprefix("state."), values, options["groups"])
        for key, values in reference.items()
        if key.startswith("state.")
    )
    # The public AVS adapters carry a first layer norm that their forward pass never calls.
    unused = state.keys() - adapter.state_dict().keys()
    assert all(key.startswith("norm_before") for key in unused)
    adapter.load_state_dict({key: tensor for key, tensor in state.items() if key not in unused})
    return adapter, reference


class MisreadGradient(torch.autograd.Function):
    """Identity whose backward reads the gradient's memory, (B, N, C), as if it lay as (B, C, N).

    That is what torch's batch norm does on a CPU (2.11 included) when its input lies as (B, C, N, 1) and the gradient
    that reaches it is the transpose of a contiguous one, as in the public adapter. The reference gradients of `ave`,
    the only file with batch norms, were made that way; on a GPU, and here, batch norm's gradient is the true one.
    """

    @staticmethod
    def forward(ctx, tokens: torch.Tensor, batch: int) -> torch.Tensor:
        ctx.batch = batch
        return tokens.clone()

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        width = gradient.shape[1]
        return gradient.contiguous().view(ctx.batch, width, -1).transpose(1, 2).reshape(-1, width), None


class MisreadBatchNorm(torch.nn.BatchNorm1d):
    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return MisreadGradient.apply(super().forward(tokens), 3)


def gradients_of(adapter: LavishAdapter, reference: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    dtype = adapter.down.weight.dtype
    x = torch.from_numpy(reference["x"]).to(dtype).requires_grad_()
    other = torch.from_numpy(reference["other"]).to(dtype).requires_grad_()
    (adapter.train()(x, other) * torch.from_numpy(reference["cotangent"]).to(dtype)).sum().backward()
    return {"x": x.grad, "other": other.grad} | {key: p.grad for key, p in adapter.named_parameters()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_outputs_equal_the_published_adapter(shared, name):
    adapter, reference = load_published(shared / "golden", name)
    x, other = torch.from_numpy(reference["x"]), torch.from_numpy(reference["other"])
    with torch.no_grad():
        np.testing.assert_allclose(adapter.eval()(x, other).numpy(), reference["eval.out"], atol=1e-5, rtol=0)
        np.testing.assert_allclose(adapter.train()(x, other).numpy(), reference["train.out"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_gradients_equal_the_published_adapter(shared, name):
    adapter, reference = load_published(shared / "golden", name)
    if name == "ave":
        state = adapter.up_norm.state_dict()
        adapter.up_norm = MisreadBatchNorm(64)
        adapter.up_norm.load_state_dict(state)
    # In float64 only the reference's own rounding is left in the comparison.
    gradients = gradients_of(adapter.double(), reference)
    groups = PUBLISHED[name][1]["groups"]
    compared = set()
    for key, values in reference.items():
        if key.startswith("grad."):
            short = key.removeprefix("grad.")
            target, expected = (
                (short, torch.from_numpy(values)) if short in ("x", "other") else ours(short, values, groups)
            )
            # Sums over 147 tokens reach some hundreds: 1e-5 is of the largest entry there. A gate's gradient sums 9408
            # terms that cancel: the float32 reference of avs_visual is itself 1.0015e-5 off the float64 value.
            scale = max(2.0 if expected.ndim == 0 else 1.0, expected.abs().max().item())
            torch.testing.assert_close(
                gradients[target].float().reshape(expected.shape), expected, atol=1e-5 * scale, rtol=0
            )
            compared.add(target)
    assert compared == gradients.keys()


def test_batch_norm_gradient_equals_finite_differences(shared):
    adapter, reference = load_published(shared / "golden", "ave")
    adapter.double()
    gradient = gradients_of(adapter, reference)["up.weight"]
    cotangent = torch.from_numpy(reference["cotangent"]).double()
    x, other = torch.from_numpy(reference["x"]).double(), torch.from_numpy(reference["other"]).double()
    direction, segment = torch.randn_like(adapter.up.weight), 1e-6
    values = []
    with torch.no_grad():
        for sign in (1, -1):
            adapter.up.weight += sign * segment * direction
            values.append((adapter(x, other) * cotangent).sum())
            adapter.up.weight -= sign * segment * direction
    torch.testing.assert_close(
        (values[0] - values[1]) / (2 * segment), (gradient * direction).sum(), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(("width", "out"), [(12, 6), (6, 12)])
def test_grouped_linear_is_a_grouped_convolution(width, out):
    layer = GroupedLinear(width, out, groups=3)
    convolution = torch.nn.Conv1d(width, out, 1, groups=3, bias=False)
    blocks = layer.weight.detach().transpose(1, 2) if layer.widens else layer.weight.detach()
    convolution.weight.data = blocks.flatten(0, 1).unsqueeze(-1)
    x = torch.randn(5, width)
    torch.testing.assert_close(layer(x), convolution(x.unsqueeze(-1)).squeeze(-1))


def test_fused_attention_is_the_unscaled_softmax():
    queries, keys = torch.randn(2, 7, 8), torch.randn(2, 5, 8)
    expected = (queries @ keys.transpose(1, 2)).softmax(dim=-1) @ keys
    torch.testing.assert_close(attend(queries, keys), expected)


@pytest.mark.parametrize(("start", "identical"), [("zeros", True), ("uniform", False)])
def test_latents_initialised_with_zero_stay_identical(start, identical):
    torch.manual_seed(0)
    adapter = LavishAdapter(adapter_site("visual"), latents=4, latent_init=start)
    torch.nn.init.ones_(adapter.gate)
    torch.nn.init.ones_(adapter.gate_av)
    optimizer = torch.optim.Adam(adapter.parameters(), lr=0.05)
    before = adapter.latents.detach().clone()
    for _ in range(5):
        x, other = torch.randn(3, 6, 16), torch.randn(3, 4, 16)
        (adapter(x, other) * torch.randn(3, 6, 16)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert not torch.equal(adapter.latents, before)
    spread = (adapter.latents - adapter.latents[:1]).abs().max().item()
    assert (spread < 1e-5) is identical


def test_direct_attention_without_latents():
    adapter = LavishAdapter(adapter_site("visual"), latents=0)
    assert adapter.latents is None
    torch.nn.init.ones_(adapter.gate)
    x, other = torch.randn(2, 6, 16), torch.randn(2, 4, 16, requires_grad=True)
    torch.nn.init.ones_(adapter.gate_av)
    (adapter(x, other) * torch.randn(2, 6, 16)).sum().backward()  # a norm's plain sum has no gradient
    assert other.grad.abs().sum() > 0


def test_unimodal_adapter_ignores_the_other_stream():
    adapter = LavishAdapter(adapter_site("audio", cross_modal=False))
    torch.nn.init.ones_(adapter.gate)
    x = torch.randn(2, 6, 16)
    torch.testing.assert_close(adapter(x, torch.randn(2, 4, 16)), adapter(x, torch.randn(2, 4, 16)))
    assert not any(name.startswith(("latents", "gate_av")) for name, _ in adapter.named_parameters())


def test_gate_before_the_norm_loses_its_magnitude():
    torch.manual_seed(0)
    adapter = LavishAdapter(adapter_site("visual"), gate_order="gate_first", batch_norm=False).eval()
    x, other = torch.randn(2, 6, 16), torch.randn(2, 4, 16)
    torch.nn.init.constant_(adapter.gate, 10.0)
    large = adapter(x, other)
    torch.nn.init.constant_(adapter.gate, 100.0)
    torch.testing.assert_close(adapter(x, other), large, atol=1e-2, rtol=1e-2)


def test_gate_option_visual_removes_the_audio_gate():
    assert LavishAdapter(adapter_site("visual"), gate="visual").gate is not None
    assert LavishAdapter(adapter_site("audio"), gate="visual").gate is None
    assert LavishAdapter(adapter_site("visual"), gate="none").gate is None


def test_groups_must_divide_the_widths():
    with pytest.raises(LavishError, match=r"groups"):
        LavishAdapter(adapter_site("visual"), groups=3)
