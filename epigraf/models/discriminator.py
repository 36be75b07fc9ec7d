"""The patch discriminator with hyper-modulation (EpiGRAF, section 3.2).

Legend: B batch, C channels, H W, G members of a group.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from epigraf.config import Config, Precision
from epigraf.models.layers import (
    CONV_CLAMP,
    Activation,
    Conv2d,
    FullyConnected,
    ScalarEncoder,
    normalize_2nd_moment,
)
from epigraf.models.mapping import CameraEmbedding, MappingNetwork
from epigraf.models.resample import Resample
from epigraf.rendering.draws import Draws
from epigraf.rendering.patches import PatchParams

HYPER_MOD_DIM = 512
LOW_PRECISION_BLOCKS = 4  # the largest, where training.precision is not fp32
_DTYPES = {
    Precision.FP32: None,
    Precision.FP16: torch.float16,
    Precision.BF16: torch.bfloat16,
}


class HyperConv2d(Conv2d):
    """Convolution whose input channels are first scaled by 1 + tanh(affine(h)).

    Args:
        in_channels, out_channels: C before and after.
        hyper_dim: width of h.
        resample: NONE or DOWN.
    """

    def __init__(
        self, in_channels: int, out_channels: int, hyper_dim: int, resample: Resample
    ) -> None:
        super().__init__(
            in_channels, out_channels, 3, Activation.LRELU, resample, conv_clamp=CONV_CLAMP
        )
        self.affine = FullyConnected(hyper_dim, in_channels) if hyper_dim > 0 else None

    def modulated(self, x: Tensor, h: Tensor | None, gain: float) -> Tensor:
        """Map ``x`` [B, C, H, W] under ``h`` [B, hyper_dim]; times ``gain``."""
        if self.affine is not None and h is not None:
            x = x * (1 + self.affine(h).tanh()).to(x.dtype)[:, :, None, None]
        return self(x, gain)


class DiscriminatorBlock(nn.Module):
    """Residual block: two convolutions beside a 1x1 convolution, both halving the size.

    Args:
        channels: C of the input and of the first convolution.
        out_channels: C of the output.
        img_channels: of the image that the first block reads, 0 for later blocks.
        hyper_dim: width of the hyper-modulation, 0 for none.
        resample: DOWN, or NONE for the additional start blocks.
        dtype: of its convolutions, None for that of the parameters.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        img_channels: int,
        hyper_dim: int,
        resample: Resample,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        lrelu = Activation.LRELU
        self.dtype = dtype
        self.fromrgb = (
            Conv2d(img_channels, channels, 1, lrelu, conv_clamp=CONV_CLAMP)
            if img_channels > 0
            else None
        )
        self.conv0 = Conv2d(channels, channels, 3, lrelu, conv_clamp=CONV_CLAMP)
        self.conv1 = HyperConv2d(channels, out_channels, hyper_dim, resample)
        self.skip = Conv2d(channels, out_channels, 1, resample=resample, use_bias=False)

    def forward(self, x: Tensor, h: Tensor | None) -> Tensor:
        """Map ``x`` [B, C, H, W] (or the image) under ``h`` [B, hyper_dim] to [B, C', H', W']."""
        x = x.to(self.dtype or self.conv0.weight.dtype)
        if self.fromrgb is not None:
            x = self.fromrgb(x)
        gain = math.sqrt(0.5)
        return self.conv1.modulated(self.conv0(x), h, gain) + self.skip(x, gain)


class MinibatchStddev(nn.Module):
    """Append the standard deviation within groups of samples as a channel (PGGAN, section 3).

    Groups are strided: with N = B / G groups, sample b belongs to group b mod N.

    Args:
        group_size: G; a smaller batch is one group.
    """

    def __init__(self, group_size: int) -> None:
        super().__init__()
        self.group_size = group_size

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` [B, C, H, W] to [B, C + 1, H, W]."""
        batch, _, height, width = x.shape
        group = min(self.group_size, batch)
        if batch % group:
            raise ValueError(
                f"minibatch stddev: the batch must be a multiple of the group size {group}, "
                f"got {batch}"
            )
        members = x.unflatten(0, (group, batch // group))
        variance = (members - members.mean(dim=0)).square().mean(dim=0)
        stddev = (variance + 1e-8).sqrt().mean(dim=(1, 2, 3))
        stddev = stddev.repeat(group)[:, None, None, None].expand(-1, 1, height, width)
        return torch.cat([x, stddev], dim=1)


class DiscriminatorEpilogue(nn.Module):
    """Features at 4x4 to one logit per image, projected on the mapped condition.

    Args:
        channels: C.
        cmap_dim: width of the mapped condition, 0 for none.
        group_size: see `MinibatchStddev`.
    """

    def __init__(self, channels: int, cmap_dim: int, group_size: int) -> None:
        super().__init__()
        self.mbstd = MinibatchStddev(group_size)
        self.conv = Conv2d(channels + 1, channels, 3, Activation.LRELU, conv_clamp=CONV_CLAMP)
        self.fc = FullyConnected(channels * 16, channels, Activation.LRELU)
        self.out = FullyConnected(channels, cmap_dim or 1)

    def forward(self, x: Tensor, cmap: Tensor | None) -> Tensor:
        """Map ``x`` [B, C, 4, 4] and ``cmap`` [B, cmap_dim] or None to logits [B]."""
        x = self.out(self.fc(self.conv(self.mbstd(x)).flatten(1)))
        if cmap is None:
            return x.squeeze(1)
        return (x * cmap).sum(dim=1) / math.sqrt(cmap.shape[1])


class Discriminator(nn.Module):
    """Judges patches, knowing their place in the image, and if asked the label and the camera.

    The embedding of (scale, x offset, y offset) modulates the second convolution of every block
    and, with label and camera, conditions the logit. It needs ``hyper_mod`` and patches that are
    enabled with ``patch_params_cond``; without them patches are judged by themselves.

    Blocks are named after a nominal resolution, that of the patch times 2^k: the first k blocks do
    not downsample, so that a patch of 64 is read by the blocks of an image of 64 * 2^k.

    Args:
        cfg: the whole configuration; the section ``model.discriminator``, the patch section and
            the label width are read.
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        d, patch = cfg.model.discriminator, cfg.training.patch
        self.img_resolution = cfg.train_resolution
        self.c_dim = cfg.c_dim
        self.normalize_cond, self.hyper_mod_cond = d.normalize_cond, d.hyper_mod_cond
        self.scalar_enc: ScalarEncoder | None = None
        self.hyper_mod_mapping: MappingNetwork | None = None
        if d.hyper_mod and patch.enabled and patch.patch_params_cond:
            self.scalar_enc = ScalarEncoder(3, d.patch_multiplier, d.patch_const_dim)
        if d.hyper_mod and d.hyper_mod_cond:
            self.hyper_mod_mapping = self._make_mapping(cfg, HYPER_MOD_DIM)
        elif self.scalar_enc is not None:
            self.hyper_mod_mapping = MappingNetwork(
                0, self.scalar_enc.dim, HYPER_MOD_DIM, lr_multiplier=d.map_lr_multiplier
            )
        channels = self._add_blocks(cfg)
        self.head_mapping = self._make_mapping(cfg, channels)
        cmap_dim = 0 if self.head_mapping is None else channels
        self.b4 = DiscriminatorEpilogue(channels, cmap_dim, d.mbstd_group_size)

    def _add_blocks(self, cfg: Config) -> int:
        """Add b{R} for the nominal resolutions; returns C at 4x4."""
        d, low_precision = cfg.model.discriminator, _DTYPES[cfg.training.precision]
        nominal = self.img_resolution * 2**cfg.num_start_blocks
        self.block_resolutions = [2**i for i in range(nominal.bit_length() - 1, 2, -1)]
        base = int(d.cbase * d.fmaps)
        hyper_dim = 0 if self.hyper_mod_mapping is None else HYPER_MOD_DIM
        for i, res in enumerate(self.block_resolutions):
            channels, out_channels = min(base // res, d.cmax), min(base // (res // 2), d.cmax)
            if channels < 1:
                raise ValueError(
                    f"discriminator: cbase * fmaps = {base} leaves no channels at {res}; "
                    "raise model.discriminator.cbase"
                )
            resample = Resample.NONE if i < cfg.num_start_blocks else Resample.DOWN
            dtype = low_precision if i < LOW_PRECISION_BLOCKS else None
            block = DiscriminatorBlock(
                channels, out_channels, 3 if i == 0 else 0, hyper_dim, resample, dtype
            )
            if d.hyper_mod_identity and block.conv1.affine is not None:
                torch.nn.init.zeros_(block.conv1.affine.weight)
            self.add_module(f"b{res}", block)
        return min(base // 4, d.cmax)

    def _make_mapping(self, cfg: Config, out_dim: int) -> MappingNetwork | None:
        """A network of all conditions, or None when there is none."""
        d = cfg.model.discriminator
        c_dim = self.c_dim + (0 if self.scalar_enc is None else self.scalar_enc.dim)
        if c_dim == 0 and not d.camera_cond:
            return None
        camera = None
        if d.camera_cond:
            camera = CameraEmbedding(
                d.camera_cond_raw,
                d.camera_cond_drop_p,
                d.camera_cond_noise_std,
                d.camera_multiplier,
                d.camera_cond_yaw_only,
            )
        return MappingNetwork(
            0,
            c_dim,
            out_dim,
            lr_multiplier=d.map_lr_multiplier,
            camera=camera,
            normalize_camera=d.normalize_cond,
        )

    def forward(
        self,
        img: Tensor,
        c: Tensor | None = None,
        camera_angles: Tensor | None = None,
        patch: PatchParams | None = None,
        *,
        draws: Draws | None = None,
    ) -> Tensor:
        """Logits [B] of images.

        Args:
            img: [B, 3, r, r] nominally in [-1, 1]; r is the patch resolution.
            c: one-hot labels [B, c_dim]; None or [B, 0] without labels.
            camera_angles: [B, 3] radians, needed with camera conditioning.
            patch: where the patches lie, needed with patch conditioning.
            draws: for camera noise and dropout in training.
        """
        r = self.img_resolution
        if img.ndim != 4 or tuple(img.shape[1:]) != (3, r, r):
            raise ValueError(
                f"discriminator: img must have shape [B, 3, {r}, {r}], got {list(img.shape)}"
            )
        embedding = self._embed_patch(patch)
        condition = self._join(c, embedding)
        h = None
        if self.hyper_mod_mapping is not None and self.hyper_mod_cond:
            h = self.hyper_mod_mapping(None, condition, camera_angles, draws=draws)
        elif self.hyper_mod_mapping is not None:
            h = self.hyper_mod_mapping(None, embedding)
        x = img.contiguous(memory_format=torch.channels_last)
        for res in self.block_resolutions:
            x = self.get_submodule(f"b{res}")(x, h)
        cmap = None
        if self.head_mapping is not None:
            cmap = self.head_mapping(None, condition, camera_angles, draws=draws)
        return self.b4(x.to(self.b4.conv.weight.dtype), cmap)

    def _embed_patch(self, patch: PatchParams | None) -> Tensor | None:
        """[B, 828] for (scale, x offset, y offset)."""
        if self.scalar_enc is None:
            return None
        if patch is None:
            raise ValueError("discriminator: patch conditioning needs patch parameters, got None")
        embedding = self.scalar_enc(torch.cat([patch.scales[:, :1], patch.offsets], dim=1))
        return normalize_2nd_moment(embedding) if self.normalize_cond else embedding

    def _join(self, c: Tensor | None, embedding: Tensor | None) -> Tensor | None:
        if self.c_dim == 0:
            return embedding
        if c is None or c.ndim != 2 or c.shape[1] != self.c_dim:
            got = None if c is None else list(c.shape)
            raise ValueError(f"discriminator: c must have shape [B, {self.c_dim}], got {got}")
        if self.normalize_cond:
            c = normalize_2nd_moment(c)
        return c if embedding is None else torch.cat([c, embedding], dim=1)
