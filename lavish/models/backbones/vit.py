"""timm's plain vision transformers: pre-norm blocks over class token and patches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from timm.layers import Attention, GluMlp, Mlp, PatchEmbed, SwiGLU
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from lavish.errors import LavishError
from lavish.models.backbones.base import Backbone, FrozenLayer, Grid, LayerName, Layers, quarters, stretch_linear

_SEPARATE: dict[str, tuple[str, ...]] = {"qkv": ("q_proj", "k_proj", "v_proj"), "fc1": ("fc1_g", "fc1_x")}
"""timm's names of the parts of a layer, where it has them one by one."""


class ViTBackbone(Backbone):
    """A timm ``VisionTransformer`` (vit_*, deit*) as a :class:`Backbone`.

    `positions` is how the position embedding is resized for other input sizes: ``bicubic`` resizes the grid in two
    dimensions (timm), ``linear`` resizes the sequence, class token included (the published LAVISH code).

    A gated feed-forward layer (SwiGLU) has two maps of the normed tokens. They are one layer ``fc1``, with the gate's
    channels and the gated ones side by side as its output; the gate is applied before ``fc2``.
    """

    model_class: ClassVar[type[nn.Module]] = VisionTransformer
    block_class: ClassVar[type[nn.Module]] = Block
    attention_classes: ClassVar[tuple[type[nn.Module], ...]] = (Attention,)

    def __init__(self, model: Any, name: str, *, positions: Literal["bicubic", "linear"] = "bicubic") -> None:
        super().__init__()
        self.model = model
        self._name = name
        self._check(positions)
        self.widths = (model.embed_dim,) * len(model.blocks)
        self.stage_ends = quarters(len(model.blocks))
        self.scale_depths = (len(model.blocks),)
        self.num_prefix_tokens = model.num_prefix_tokens
        self.positions = positions
        # The streams may differ in image size: timm then resizes the position embedding to the patch grid.
        model.dynamic_img_size = True

    def _check(self, positions: str) -> None:
        """Raise LavishError for a model that cannot be taken apart."""
        model, name = self.model, self._name
        blocks = list(getattr(model, "blocks", ()))
        if not isinstance(model, self.model_class) or not all(isinstance(block, self.block_class) for block in blocks):
            block = type(blocks[0]).__name__ if blocks else "none"
            raise LavishError(
                f"backbone.model '{name}': its blocks ({block}) are not two separate pre-norm residual branches; "
                f"use a timm model built from {self.model_class.__name__} blocks"
            )
        if not isinstance(model.patch_embed, PatchEmbed):
            raise LavishError(
                f"backbone.model '{name}' embeds patches by {type(model.patch_embed).__name__}, not a convolution"
            )
        if model.global_pool not in ("token", "avg", "map"):
            raise LavishError(
                f"backbone.model '{name}' pools by '{model.global_pool}', which is not supported: use a model that "
                "pools by its class token, by the mean of the patches or by attention"
            )
        if positions == "linear" and (model.pos_embed is None or model.no_embed_class or hasattr(model, "dist_token")):
            raise LavishError(
                f"backbone.model '{name}' has no sequence of positions that begins with that of its class token alone, "
                "so they cannot be resized as one: set backbone.positions to bicubic"
            )

    def embed(self, images: Tensor) -> Tensor:
        return self._add_positions(self._patches(images))

    def embed_layers(self, images: Tensor) -> Layers:
        return self._add_positions((yield FrozenLayer("patch_embed", None, self._patches, images)))

    def _patches(self, images: Tensor) -> Tensor:
        # The convolution itself, because timm's wrapper raises an error for images that are not a multiple of the patch
        # (the published spectrograms have 102 frames); the remainder is ignored.
        embed = self.model.patch_embed
        return embed.norm(embed.proj(images).permute(0, 2, 3, 1))

    def _add_positions(self, patches: Tensor) -> Tensor:
        model = self.model
        if self.positions == "bicubic":
            return model.norm_pre(model._pos_embed(patches))
        prefix = [t.expand(len(patches), -1, -1) for t in (model.cls_token, model.reg_token) if t is not None]
        tokens = torch.cat([*prefix, patches.flatten(1, 2)], dim=1)
        return model.norm_pre(tokens + stretch_linear(model.pos_embed, tokens.shape[1]))

    @torch.no_grad()
    def scale_tokens(self, factor: float) -> None:
        """Multiply the tokens between the blocks by `factor`, by changing the weights that write them.

        The norms at the beginning of the branches and at the end cancel it: the features stay the same.

        Raises:
            LavishError: a norm after the embedding would cancel it too early.
        """
        model = self.model
        after = [model.patch_embed.norm, model.norm_pre]
        if not all(isinstance(norm, nn.Identity) for norm in after):
            raise LavishError(
                f"weights.recipe.token_norm: the tokens of '{self._name}' cannot be scaled, because a norm follows its "
                "embedding: remove it, or set it to null"
            )
        outputs = [layer for block in model.blocks for layer in (block.attn.proj, block.mlp.fc2)]
        embeddings = [model.cls_token, model.reg_token, model.pos_embed, *model.patch_embed.proj.parameters()]
        for parameter in [*embeddings, *(p for layer in outputs for p in layer.parameters())]:
            if parameter is not None:
                parameter.mul_(factor)

    def enter(self, index: int, tokens: Tensor) -> Tensor:
        return tokens

    def attention(self, index: int, tokens: Tensor, grid: Grid | None = None) -> Tensor:
        block = self.model.blocks[index]
        return self._scaled(index, 1, block.attn(block.norm1(tokens)))

    def ffn(self, index: int, tokens: Tensor, grid: Grid | None = None) -> Tensor:
        block = self.model.blocks[index]
        return self._scaled(index, 2, block.mlp(block.norm2(tokens)))

    def attention_layers(self, index: int, tokens: Tensor, grid: Grid | None = None) -> Layers:
        block = self._plain_block(index)
        normed = yield FrozenLayer("norm1", index, block.norm1, tokens)
        qkv = yield FrozenLayer("qkv", index, self._layer(index, "qkv"), normed)
        mixed = block.attn.norm(self._attend(index, qkv, rotation=self._rotation(index, grid)))
        return self._scaled(index, 1, (yield FrozenLayer("proj", index, block.attn.proj, mixed)))

    def ffn_layers(self, index: int, tokens: Tensor, grid: Grid | None = None) -> Layers:
        block = self._plain_block(index)
        mlp = block.mlp
        normed = yield FrozenLayer("norm2", index, block.norm2, tokens)
        hidden = mlp.norm(_activate(mlp, (yield FrozenLayer("fc1", index, self._layer(index, "fc1"), normed))))
        return self._scaled(index, 2, (yield FrozenLayer("fc2", index, mlp.fc2, hidden)))

    def attention_over(self, index: int, sequence: Tensor, bias: Tensor | None = None) -> Tensor:
        block = self._plain_block(index)
        mixed = self._attend(index, self._layer(index, "qkv")(block.norm1(sequence)), bias)
        return self._scaled(index, 1, block.attn.proj(block.attn.norm(mixed)))

    def _scaled(self, index: int, part: Literal[1, 2], branch: Tensor) -> Tensor:
        """Apply layer scale and stochastic depth to the attention (1) or feed-forward (2) branch of a block."""
        block = self.model.blocks[index]
        return getattr(block, f"drop_path{part}")(getattr(block, f"ls{part}")(branch))

    def _rotation(self, index: int, grid: Grid | None) -> Tensor | None:
        """Return the rotary positions of a grid (patches, 2 C / heads), sines and cosines; None if there are none."""
        return None

    def _attend(self, index: int, qkv: Tensor, bias: Tensor | None = None, rotation: Tensor | None = None) -> Tensor:
        """Return the attention (B, N, C) of queries, keys and values (B, N, 3 C), with a bias (..., N, N)."""
        attention = self.model.blocks[index].attn
        q, k, v = qkv.unflatten(-1, (3, attention.num_heads, attention.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self._rotated(index, attention.q_norm(q), rotation), self._rotated(index, attention.k_norm(k), rotation)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return mixed.transpose(1, 2).flatten(2)

    def _rotated(self, index: int, heads: Tensor, rotation: Tensor | None) -> Tensor:
        """Rotate queries or keys (B, heads, N, C / heads) of patches by their positions."""
        return heads

    def _plain_block(self, index: int) -> Any:
        block = self.model.blocks[index]
        attention, mlp = block.attn, block.mlp
        if (
            type(attention) not in self.attention_classes
            or attention.gate is not None
            or getattr(attention, "num_kv_groups", 1) > 1
            or type(mlp) not in (Mlp, GluMlp, SwiGLU)
        ):
            raise LavishError(
                f"backbone.model '{self._name}': its blocks have {type(attention).__name__} and "
                f"{type(mlp).__name__}, not timm's plain attention and feed-forward layer, so single layers "
                "cannot be changed; choose an adapter beside sublayers, or another backbone"
            )
        return block

    def _linears(self, index: int, name: LayerName) -> list[nn.Linear]:
        """Return the linear maps whose outputs, side by side, are those of a layer."""
        block = self._plain_block(index)
        owner = block.attn if name in ("qkv", "proj") else block.mlp
        whole = getattr(owner, name, None)
        return [getattr(owner, part) for part in _SEPARATE[name]] if whole is None else [whole]

    def _layer(self, index: int, name: LayerName) -> Callable[[Tensor], Tensor]:
        """Return a linear layer of a block as a function."""
        linears = self._linears(index, name)
        if len(linears) == 1:
            return linears[0]
        return lambda tokens: torch.cat([linear(tokens) for linear in linears], dim=-1)

    def linear(self, index: int, name: LayerName) -> tuple[Tensor, Tensor | None]:
        linears = self._linears(index, name)
        if len(linears) == 1:
            return linears[0].weight, linears[0].bias
        weights: list[Tensor] = [linear.weight for linear in linears]
        # Keys may be the only part without a bias.
        biases: list[Tensor] = [x.weight.new_zeros(x.out_features) if x.bias is None else x.bias for x in linears]
        biased = any(linear.bias is not None for linear in linears)
        return torch.cat(weights), torch.cat(biases) if biased else None

    def num_heads(self, index: int) -> int:
        return self.model.blocks[index].attn.num_heads

    def norms(self) -> list[nn.Module]:
        # timm's attention pooling is behind the final norm and has a norm of its own.
        return sorted(super().norms(), key=lambda norm: norm is self.model.norm)

    def _block_of(self, name: str) -> int:
        part, *rest = name.split(".")
        if part == "blocks":
            return int(rest[0])
        return self.num_blocks - 1 if part in ("norm", "fc_norm", "attn_pool") else 0

    @property
    def image_size(self) -> tuple[int, int]:
        return self.model.patch_embed.img_size

    @property
    def patch_size(self) -> tuple[int, int]:
        return self.model.patch_embed.patch_size

    def final(self, tokens: Tensor) -> Tensor:
        return self.model.norm(tokens)

    def pool(self, tokens: Tensor) -> Tensor:
        return self.model.fc_norm(self.model.pool(tokens))

    def grid_sizes(self, image_size: tuple[int, int]) -> tuple[Grid, ...]:
        patch, stride = self.patch_size, self.model.patch_embed.proj.stride
        rows, columns = ((size - p) // s + 1 for size, p, s in zip(image_size, patch, stride, strict=True))
        if rows < 1 or columns < 1:
            raise LavishError(f"an image of {image_size[0]} x {image_size[1]} is smaller than a patch {tuple(patch)}")
        return ((rows, columns),) * self.num_blocks


def _activate(mlp: Any, hidden: Tensor) -> Tensor:
    """Apply the activation of a feed-forward layer to the output of its first map, and the gate if it has one."""
    if isinstance(mlp, Mlp):
        return mlp.act(hidden)
    first, second = hidden.chunk(2, dim=-1)
    # Of timm's two classes, SwiGLU has its gate first; GluMlp says where.
    return first * mlp.act(second) if getattr(mlp, "gate_last", False) else mlp.act(first) * second
