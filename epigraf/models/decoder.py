"""The tri-plane field: plane features at points, and the small network that reads them.

Legend: B batch, R rays, P points (P = R S, the samples of a ray are neighbours), F plane features,
C channels, H W plane size. Source: EG3D (Chan et al. 2022), section 4.1; EpiGRAF (Skorokhodov et
al. 2022), section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epigraf.config import ColorActivation, DecoderEngine, GeneratorConfig, HiddenActivation
from epigraf.models.layers import LRELU_SLOPE, Activation, FullyConnected, ScalarEncoder
from epigraf.ops.decoder import decode
from epigraf.ops.occupancy import OccupancyGrid
from epigraf.ops.render import FieldTensors, project_planes
from epigraf.ops.tinycudann import decode_tinycudann
from epigraf.ops.triplane import sample_triplane
from epigraf.rendering.renderer import FieldSample

_VIEW_MULTIPLIER = 8.0
_VIEW_WIDTH = 32
_VIEW_SLOPE = 0.1
_WIDENING = 0.001  # of the sigmoid, so that black and white can be reached (mip-NeRF)


class TriPlaneDecoder(nn.Module):
    """Features of a point to its colour (linear, unbounded) and raw density.

    ``mlp.n_layers`` fully connected layers in all, leaky ReLU (or softplus) between them. With
    ``posenc_period_len`` the encoded coordinates join the features. With ``has_view_cond`` the
    trunk ends in ``hid_dim`` features and the density, and a head of two layers turns the features
    and the encoded ray direction into the colour. ``engine`` evaluates the trunk.
    """

    def __init__(self, cfg: GeneratorConfig, engine: DecoderEngine = DecoderEngine.NATIVE) -> None:
        super().__init__()
        self.engine = engine
        plane, mlp = cfg.tri_plane, cfg.tri_plane.mlp
        self.pos_enc = None
        if plane.posenc_period_len > 0:
            self.pos_enc = ScalarEncoder(3, plane.posenc_period_len)
        self.softplus = mlp.hidden_activation is HiddenActivation.SOFTPLUS
        self.bounded = mlp.color_activation is ColorActivation.SIGMOID
        hidden = Activation.LINEAR if self.softplus else Activation.LRELU
        width = plane.feat_dim + (self.pos_enc.dim if self.pos_enc is not None else 0)
        out = mlp.hid_dim + 1 if plane.has_view_cond else 4
        layers = []
        for _ in range(mlp.n_layers - 1):
            layers.append(FullyConnected(width, mlp.hid_dim, hidden))
            width = mlp.hid_dim
        self.layers = nn.ModuleList([*layers, FullyConnected(width, out)])
        self.ray_dir_enc: ScalarEncoder | None = None
        self.color_layers: nn.Sequential | None = None
        if plane.has_view_cond:
            self.ray_dir_enc = ScalarEncoder(3, _VIEW_MULTIPLIER, use_raw=True, use_cos=False)
            self.color_layers = nn.Sequential(
                FullyConnected(mlp.hid_dim + self.ray_dir_enc.dim, _VIEW_WIDTH, Activation.LRELU),
                FullyConnected(_VIEW_WIDTH, 3),
            )

    def forward(self, features: Tensor, coords: Tensor, directions: Tensor | None) -> FieldSample:
        """Colour and raw density of points.

        Args:
            features: [B, P, F], mean of the three planes.
            coords: [B, P, 3] in plane coordinates, [-1, 1] inside the cube.
            directions: [B, R, 3] unit ray directions; read by a view-conditioned decoder only.

        Raises:
            ValueError: a view-conditioned decoder without directions.
        """
        colors, densities = self._trunk(features, coords)
        if self.color_layers is not None:
            colors = self._view_colors(colors, directions)
        if self.bounded:
            colors = torch.sigmoid(colors) * (2 + 4 * _WIDENING) - (1 + 2 * _WIDENING)
        return FieldSample(colors, densities)

    def densities(self, features: Tensor, coords: Tensor) -> Tensor:
        """Raw densities [B, P] alone; arguments as in ``forward``."""
        return self._trunk(features, coords)[1]

    def _trunk(self, features: Tensor, coords: Tensor) -> tuple[Tensor, Tensor]:
        """Colours, or with a view-conditioned head its features, and raw densities."""
        if self.pos_enc is not None:
            features = torch.cat([features, self.pos_enc(coords)], dim=-1)
        weights, biases = self.effective()
        if self.softplus:
            for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
                features = F.softplus(F.linear(features, weight, bias))
            out = F.linear(features, weights[-1], biases[-1])
            return out[..., :-1], out[..., -1]
        run = decode if self.engine is DecoderEngine.NATIVE else decode_tinycudann
        return run(features, weights, biases, LRELU_SLOPE)

    def effective(self) -> tuple[list[Tensor], list[Tensor]]:
        """Weights [O, I] and biases [O] of the trunk's layers, with all gains."""
        layers = [layer for layer in self.layers if isinstance(layer, FullyConnected)]
        pairs = [layer.effective() for layer in layers]
        return [weight for weight, _ in pairs], [bias for _, bias in pairs]

    def _view_colors(self, hidden: Tensor, directions: Tensor | None) -> Tensor:
        if directions is None or self.ray_dir_enc is None or self.color_layers is None:
            raise ValueError(
                "decoder: a view-conditioned decoder needs directions [B, R, 3], got None"
            )
        batch, count = directions.shape[:2]
        views = self.ray_dir_enc(directions)[:, :, None]
        samples = hidden.shape[1] // count
        views = views.expand(batch, count, samples, views.shape[-1]).flatten(1, 2)
        hidden = F.leaky_relu(hidden, _VIEW_SLOPE)
        return self.color_layers(torch.cat([hidden, views], dim=-1))


@dataclass(frozen=True)
class DensityPrior:
    """A ball that a scene starts from: raw density += strength * (1 - |x| / radius).

    An untrained network then renders a convex body about the origin, and adversarial training of
    faces without poses deforms it, instead of settling on the hollow mask that fits as well
    (the bas-relief ambiguity). `radius` in world units. Not part of the official model.
    """

    radius: float
    strength: float

    def __call__(self, points_world: Tensor) -> Tensor:
        """What to add to raw densities [B, P] at points_world [B, P, 3]."""
        return self.strength - points_world.norm(dim=-1) * (self.strength / self.radius)


class TriPlaneField:
    """A scene: planes, the decoder and the cube that they fill; a field for the renderer.

    Args:
        planes: [B, 3 F, H, W], plane-major.
        decoder: reads the features.
        cube_scale: half the edge of the scene cube in world units.
        prior: added to the raw densities; None for the official model.

    Attributes:
        grid: the cells that are not empty, or None where nobody has looked (`prepared`).
    """

    def __init__(
        self,
        planes: Tensor,
        decoder: TriPlaneDecoder,
        cube_scale: float,
        prior: DensityPrior | None = None,
    ) -> None:
        self.planes = planes.unflatten(1, (3, -1))
        self.decoder = decoder
        self.cube_scale = cube_scale
        self.prior = prior
        self.grid: OccupancyGrid | None = None
        self._prepared: FieldTensors | None = None

    def prepared(self, grid: OccupancyGrid | None) -> TriPlaneField:
        """The same scene for many renderings without gradients: what they share is computed once.

        grid: its occupancy grid, or None. The planes and the decoder must not change afterwards.

        Raises:
            ValueError: the grid is of another number of scenes, or on another device.
        """
        if grid is not None:
            own, other = (len(self.planes), self.planes.device), (len(grid), grid.words.device)
            if own != other:
                raise ValueError(
                    f"prepared: the grid is of {other[0]} scenes on {other[1]}, "
                    f"the planes of {own[0]} on {own[1]}"
                )
        field = TriPlaneField(self.planes.flatten(1, 2), self.decoder, self.cube_scale, self.prior)
        tensors = self.tensors()
        field.grid = grid
        field._prepared = None if tensors is None else project_planes(tensors)
        return field

    def __call__(self, points_world: Tensor, directions: Tensor | None = None) -> FieldSample:
        """Colours and raw densities at points_world [B, P, 3] seen along directions [B, R, 3]."""
        coords = points_world / self.cube_scale
        sample = self.decoder(sample_triplane(self.planes, coords), coords, directions)
        if self.prior is None:
            return sample
        return FieldSample(sample.colors, sample.densities + self.prior(points_world))

    def tensors(self) -> FieldTensors | None:
        """The field taken apart for the fused renderer; None with encoded coordinates, a
        view-conditioned head, other activations or another engine, which it does not know."""
        if self._prepared is not None:
            return self._prepared
        if self.decoder.engine is not DecoderEngine.NATIVE:
            return None
        if self.decoder.pos_enc is not None or self.decoder.color_layers is not None:
            return None
        if self.decoder.softplus or self.decoder.bounded:
            return None
        weights, biases = self.decoder.effective()
        strength = 0.0 if self.prior is None else self.prior.strength
        return FieldTensors(
            planes=self.planes,
            weights=weights,
            biases=biases,
            slope=LRELU_SLOPE,
            cube_scale=self.cube_scale,
            prior_strength=strength,
            prior_slope=0.0 if self.prior is None else strength / self.prior.radius,
        )

    def density_raw(self, points_world: Tensor) -> Tensor:
        """Raw densities [B, P] (before shift, clamp and gain) at points_world [B, P, 3]."""
        coords = points_world / self.cube_scale
        raw = self.decoder.densities(sample_triplane(self.planes, coords), coords)
        return raw if self.prior is None else raw + self.prior(points_world)
