"""The EpiGRAF generator: latents and cameras to images, by way of a tri-plane field.

Legend: B batch, R rays (row-major, first row on top), C channels, h w rendered size.
Source: EpiGRAF (Skorokhodov et al. 2022), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from epigraf.config import BackgroundType, Config, Quadrature, RenderBackend, RenderSampler
from epigraf.models.backbone import NoiseMode
from epigraf.models.background import SphereBackground, plane_background
from epigraf.models.decoder import DensityPrior, TriPlaneDecoder, TriPlaneField
from epigraf.models.lattice import coarse_grid
from epigraf.models.mapping import CameraEmbedding, MappingNetwork
from epigraf.models.planes import make_planes
from epigraf.models.projection import as_read_here
from epigraf.rendering.camera import cam2world, clamp_pitch
from epigraf.rendering.draws import Draws
from epigraf.rendering.options import RenderOptions
from epigraf.rendering.patches import PatchParams
from epigraf.rendering.rays import Rays, patch_rays, pixel_directions
from epigraf.rendering.renderer import Rendered, fused_reason, render_rays
from epigraf.rendering.trace import Trace

MAX_RAYS = 8192  # rays of one pass in inference, over the whole batch
_IMAGE_CHANNELS = 3


@dataclass(frozen=True)
class View:
    """What to render of a scene, and how.

    Attributes:
        patch: the part of the image plane to render; None is all of it.
        fov: full field of view in degrees, a number or [B]; None is the data set's.
        resolution: side of the picture in pixels; None is the patch resolution in training and the
            data set's resolution in evaluation.
        deterministic: no jitter, evenly spread importance samples.
        jitter_background: move the background's samples within their strata; None is in training,
            unless deterministic.
        density_noise_std: standard deviation of the noise on raw densities.
        ignore_bg: leave the background out.
        bg_only: the background alone.
        max_rays: rays of one pass over the whole batch where no gradient is asked for (memory).
        second_order: gradients of the picture will be differentiated again, which the fused
            renderer cannot do: compose it from ops.
        skip_empty: look for the empty parts of the scene first and leave them out, where no
            gradient is asked for (occupancy 12).
    """

    patch: PatchParams | None = None
    fov: float | Tensor | None = None
    resolution: int | None = None
    deterministic: bool = False
    jitter_background: bool | None = None
    density_noise_std: float = 0.0
    ignore_bg: bool = False
    bg_only: bool = False
    max_rays: int = MAX_RAYS
    second_order: bool = False
    skip_empty: bool = False


@dataclass(frozen=True)
class Image:
    """A rendering: image and foreground [B, 3, h, w] (linear, nominally [-1, 1], not clamped),
    depth [B, 1, h, w] (sum of weight times distance) and opacity [B, 1, h, w].

    ``foreground`` is the picture before the background; the same tensor where there is none.
    """

    image: Tensor
    depth: Tensor
    opacity: Tensor
    foreground: Tensor = field(repr=False)


class Generator(nn.Module):
    """Mapping network, tri-plane backbone, decoder, background and renderer.

    Attributes: z_dim, w_dim, c_dim, num_ws, img_resolution, and the modules mapping, backbone,
    decoder and background (None, or a SphereBackground whose latents are the last of the num_ws).
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        g, camera = cfg.model.generator, cfg.dataset.camera
        self.cfg = cfg
        self.z_dim, self.w_dim, self.c_dim = g.z_dim, g.w_dim, cfg.c_dim
        self.img_resolution = cfg.dataset.resolution
        self.plane_channels = 3 * g.tri_plane.feat_dim
        has_plane_bg = g.bg_model.type is BackgroundType.PLANE
        channels = self.plane_channels + (_IMAGE_CHANNELS if has_plane_bg else 0)
        self.backbone = make_planes(g, channels)
        self.decoder = TriPlaneDecoder(g, cfg.decoder.engine)
        self.background: SphereBackground | None = None
        if g.bg_model.type is BackgroundType.SPHERE:
            self.background = SphereBackground(
                g.bg_model, g.w_dim, g.clamp_mode, cfg.dataset.white_back
            )
        self.num_ws = self.backbone.num_ws
        self.num_ws += 0 if self.background is None else self.background.num_ws
        embedding = None
        if g.camera_cond:
            embedding = CameraEmbedding(True, g.camera_cond_drop_p, g.camera_cond_noise_std)
        self.mapping = MappingNetwork(
            g.z_dim, self.c_dim, g.w_dim, self.num_ws, g.map_depth, g.map_lr_multiplier, embedding,
            mean_camera_pose=(camera.horizontal_mean, camera.vertical_mean, 0.0),
        )  # fmt: skip

    def planes(
        self, ws: Tensor, noise_mode: NoiseMode = NoiseMode.RANDOM, *, draws: Draws | None = None
    ) -> Tensor:
        """Planes [B, 3 F (+ 3 with a plane background), res, res] of ws [B, num_ws, w_dim]."""
        ws = ws[:, : self.backbone.num_ws]
        return self.backbone(ws, noise_mode=noise_mode, draws=draws)

    def field(self, planes: Tensor) -> TriPlaneField:
        """The scene that planes (as returned by ``planes``) hold, without its background."""
        scale, g = self.cfg.dataset.cube_scale, self.cfg.model.generator
        prior = None
        if g.density_prior_radius is not None:
            prior = DensityPrior(g.density_prior_radius, g.density_prior_strength)
        planes = as_read_here(planes[:, : self.plane_channels], g.tri_plane.projection)
        return TriPlaneField(planes, self.decoder, scale, prior)

    def _scene(self, planes: Tensor, view: View, options: RenderOptions) -> TriPlaneField:
        """The field, with a grid of its empty parts where the view asks for one."""
        field, data = self.field(planes), self.cfg.dataset
        if view.skip_empty and not torch.is_grad_enabled():
            half_edge = min(data.object_radius or data.cube_scale, data.cube_scale)
            field.grid = coarse_grid(field, half_edge, options)
        return field

    def forward(
        self,
        z: Tensor,
        c: Tensor | None,
        camera_angles: Tensor,
        camera_angles_cond: Tensor | None = None,
        view: View | None = None,
        *,
        noise_mode: NoiseMode = NoiseMode.RANDOM,
        truncation_psi: float = 1.0,
        draws: Draws,
    ) -> Image:
        """Render z [B, z_dim] with labels c [B, c_dim] from camera_angles [B, 3] (radians).

        ``camera_angles_cond`` [B, 3] conditions the mapping network where the model has camera
        conditioning (None in evaluation: the mean pose).
        """
        ws = self.mapping(
            z, c, camera_angles_cond, truncation_psi=truncation_psi, draws=draws
        )  # fmt: skip
        return self.synthesis(ws, camera_angles, view, noise_mode=noise_mode, draws=draws)

    def synthesis(
        self,
        ws: Tensor,
        camera_angles: Tensor,
        view: View | None = None,
        *,
        noise_mode: NoiseMode = NoiseMode.RANDOM,
        draws: Draws,
        trace: Trace | None = None,
        planes: Tensor | None = None,
    ) -> Image:
        """Render ws [B, num_ws, w_dim] from camera_angles [B, 3] (radians; roll is ignored).

        With more cameras than styles, [B V, 3], each object is seen by V neighbouring ones, and the
        backbone runs once for them; the image is [B V, 3, h, w]. The pitch is clamped to
        [1e-5, pi - 1e-5] in a copy. ``planes`` saves the backbone where they are known already;
        ``trace`` receives the intermediate tensors.

        Raises:
            ValueError: ``bg_only`` without a background model, or shapes that do not fit.
        """
        view = view or View()
        if planes is None:
            planes = self.planes(ws, noise_mode, draws=draws)
        has_background = self.cfg.model.generator.bg_model.type is not None
        if view.bg_only and (view.ignore_bg or not has_background):
            raise ValueError("synthesis: bg_only needs a background, and this view has none")
        resolution = view.resolution or self._resolution()
        rays = self._rays(camera_angles, view, resolution, trace)
        if trace is not None:
            trace["planes"] = planes
        options = replace(self.render_options(view, len(ws)), row_length=resolution)
        cameras, rays = len(rays.directions), _by_object(rays, len(ws))
        scene = self._scene(planes, view, options)
        rendered = render_rays(scene, rays, options, draws=draws, trace=trace)
        features = rendered.features
        if has_background and not view.ignore_bg:
            behind = self._background(ws, planes, rays, view, resolution, draws, trace)
            through = rendered.transmittance[..., None]
            features = behind if view.bg_only else features + behind * through
        return _image(features, rendered, resolution, cameras)

    def render_options(self, view: View, batch: int = 1) -> RenderOptions:
        """The ray march of a view in the present mode (training or evaluation)."""
        g, data = self.cfg.model.generator, self.cfg.dataset
        coarse, fine = self._steps()
        return RenderOptions(
            num_coarse=coarse,
            num_fine=fine,
            near=data.camera.ray_start,
            far=data.camera.ray_end,
            object_radius=data.object_radius,
            clamp_mode=g.clamp_mode,
            density_shift=g.density_shift,
            density_gain=g.density_gain,
            density_noise_std=view.density_noise_std,
            last_interval=g.last_interval,
            last_back=data.last_back,
            white_back=data.white_back,
            black_back=data.black_back,
            midpoints=g.quadrature is Quadrature.MIDPOINTS,
            has_background=g.bg_model.type is not None,
            deterministic=view.deterministic,
            max_rays=self._max_rays(view, batch),
            backend=self._backend(view),
            early_stop_eps=self.cfg.render.early_stop_eps,
            compositor=self.cfg.render.compositor,
            sampler=self.cfg.render.sampler or RenderSampler.DENSE,
        )

    def renderer(self, device: torch.device | str = "cpu") -> str:
        """What marches the rays of this model on `device`, and why not the fused renderer."""
        planes = torch.empty(1, self.plane_channels, 1, 1, device=device)
        ray = torch.empty(1, 1, 3, device=device)
        options = self.render_options(View())
        reason = fused_reason(self.field(planes), Rays(ray, ray), options)
        if not reason:
            return RenderBackend.FUSED.value
        name = "reference" if options.backend is RenderBackend.REFERENCE else "ops"
        return f"{name} ({reason})"

    def _backend(self, view: View) -> RenderBackend:
        chosen = self.cfg.render.backend
        return RenderBackend.OPS if view.second_order and chosen is RenderBackend.FUSED else chosen

    def _max_rays(self, view: View, batch: int) -> int | None:
        return None if torch.is_grad_enabled() else max(1, view.max_rays // max(batch, 1))

    def _steps(self) -> tuple[int, int]:
        """Coarse and fine samples per ray in the present mode."""
        g = self.cfg.model.generator
        if self.training:
            return g.num_ray_steps, self.cfg.num_fine_steps
        coarse = g.num_ray_steps if g.test_ray_steps is None else g.test_ray_steps
        if g.test_fine_steps is not None:
            return coarse, g.test_fine_steps
        return coarse, coarse if g.num_fine_steps is None else g.num_fine_steps

    def _resolution(self) -> int:
        return self.cfg.train_resolution if self.training else self.img_resolution

    def _rays(self, angles: Tensor, view: View, resolution: int, trace: Trace | None) -> Rays:
        camera = self.cfg.dataset.camera
        fov = camera.fov if view.fov is None else view.fov
        matrices = cam2world(clamp_pitch(angles), camera.radius, camera.target)
        rays = patch_rays(matrices, resolution, resolution, fov, view.patch)
        if trace is not None:
            directions = pixel_directions(resolution, resolution, fov, view.patch).to(angles)
            near_far = torch.linspace(camera.ray_start, camera.ray_end, self._steps()[0])
            trace["z_vals_uniform"] = near_far.expand(len(angles), 1, -1)[..., None]
            trace["rays_d_cam"] = directions.expand_as(rays.directions)
            trace["c2w"] = matrices
            trace["ray_o_world"], trace["ray_d_world"] = rays
        return rays

    def _background(
        self,
        ws: Tensor,
        planes: Tensor,
        rays: Rays,
        view: View,
        resolution: int,
        draws: Draws,
        trace: Trace | None,
    ) -> Tensor:
        """Background colours [B, R, 3]."""
        if self.background is None:
            picture = planes[:, self.plane_channels :]
            views = rays.directions.shape[1] // resolution**2
            seen = picture.repeat_interleave(views, dim=0)
            behind = plane_background(seen, self.img_resolution, resolution, view.patch)
            return behind.reshape(len(planes), -1, _IMAGE_CHANNELS)
        jitter = view.jitter_background
        if jitter is None:
            jitter = self.training and not view.deterministic
        return self.background(
            ws[:, self.backbone.num_ws :],
            rays,
            jitter=jitter,
            draws=draws,
            max_rays=self._max_rays(view, len(ws)),
            trace=trace,
        )


def _by_object(rays: Rays, objects: int) -> Rays:
    """Rays [B V, R, 3] of V views of each object as [B, V R, 3].

    Raises:
        ValueError: the cameras are no multiple of the objects.
    """
    cameras = len(rays.directions)
    if cameras == objects:
        return rays
    if objects == 0 or cameras % objects:
        raise ValueError(
            f"synthesis: camera_angles must have shape [B, 3] or [B V, 3] with B = {objects}, "
            f"got {cameras} cameras"
        )
    return Rays(*(x.reshape(objects, -1, 3) for x in rays))


def _image(features: Tensor, rendered: Rendered, resolution: int, cameras: int) -> Image:
    def picture(rays: Tensor) -> Tensor:  # [B, V R, C] -> [B V, C, h, w]
        rays = rays.reshape(cameras, -1, rays.shape[-1])
        return rays.transpose(1, 2).unflatten(2, (resolution, resolution)).contiguous()

    image = picture(features)
    foreground = image if features is rendered.features else picture(rendered.features)
    depth, opacity = picture(rendered.depth[..., None]), picture(rendered.opacity[..., None])
    return Image(image, depth, opacity, foreground)
