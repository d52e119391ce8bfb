"""timm's plain vision transformers: pre-norm blocks over class token and patches."""

from __future__ import annotations

from typing import Any, Literal

import torch
from timm.layers import Attention, Mlp, PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor
from torch.nn import functional

from lavish.errors import LavishError
from lavish.models.backbones.base import Backbone, FrozenLayer, LayerName, Layers, quarters, stretch_linear


class ViTBackbone(Backbone):
    """A timm ``VisionTransformer`` (vit_*, deit*) as a :class:`Backbone`.

    `positions` is how the position embedding is resized for other input sizes: ``bicubic`` resizes the grid in two
    dimensions (timm), ``linear`` resizes the sequence, class token included (the published LAVISH code).
    """

    def __init__(
        self, model: VisionTransformer, name: str, *, positions: Literal["bicubic", "linear"] = "bicubic"
    ) -> None:
        super().__init__()
        if not isinstance(model, VisionTransformer) or not all(isinstance(block, Block) for block in model.blocks):
            block = type(model.blocks[0]).__name__ if hasattr(model, "blocks") else "none"
            raise LavishError(
                f"backbone.model '{name}': its blocks ({block}) are not two separate pre-norm residual branches; "
                "use a timm model built from VisionTransformer blocks"
            )
        if not isinstance(model.patch_embed, PatchEmbed):
            raise LavishError(
                f"backbone.model '{name}' embeds patches by {type(model.patch_embed).__name__}, not a convolution"
            )
        if model.global_pool not in ("token", "avg"):
            raise LavishError(
                f"backbone.model '{name}' pools by '{model.global_pool}', which is not supported: use a model that "
                "pools by its class token or by the mean of the patches"
            )
        if positions == "linear" and (model.pos_embed is None or model.no_embed_class or hasattr(model, "dist_token")):
            raise LavishError(
                f"backbone.model '{name}' has no sequence of positions that begins with that of its class token alone, "
                "so they cannot be resized as one: set backbone.positions to bicubic"
            )
        self.model: Any = model
        self._name = name
        self.widths = (model.embed_dim,) * len(model.blocks)
        self.stage_ends = quarters(len(model.blocks))
        self.scale_depths = (len(model.blocks),)
        self.num_prefix_tokens = model.num_prefix_tokens
        self.positions = positions
        # The streams may differ in image size: timm then resizes the position embedding to the patch grid.
        model.dynamic_img_size = True

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

    def enter(self, index: int, tokens: Tensor) -> Tensor:
        return tokens

    def attention(self, index: int, tokens: Tensor) -> Tensor:
        block = self.model.blocks[index]
        return block.drop_path1(block.ls1(block.attn(block.norm1(tokens))))

    def ffn(self, index: int, tokens: Tensor) -> Tensor:
        block = self.model.blocks[index]
        return block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))

    def attention_layers(self, index: int, tokens: Tensor) -> Layers:
        block = self._plain_block(index)
        attention = block.attn
        normed = yield FrozenLayer("norm1", index, block.norm1, tokens)
        qkv = yield FrozenLayer("qkv", index, attention.qkv, normed)
        mixed = attention.norm(self._attend(attention, qkv))
        return block.drop_path1(block.ls1((yield FrozenLayer("proj", index, attention.proj, mixed))))

    def ffn_layers(self, index: int, tokens: Tensor) -> Layers:
        block = self._plain_block(index)
        mlp = block.mlp
        normed = yield FrozenLayer("norm2", index, block.norm2, tokens)
        hidden = mlp.norm(mlp.act((yield FrozenLayer("fc1", index, mlp.fc1, normed))))
        return block.drop_path2(block.ls2((yield FrozenLayer("fc2", index, mlp.fc2, hidden))))

    def attention_over(self, index: int, sequence: Tensor, bias: Tensor | None = None) -> Tensor:
        block = self._plain_block(index)
        attention = block.attn
        mixed = self._attend(attention, attention.qkv(block.norm1(sequence)), bias)
        return block.drop_path1(block.ls1(attention.proj(attention.norm(mixed))))

    @staticmethod
    def _attend(attention: Attention, qkv: Tensor, bias: Tensor | None = None) -> Tensor:
        q, k, v = qkv.unflatten(-1, (3, attention.num_heads, attention.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(attention.q_norm(q), attention.k_norm(k), v, attn_mask=bias)
        return mixed.transpose(1, 2).flatten(2)

    def _plain_block(self, index: int) -> Any:
        block = self.model.blocks[index]
        if type(block.attn) is not Attention or block.attn.gate is not None or type(block.mlp) is not Mlp:
            raise LavishError(
                f"backbone.model '{self._name}': its blocks have {type(block.attn).__name__} and "
                f"{type(block.mlp).__name__}, not timm's plain attention and feed-forward layer, so single layers "
                "cannot be changed; choose an adapter beside sublayers, or another backbone"
            )
        return block

    def linear(self, index: int, name: LayerName) -> tuple[Tensor, Tensor | None]:
        block = self._plain_block(index)
        layer = getattr(block.attn if name in ("qkv", "proj") else block.mlp, name)
        return layer.weight, layer.bias

    def num_heads(self, index: int) -> int:
        return self.model.blocks[index].attn.num_heads

    def _block_of(self, name: str) -> int:
        part, *rest = name.split(".")
        if part == "blocks":
            return int(rest[0])
        return self.num_blocks - 1 if part in ("norm", "fc_norm") else 0

    @property
    def image_size(self) -> tuple[int, int]:
        return self.model.patch_embed.img_size

    @property
    def patch_size(self) -> tuple[int, int]:
        return self.model.patch_embed.patch_size

    def final(self, tokens: Tensor) -> Tensor:
        return self.model.norm(tokens)

    def pool(self, tokens: Tensor) -> Tensor:
        if self.model.global_pool == "token":
            return self.model.fc_norm(tokens[:, 0])
        return self.model.fc_norm(tokens[:, self.num_prefix_tokens :].mean(dim=1))

    def grid_sizes(self, image_size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        patch = self.model.patch_embed.patch_size
        rows, columns = image_size[0] // patch[0], image_size[1] // patch[1]
        if rows == 0 or columns == 0:
            raise LavishError(f"an image of {image_size[0]} x {image_size[1]} is smaller than a patch {tuple(patch)}")
        return ((rows, columns),) * self.num_blocks
