"""The configuration: strictness, overrides, derived values."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from epigraf.config import Config, list_presets, load_config
from epigraf.errors import ConfigError


def test_defaults_are_the_official_ones():
    cfg = Config()
    assert cfg.gamma == pytest.approx(0.2048)  # 0.0002 * 256^2 / 64
    assert cfg.num_start_blocks == 2  # log2(256 / 64)
    assert cfg.patch_min_scale == 0.25
    assert cfg.ema_kimg == 20.0
    assert cfg.num_fine_steps == 48
    big = cfg.with_overrides(["dataset.resolution=512"])
    assert big.gamma == pytest.approx(0.8192)
    assert big.num_start_blocks == 3
    assert big.patch_min_scale == 0.125


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.training.gamma=0.1", "did you mean 'training.gamma'"),
        ("training.gama=1", "did you mean 'training.gamma'"),
        ("training.patch=3", "training.patch is a section"),
        ("training.gamma", "reads KEY=VALUE"),
        ("=3", "reads KEY=VALUE"),
        ("training.gamma=abc", "config: training.gamma: .*got 'abc'$"),
        ("training.gamma=-1", "training.gamma: .*greater than or equal to 0, got -1"),
        ("dataset.camera.ray_end=0.1", "ray_end 0.1 must be beyond ray_start 0.88"),
        ("dataset.resolution=100", "dataset.resolution must be a power of two, got 100"),
        ("dataset.resolution=32", "training.patch.resolution 64 must not exceed"),
        ("training.batch_gpu=7", "training.batch_gpu 7 must divide"),
        ("training.batch_size=6", "must be a multiple of"),
        ("dataset.object_radius=2", "object_radius must be smaller"),
        ("dataset.camera.target=[0.0,1.0]", "dataset.camera.target"),
        ("training.seed=.nan", "training.seed"),
        ("training.seed={", "cannot read the value"),
    ],
)
def test_bad_overrides_say_what_is_wrong(override: str, message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        Config().with_overrides([override])
    assert "\n" not in str(caught.value)


def test_the_ball_of_the_object_stays_in_front_of_cameras_that_look_past_it():
    looks_aside = ["dataset.camera.target=[0.3,0.0,0.4]", "dataset.object_radius=0.49"]
    assert Config().with_overrides(looks_aside).dataset.camera.target == (0.3, 0.0, 0.4)
    with pytest.raises(ConfigError, match=r"less the length of dataset\.camera\.target"):
        Config().with_overrides([*looks_aside, "dataset.object_radius=0.5"])


def test_unknown_key_in_a_file_names_the_nearest(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("model: {generator: {tri_plane: {rez: 64}}}\n")
    with pytest.raises(ConfigError, match=r"unknown key 'model.generator.tri_plane.rez'.*\.res'"):
        load_config(path)


@pytest.mark.parametrize(("text", "message"), [("a: [", "not valid YAML"), ("- 1", "a mapping")])
def test_broken_files(tmp_path, text: str, message: str):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path)
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "missing.yaml")


def test_unknown_preset_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'plants64'"):
        load_config("plant64")


@pytest.mark.parametrize("name", sorted(list_presets()))
def test_every_preset_loads_and_survives_a_round_trip(name: str):
    cfg = load_config(name)
    assert cfg.name == name
    assert Config.from_dict(yaml.safe_load(yaml.safe_dump(cfg.to_dict()))) == cfg


@given(
    gamma=st.one_of(st.just("auto"), st.floats(0, 100)),
    lr=st.floats(1e-6, 1, exclude_min=True),
    support=st.lists(st.floats(0.1, 1), min_size=1, max_size=3),
)
def test_overrides_reach_the_value_exactly(gamma, lr, support):
    cfg = Config().with_overrides(
        [
            f"training.gamma={gamma}",
            f"model.generator.optim.lr={lr!r}",
            f"training.patch.discrete_support={support}",
        ]
    )
    assert cfg.training.gamma == gamma
    assert cfg.model.generator.optim.lr == lr
    assert list(cfg.training.patch.discrete_support) == support
    assert Config.from_dict(cfg.to_dict()) == cfg


def test_discrete_patches_begin_within_their_support():
    uniform = ["dataset.resolution=256", "training.patch.distribution=discrete_uniform"]
    assert load_config("ffhq256", uniform)
    for support in ("[]", "[0.1, 3]", "[0.25, 0.5]"):
        with pytest.raises(ConfigError, match=r"has no scale in 1\.\.1, where training begins"):
            load_config("ffhq256", [*uniform, f"training.patch.discrete_support={support}"])
    at_once = ["training.patch.anneal_kimg=0", "training.patch.discrete_support=[0.5]"]
    assert load_config("ffhq256", [*uniform, *at_once])


def test_compiled_code_is_not_differentiated_twice() -> None:
    values = ["training.compile=true", "model.loss_kwargs.pl_weight=2"]
    with pytest.raises(ConfigError, match=r"training\.compile cannot differentiate twice"):
        load_config("tiny", values)
    assert load_config("tiny", values[:1]).training.compile
