"""What a training step costs: FLOPs by part and by phase, and the memory that waits for gradients.

FLOPs are two for each multiply-add of a convolution or matrix product, as
`torch.utils.flop_counter` counts them (a test holds the two together); FIR filters and pointwise
operations are not counted: they move memory. The plane look-ups are, in a part of their own.
A forward pass of a network is F; its backward pass is 2 F with, F without gradients of the weights;
R1 is 6 F (forward, gradient, and the backward passes of both, which cost 2 F each), 3 F in the
layers of the condition, which no image reaches.
Sizes are those of one image; bytes are of float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from epigraf.config import Config, LossName
from epigraf.models.backbone import SynthesisBlock, SynthesisLayer, ToPlanes
from epigraf.models.discriminator import Discriminator, DiscriminatorBlock
from epigraf.models.generator import Generator
from epigraf.models.layers import Conv2d, FullyConnected
from epigraf.models.mapping import MappingNetwork
from epigraf.models.resample import Resample
from epigraf.training.step import Phase

FLOAT, HALF = 4, 2  # bytes
# Feature maps [C, H, W] of a block that are kept for its backward pass. Backbone: the upsampled
# one after its activation, the modulated one, the second convolution's after its activation, and
# the input of the next block, modulated. D: see `_discriminator_saved`.
BACKBONE_MAPS, LAST_BACKBONE_MAPS = 4, 3
R1_SAVED = 1.9  # of what a pass of D keeps: the graph of the gradient beside that of the scores
SAMPLE_FLOATS = {True: 5, False: 48}  # per sample of the fused renderer (outputs, depth), of ops
TRAFFIC = 4  # times that an activation is moved for each time that it is kept (reads and writes)
PATH_LENGTH = 6.0  # F of a pass that is differentiated twice


@dataclass(frozen=True)
class Part:
    """A part of the model: FLOPs of one forward pass of an image, bytes kept for the backward
    pass; those of things that patches of one object share are divided among them. `first`: FLOPs of
    layers whose input needs no gradient."""

    name: str
    flops: float
    saved: float
    first: float = 0.0

    @property
    def backward(self) -> float:
        """FLOPs of a backward pass, gradients of the weights included."""
        return 2 * self.flops - self.first


@dataclass(frozen=True)
class PartCost:
    """FLOPs of a part in the training of one image, all phases, lazy ones for their share; and
    bytes that it moves to and from memory for it."""

    name: str
    forward: float
    backward: float
    moved: float

    @property
    def flops(self) -> float:
        """Forward and backward."""
        return self.forward + self.backward


@dataclass(frozen=True)
class Cost:
    """The cost of a configuration.

    Attributes:
        generator_parameters, discriminator_parameters: how many.
        cast_weights: bytes of D's weights in 16 bits, kept during a pass.
        parts: the generator's, from the latent to the picture.
        discriminator: a pass of D over one image.
        conditioning: FLOPs of it that label, camera and patch take, which no image reaches.
        planes: bytes of the planes of an image.
        largest: bytes of the largest feature map of an image.
    """

    cfg: Config
    generator_parameters: int
    discriminator_parameters: int
    cast_weights: float
    parts: list[Part]
    discriminator: Part
    conditioning: float
    planes: float
    largest: float

    @property
    def forward(self) -> float:
        """FLOPs of rendering one training image."""
        return sum(part.flops for part in self.parts)

    @property
    def penalised(self) -> int:
        """Kinds of images whose gradient is penalised: real ones, fakes."""
        return 0 if self.cfg.gamma == 0 else 2 if self._paired else 1

    @property
    def _paired(self) -> bool:
        return self.cfg.training.loss is LossName.R3GAN

    def phases(self) -> dict[str, float]:
        """FLOPs of one image in each phase that there is, when it is due."""
        f, d, training = self.forward, self.discriminator.flops, self.cfg.training
        c, r1 = self.conditioning, self._penalty
        found = {
            Phase.GENERATOR.value: f
            + sum(p.backward for p in self.parts)
            + (3 if self._paired else 2) * d
            - c,
            Phase.DISCRIMINATOR.value: (0 if training.reuse_fakes else f) + 6 * d,
        }
        loss = self.cfg.model.loss_kwargs
        if loss.pl_weight > 0:
            found[Phase.PATH_LENGTH.value] = PATH_LENGTH * f / loss.pl_batch_shrink
        if self.cfg.lazy_r1_interval is not None:
            found[Phase.R1.value] = r1
        elif self.penalised:
            found[Phase.DISCRIMINATOR.value] += r1 - 3 * d * self.penalised
        return found

    @property
    def _penalty(self) -> float:
        """FLOPs of the gradient penalties of an image by themselves."""
        return (6 * self.discriminator.flops - 3 * self.conditioning) * self.penalised

    def shares(self) -> dict[str, float]:
        """How often a phase is due, per step."""
        loss = self.cfg.model.loss_kwargs
        r1 = self.cfg.lazy_r1_interval
        lazy = {Phase.R1.value: 1 / (r1 or 1), Phase.PATH_LENGTH.value: 1 / loss.pl_interval}
        return {name: lazy.get(name, 1.0) for name in self.phases()}

    def by_part(self) -> list[PartCost]:
        """All FLOPs of an image, by part."""
        renders = 1 if self.cfg.training.reuse_fakes else 2
        rows = [
            PartCost(p.name, renders * p.flops, p.backward, TRAFFIC * p.saved * (renders + 2))
            for p in self.parts
        ]
        d, saved = self.discriminator.flops, TRAFFIC * self.discriminator.saved
        forward = 4 if self._paired else 3
        backward = 5 * d - self.conditioning
        rows.append(PartCost("discriminator", forward * d, backward, saved * (forward + 5)))
        phases, shares, loss = self.phases(), self.shares(), self.cfg.model.loss_kwargs
        again = sum(p.saved for p in self.parts) * TRAFFIC / loss.pl_batch_shrink
        lazy = (
            (Phase.R1.value, "R1", saved * self.penalised),
            (Phase.PATH_LENGTH.value, "path length", again),
        )
        for phase, label, bytes_once in lazy:
            if phase in phases:
                flops = phases[phase] * shares[phase]
                moved = 6 * bytes_once * shares[phase]
                rows.append(PartCost(label, flops / 6, flops * 5 / 6, moved))
        if self.cfg.lazy_r1_interval is None and self.penalised:
            backward = self._penalty - 3 * d * self.penalised
            rows.append(PartCost("R1 and R2", 0.0, backward, 3 * self.penalised * saved))
        return rows


def cost_of(cfg: Config) -> Cost:
    """The cost of a configuration, read off its networks on the meta device (nothing is computed).

    Args:
        cfg: any configuration; labels count where `dataset.c_dim` says how many there are.
    """
    with torch.device("meta"):
        generator, discriminator = Generator(cfg), Discriminator(cfg)
    views = cfg.training.patches_per_latent
    blocks = list(_backbone(generator, views))
    fused = generator.renderer() == "fused"
    side = generator.backbone.resolution
    maps = [m.weight.shape[0] * m.resolution**2 for m in _all(generator, SynthesisLayer)]
    halves = [b for b in _all(discriminator, DiscriminatorBlock) if b.dtype is not None]
    cast = [m.weight.numel() for block in halves for m in _all(block, Conv2d)]
    return Cost(
        cfg=cfg,
        generator_parameters=sum(p.numel() for p in generator.parameters()),
        discriminator_parameters=sum(p.numel() for p in discriminator.parameters()),
        cast_weights=HALF * sum(cast),
        parts=[
            Part("mapping", _linear(generator.mapping) / views, 0.0),
            *blocks,
            *_field(generator, fused),
        ],
        discriminator=_discriminator(discriminator, cfg),
        conditioning=_conditioning(discriminator),
        planes=FLOAT * generator.plane_channels * side**2 / views,
        largest=FLOAT * max(maps) / views,
    )


def _all(network: nn.Module, kind: type) -> Iterator:
    return (m for m in network.modules() if isinstance(m, kind))


def _linear(network: nn.Module) -> float:
    """FLOPs of all fully connected layers, once each."""
    return sum(2.0 * m.weight.numel() for m in _all(network, FullyConnected))


def _backbone(generator: Generator, views: int) -> Iterator[Part]:
    """One part a block."""
    resolutions = generator.backbone.block_resolutions
    for res in resolutions:
        block = generator.backbone.get_submodule(f"b{res}")
        assert isinstance(block, SynthesisBlock)
        flops = _linear(block)
        for layer in _all(block, SynthesisLayer):
            side = res // 2 if layer.resample is Resample.UP else res
            flops += 2.0 * layer.weight.numel() * side**2
            flops += 2.0 * layer.weight.shape[0] * layer.weight.shape[1]  # demodulation
        flops += sum(2.0 * m.weight.numel() * res**2 for m in _all(block, ToPlanes))
        maps = LAST_BACKBONE_MAPS if res == resolutions[-1] else BACKBONE_MAPS
        channels = block.torgb.weight.shape[1]
        yield Part(f"backbone b{res}", flops / views, FLOAT * maps * channels * res**2 / views)


def _field(generator: Generator, fused: bool) -> Iterator[Part]:
    """The look-ups, the decoder, the background."""
    cfg = generator.cfg
    rays = cfg.train_resolution**2
    samples = rays * (cfg.model.generator.num_ray_steps + cfg.num_fine_steps)
    features = cfg.model.generator.tri_plane.feat_dim
    yield Part("look-ups", samples * 3 * 4 * 2.0 * features, 0.0)
    saved = FLOAT * samples * SAMPLE_FLOATS[fused]
    yield Part("decoder", samples * _linear(generator.decoder), saved)
    background = generator.background
    if background is not None:
        points = rays * background.num_steps
        named = background.blocks.named_parameters()
        weights = [p for name, p in named if "affine" not in name and p.ndim == 2]
        size, widths = sum(p.numel() for p in weights), sum(p.shape[0] for p in weights)
        first = 2.0 * points * weights[0].numel()
        yield Part("background", 2.0 * points * size, FLOAT * points * 2 * widths, first)


def _conditioning(network: Discriminator) -> float:
    """FLOPs of the mappings of conditions and of what they modulate."""
    mappings = sum(_linear(m) for m in _all(network, MappingNetwork))
    return mappings + sum(_linear(m) for m in _all(network, DiscriminatorBlock))


def _discriminator(network: Discriminator, cfg: Config) -> Part:
    """A forward pass over one image."""
    size = cfg.train_resolution
    flops, saved = _conditioning(network) + _linear(network.b4), 0.0
    for res in network.block_resolutions:
        block = network.get_submodule(f"b{res}")
        assert isinstance(block, DiscriminatorBlock)
        out = size // 2 if block.conv1.resample is Resample.DOWN else size
        flops += 2.0 * block.conv0.weight.numel() * size**2
        flops += 2.0 * (block.conv1.weight.numel() + block.skip.weight.numel()) * out**2
        if block.fromrgb is not None:
            flops += 2.0 * block.fromrgb.weight.numel() * size**2
        saved += _discriminator_saved(block, size, out)
        size = out
    flops += 2.0 * network.b4.conv.weight.numel() * size**2
    return Part("discriminator", flops, FLOAT * saved)


def _discriminator_saved(block: DiscriminatorBlock, size: int, out: int) -> float:
    """Floats kept of a block: the two activations and the modulated one, the filtered images of a
    block that halves, its output and the sum of both ways; the image and its features first."""
    before, after = block.conv0.weight.shape[0], block.conv1.weight.shape[0]
    floats = before * size**2 * (1 if block.conv1.affine is None else 2) + 2 * after * out**2
    if out < size:
        floats += before * ((size + 1) ** 2 + out**2)
    return floats + (0 if block.fromrgb is None else (before + 3) * size**2)
