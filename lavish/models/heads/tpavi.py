"""TPAVI, the temporal pixel-wise audio-visual interaction of AVSBench.

Zhou et al., "Audio-Visual Segmentation", ECCV 2022, arXiv 2207.05042.
"""

from __future__ import annotations

from torch import Tensor, nn


class AudioVisualInteraction(nn.Module):
    """Every position of every frame of a clip attends to the clip's frames, weighted by their audio.

    V: (clips, C, T, H, W) visual maps, a: (clips, T, C/2) audio, d = C/2:

        a' = Linear_{d->C} a,   theta = conv1_{C->d} V,   phi = conv1_{C->d} a',   g = conv1_{C->d} V
        Y_i = 1/(T H W) * sum over all positions j of the clip of (theta_i . phi_j) g_j          (no softmax)
        Z = LN_C( V + BN( conv1_{d->C} Y ) ),   BN's scale and shift are initialised with 0

    The literal form has a matrix of (T H W)^2 entries. Because phi is the same at all positions of a frame and g is
    affine, Y_i = 1/T * sum_t (theta_i . phi_t) g(mean of V over frame t), which is computed here at a cost linear in
    the number of positions.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 2
        self.align = nn.Linear(inner, channels)
        self.theta = nn.Linear(channels, inner)
        self.phi = nn.Linear(channels, inner)
        self.g = nn.Linear(channels, inner)
        self.out = nn.Linear(inner, channels)
        self.batch_norm = nn.BatchNorm1d(channels)
        nn.init.zeros_(self.batch_norm.weight)
        self.layer_norm = nn.LayerNorm(channels)

    def forward(self, maps: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Return the updated maps and the aligned audio.

        Args:
            maps: V, (clips * T, C, H, W), the frames of a clip one after another.
            audio: a, (clips, T, C/2).

        Returns:
            Z (clips * T, C, H, W) and a' (clips, T, C).
        """
        clips, segments = audio.shape[:2]
        aligned = self.align(audio)
        visual = maps.flatten(2).transpose(1, 2).unflatten(0, (clips, segments))  # (clips, T, H*W, C)
        values = self.g(visual.mean(dim=2)) / segments  # (clips, T, d)
        theta = self.theta(visual).flatten(1, 2)  # (clips, T*H*W, d)
        read = theta @ self.phi(aligned).transpose(1, 2) @ values
        written = self.batch_norm(self.out(read).flatten(0, 1)).unflatten(0, visual.shape[:3])
        mixed = self.layer_norm(visual + written)
        return mixed.flatten(0, 1).transpose(1, 2).unflatten(2, maps.shape[-2:]), aligned
