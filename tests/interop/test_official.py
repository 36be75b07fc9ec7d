"""Official names and settings: round trips, what is dropped, what is refused."""

from __future__ import annotations

import pytest
import torch

from epigraf.config import BackgroundType, Config
from epigraf.errors import CheckpointError, ConfigError
from epigraf.interop.official import (
    config_from_official,
    discriminator_state_from_official,
    generator_name_from_official,
    generator_name_to_official,
    generator_state_from_official,
)
from epigraf.models.discriminator import Discriminator
from epigraf.models.generator import Generator

NAMES = {
    "mapping.fc0.weight": "mapping.fc0.weight",
    "synthesis.tri_plane_decoder.b4.const": "backbone.b4.const",
    "synthesis.tri_plane_decoder.b16.conv0.affine.bias": "backbone.b16.conv0.affine.bias",
    "synthesis.tri_plane_mlp.model.1.bias": "decoder.layers.1.bias",
    "synthesis.tri_plane_mlp.color_network.0.weight": "decoder.color_layers.0.weight",
    "synthesis.tri_plane_mlp.ray_dir_enc.fourier_encoder.fourier_coefs":
        "decoder.ray_dir_enc.fourier_encoder.fourier_coefs",
    "synthesis.bg_model.blocks.1.to_out.affine.weight": "background.blocks.1.to_out.affine.weight",
    "synthesis.bg_model.blocks.0.scalar_enc.fourier_encoder.fourier_coefs":
        "background.encoder.fourier_encoder.fourier_coefs",
}  # fmt: skip


def tree(**generator) -> dict:
    return {
        "model": {
            "name": "epigraf",
            "generator": {
                "cmax": 8, "w_dim": 8, "backbone": "stylegan2", "patch": {"resolution": 16},
                "dataset": {"resolution": 32}, "num_ray_steps": 12,
                "tri_plane": {"res": 16, "feat_dim": 4, "fp32": True, "mlp": {"hid_dim": 8}},
                "bg_model": {"type": None, "num_fp16_blocks": 0, "fmm": {"enabled": False}},
                **generator,
            },
            "discriminator": {
                "cmax": 8, "patch": {"resolution": 16}, "num_additional_start_blocks": 1,
            },
            "loss_kwargs": {"pl_weight": 0.0, "blur_init_sigma": 10},
        },
        "dataset": {"name": "ffhq_32_posed", "resolution": 32, "path_for_slurm_job": "x"},
        "training": {
            "batch_size": 8, "gamma": "auto", "workers": 3, "freezed": 0, "p": 0.3, "target": 0.5,
            "patch": {"resolution": 16, "min_scale_trg": 0.5, "mbstd_group_size": 4},
            "augment": {"mode": "ada", "probs": {"xflip": 1.0}}, "name": "patch_beta",
        },
    }  # fmt: skip


@pytest.mark.parametrize(("official", "ours"), NAMES.items())
def test_names_there_and_back(official: str, ours: str) -> None:
    assert generator_name_from_official(official) == ours
    assert generator_name_to_official(ours) == official


@pytest.mark.parametrize("background", [None, "sphere", "plane"])
def test_a_generator_loads_its_state_under_official_names(background: str | None) -> None:
    cfg = config_from_official(
        tree(bg_model={"type": background}, tri_plane={"res": 16, "has_view_cond": True,
             "posenc_period_len": 8}), z_dim=6,
    )  # fmt: skip
    torch.manual_seed(0)
    source, target = Generator(cfg), Generator(cfg)
    official = {generator_name_to_official(n): v for n, v in source.state_dict().items()}
    assert len(official) == len(source.state_dict())
    official["synthesis.tri_plane_decoder.b8.resample_filter"] = torch.ones(4, 4)
    target.load_state_dict(generator_state_from_official(official))
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value)


def test_dead_discriminator_tensors_are_left_out() -> None:
    discriminator = Discriminator(config_from_official(tree()))
    official = dict(discriminator.state_dict())
    first = discriminator.block_resolutions[0]
    for resolution in discriminator.block_resolutions[1:]:
        official[f"b{resolution}.fromrgb.weight"] = torch.ones(1)
    official[f"b{first}.conv0.resample_filter"] = torch.ones(4, 4)
    renamed = discriminator_state_from_official(official)
    assert renamed.keys() == discriminator.state_dict().keys()
    discriminator.load_state_dict(renamed)


def test_unknown_tensors_are_named() -> None:
    with pytest.raises(CheckpointError, match=r"2 unknown tensors: synthesis\.a, synthesis\.b"):
        generator_state_from_official({f"synthesis.{k}": torch.ones(1) for k in "ab"})
    with pytest.raises(
        CheckpointError, match="official discriminator: 1 unknown tensors: nonsense"
    ):
        discriminator_state_from_official({"nonsense": torch.ones(1)})


def test_configuration_is_translated() -> None:
    cfg = config_from_official(tree(bg_model={"type": "sphere"}), z_dim=64, c_dim=5)
    assert isinstance(cfg, Config)
    assert cfg.name == "ffhq_32_posed"
    g, training = cfg.model.generator, cfg.training
    assert (g.z_dim, g.w_dim, cfg.c_dim, g.num_ray_steps) == (64, 8, 5, 12)
    assert g.bg_model.type is BackgroundType.SPHERE
    assert (training.augment.p, training.augment.target) == (0.3, 0.5)
    assert training.augment.probs.xflip == 1.0
    assert training.patch.min_scale_trg == 0.5
    assert cfg.model.discriminator.num_additional_start_blocks == 1


def test_the_callers_tree_stays() -> None:
    values = tree()
    before = str(values)
    config_from_official(values)
    assert str(values) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "stylegan3-r"}, "backbone='stylegan3-r' is not supported"),
        ({"bg_model": {"fmm": {"enabled": True}}}, "fmm.enabled=True is not supported"),
        ({"tri_plane": {"view_hid_dim": 32}}, "view_hid_dim"),
        ({"num_ray_stps": 3}, "unknown key"),
    ],
)
def test_what_cannot_be_honoured_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from_official(tree(**change))


def test_whole_image_training_needs_no_patch_scale() -> None:
    """The release divides the (unused) patch size by the image size: 64 / 32."""
    values = tree()
    values["training"]["patch"] = {"enabled": False, "resolution": 64, "min_scale_trg": 2.0}
    values["model"]["discriminator"]["num_additional_start_blocks"] = 0
    cfg = config_from_official(values)
    assert cfg.train_resolution == 32


def test_an_embedding_that_nobody_reads_is_left_out() -> None:
    used = {"hyper_mod_mapping.embed.bias": torch.ones(1)}
    state = {"scalar_enc.const_embed.weight": torch.ones(2), "b8.fromrgb.bias": torch.ones(1)}
    assert list(discriminator_state_from_official(state)) == ["b8.fromrgb.bias"]
    assert len(discriminator_state_from_official(state | used)) == 3


@pytest.mark.parametrize("key", ["model", "model.generator", "dataset", "training.augment"])
def test_sections_are_mappings(key: str) -> None:
    values = tree()
    parent = values
    *path, leaf = key.split(".")
    for part in path:
        parent = parent[part]
    parent[leaf] = "text"
    with pytest.raises(ConfigError, match=f"{key} must be a mapping, got 'text'"):
        config_from_official(values, z_dim=4, c_dim=0)
    parent[leaf] = None
    if leaf != "model":
        config_from_official(values, z_dim=4, c_dim=0)
