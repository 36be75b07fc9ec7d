"""Mapping networks: z and conditions to intermediate latents w (StyleGAN2; EpiGRAF, section 3.3).

Legend: B batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from epigraf.models.layers import Activation, FullyConnected, ScalarEncoder, normalize_2nd_moment
from epigraf.rendering.draws import Draws

W_AVG_DECAY = 0.998
CAMERA_MULTIPLIER = 64.0


class CameraEmbedding(ScalarEncoder):
    """Embed yaw and pitch, both as signed fractions of a turn.

    Args:
        raw: pass on the two fractions themselves (width 2); else 6 sines and 6 cosines of each
            (width 24).
        drop_p: in training, drop each element with this probability and scale the rest.
        noise_std: in training, add noise of this times the standard deviation over the batch.
        multiplier: sets the number of octaves, log2 of it (64: the official 6).
        yaw_only: every pitch is embedded as 0.
    """

    def __init__(
        self,
        raw: bool,
        drop_p: float = 0.0,
        noise_std: float = 0.0,
        multiplier: float = CAMERA_MULTIPLIER,
        yaw_only: bool = False,
    ) -> None:
        super().__init__(2, 0.0 if raw else multiplier, use_raw=raw)
        self.yaw_only = yaw_only
        self.drop_p = drop_p
        self.noise_std = noise_std

    def forward(self, camera_angles: Tensor, draws: Draws | None = None) -> Tensor:
        """Embed ``camera_angles`` [B, 2 or 3] (yaw, pitch, roll; radians) as [B, dim].

        The noise is drawn before the dropout. ``draws`` is needed only in training with one of the
        two.
        """
        embedding = self.embed(camera_angles, draws)
        if not self.training or self.drop_p == 0:
            return embedding
        shape = tuple(embedding.shape)
        keep = _needed(draws).keep("camera_dropout", self.drop_p, shape, embedding)
        return embedding * (keep / (1 - self.drop_p))

    def embed(self, camera_angles: Tensor, draws: Draws | None = None) -> Tensor:
        """`forward` without dropout.

        The deviation of a batch of one camera is undefined; it gets no noise.
        """
        angles = camera_angles[:, :2]
        if self.yaw_only:
            angles = angles * angles.new_tensor([1.0, 0.0])
        if self.training and self.noise_std > 0:
            noise = _needed(draws).normal("camera_noise", tuple(angles.shape), angles)
            if len(angles) > 1:
                angles = angles + self.noise_std * noise * angles.std(dim=0, keepdim=True)
        turns = angles.sign() * (angles.abs().remainder(2 * math.pi) / (2 * math.pi))
        return super().forward(turns)


def _needed(draws: Draws | None) -> Draws:
    if draws is None:
        raise ValueError("camera embedding: noise and dropout need draws in training, got None")
    return draws


class MappingNetwork(nn.Module):
    """Map a latent, a label and a camera to w.

    z is normalised to unit mean square; the conditions (label, camera embedding) go through a
    linear embedding and the same normalisation; both are concatenated and passed through `depth`
    fully connected layers of width ``w_dim``. The discriminator uses it without z.

    Args:
        z_dim: width of z, 0 for none.
        c_dim: width of the label or of any other condition, 0 for none.
        w_dim: width of w.
        num_ws: how many copies of w to return; None returns w itself and keeps no average.
        depth: number of fully connected layers.
        lr_multiplier: of these layers (not of the embedding).
        camera: embedding of the camera, None without camera conditioning.
        mean_camera_pose: (yaw, pitch, roll) in radians, used when evaluation passes no camera.
        normalize_camera: scale the camera embedding to unit mean square (ours).
    """

    w_avg: Tensor
    mean_camera_pose: Tensor | None

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None = None,
        depth: int = 2,
        lr_multiplier: float = 0.01,
        camera: CameraEmbedding | None = None,
        mean_camera_pose: Sequence[float] | None = None,
        normalize_camera: bool = False,
    ) -> None:
        super().__init__()
        self.normalize_camera = normalize_camera
        self.z_dim, self.c_dim, self.w_dim = z_dim, c_dim, w_dim
        self.num_ws, self.depth = num_ws, depth
        self.camera_scalar_enc = camera
        cond_dim = c_dim + (0 if camera is None else camera.dim)
        if z_dim + cond_dim == 0:
            raise ValueError("mapping: nothing to map, z_dim, c_dim and camera are all empty")
        self.embed = FullyConnected(cond_dim, w_dim) if cond_dim > 0 else None
        width = z_dim + (w_dim if cond_dim > 0 else 0)
        for i in range(depth):
            layer = FullyConnected(width, w_dim, Activation.LRELU, lr_multiplier)
            self.add_module(f"fc{i}", layer)
            width = w_dim
        if num_ws is not None:
            self.register_buffer("w_avg", torch.zeros(w_dim))
        pose = None if mean_camera_pose is None else torch.tensor(list(mean_camera_pose)).float()
        self.register_buffer("mean_camera_pose", pose)

    def forward(
        self,
        z: Tensor | None,
        c: Tensor | None = None,
        camera_angles: Tensor | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        update_w_avg: bool = False,
        draws: Draws | None = None,
    ) -> Tensor:
        """Map to w.

        Args:
            z: [B, z_dim]; None when z_dim is 0.
            c: [B, c_dim] (labels one-hot); None or [B, 0] when c_dim is 0.
            camera_angles: [B, 3] radians, used only with a camera embedding. In evaluation None
                means the mean pose.
            truncation_psi: w <- w_avg + psi (w - w_avg).
            truncation_cutoff: truncate only the first so many of the ``num_ws`` copies.
            update_w_avg: let w_avg follow the batch mean with a decay of 0.998.
            draws: for camera noise and dropout in training.

        Returns:
            [B, num_ws, w_dim] (a broadcast view without truncation), or [B, w_dim] if num_ws is
            None.
        """
        parts = [] if self.z_dim == 0 else [normalize_2nd_moment(self._checked(z, "z", self.z_dim))]
        if self.embed is not None:
            condition = self._condition(z, c, camera_angles, draws)
            parts.append(normalize_2nd_moment(self.embed(condition)))
        w = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        for i in range(self.depth):
            w = self.get_submodule(f"fc{i}")(w)
        if update_w_avg:
            self._update_w_avg(w)
        if self.num_ws is None:
            return w
        ws = w.unsqueeze(1).expand(-1, self.num_ws, -1)
        return self.truncate(ws, truncation_psi, truncation_cutoff)

    def truncate(self, ws: Tensor, psi: float, cutoff: int | None = None) -> Tensor:
        """Pull the first ``cutoff`` (None: all) of ``ws`` [B, num_ws, w_dim] towards w_avg."""
        if psi == 1:
            return ws
        if cutoff is None:
            return self.w_avg.lerp(ws, psi)
        return torch.cat([self.w_avg.lerp(ws[:, :cutoff], psi), ws[:, cutoff:]], dim=1)

    def _condition(
        self, z: Tensor | None, c: Tensor | None, angles: Tensor | None, draws: Draws | None
    ) -> Tensor:
        parts = [] if self.c_dim == 0 else [self._checked(c, "c", self.c_dim)]
        if self.camera_scalar_enc is not None:
            if angles is None:
                angles = self._mean_pose(z if z is not None else c)
            camera = self.camera_scalar_enc(angles, draws)
            parts.append(normalize_2nd_moment(camera) if self.normalize_camera else camera)
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def _mean_pose(self, like: Tensor | None) -> Tensor:
        if self.training or self.mean_camera_pose is None or like is None:
            raise ValueError("mapping: camera conditioning needs camera_angles [B, 3], got None")
        return self.mean_camera_pose.expand(len(like), -1)

    def _checked(self, x: Tensor | None, name: str, width: int) -> Tensor:
        if x is None or x.ndim != 2 or x.shape[1] != width:
            got = None if x is None else list(x.shape)
            raise ValueError(f"mapping: {name} must have shape [B, {width}], got {got}")
        return x.to(self.get_submodule("fc0").get_parameter("weight").dtype)

    def _update_w_avg(self, w: Tensor) -> None:
        if self.num_ws is None:
            raise ValueError("mapping: this network keeps no average w (num_ws is None)")
        self.w_avg.copy_(w.detach().mean(dim=0).lerp(self.w_avg, W_AVG_DECAY))
