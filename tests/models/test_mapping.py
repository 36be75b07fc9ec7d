"""Mapping network: conditions, averages, truncation, camera embedding."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from epigraf.models.layers import normalize_2nd_moment
from epigraf.models.mapping import CameraEmbedding, MappingNetwork
from epigraf.rendering.draws import RandomDraws, ReplayDraws


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def angles(*rows: tuple[float, float, float]) -> Tensor:
    return torch.tensor(rows)


def lrelu_layer(x: Tensor, network: MappingNetwork, name: str, lr_multiplier: float) -> Tensor:
    """One hidden layer from its stored parameters."""
    layer = network.get_submodule(name)
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    y = x @ weight.T * (lr_multiplier / math.sqrt(x.shape[1])) + bias * lr_multiplier
    return torch.where(y > 0, y, 0.2 * y) * math.sqrt(2)


def test_unconditional_formula() -> None:
    network = MappingNetwork(6, 0, 5, num_ws=3, depth=3, lr_multiplier=0.1)
    z = normal(4, 6)
    w = z / (z.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()
    for name in ("fc0", "fc1", "fc2"):
        w = lrelu_layer(w, network, name, 0.1)
    ws = network(z)
    assert ws.shape == (4, 3, 5)
    for i in range(3):
        torch.testing.assert_close(ws[:, i], w)


def test_label_and_camera_formula() -> None:
    """[z, normalised linear embedding of (label, yaw / 2 pi, pitch / 2 pi)]."""
    network = MappingNetwork(6, 3, 5, num_ws=2, camera=CameraEmbedding(raw=True))
    z, c = normal(4, 6), torch.eye(3)[[0, 2, 1, 1]]
    cameras = angles((0.5, 1.0, 9.0), (-0.5, 1.5, 9.0), (7.0, 2.0, 9.0), (-7.0, 3.0, 9.0))
    tau = 2 * math.pi
    yaws = [0.5 / tau, -0.5 / tau, (7 - tau) / tau, -(7 - tau) / tau]
    turns = torch.tensor(
        [[yaw, pitch / tau] for yaw, pitch in zip(yaws, [1, 1.5, 2, 3], strict=True)]
    )
    assert network.embed is not None
    y = torch.cat([c, turns], dim=1) @ network.embed.weight.T / math.sqrt(5) + network.embed.bias
    w = torch.cat([normalize_2nd_moment(z), normalize_2nd_moment(y)], dim=1)
    for name in ("fc0", "fc1"):
        w = lrelu_layer(w, network, name, 0.01)
    torch.testing.assert_close(network(z, c, cameras)[:, 0], w, rtol=1e-4, atol=1e-6)


def test_state_names() -> None:
    network = MappingNetwork(6, 3, 5, 2, camera=CameraEmbedding(False), mean_camera_pose=(0, 1, 0))
    layers = [f"{layer}.{kind}" for layer in ("embed", "fc0", "fc1") for kind in ("weight", "bias")]
    buffers = ["w_avg", "mean_camera_pose", "camera_scalar_enc.fourier_encoder.fourier_coefs"]
    assert sorted(network.state_dict()) == sorted(layers + buffers)
    without = MappingNetwork(0, 3, 5)
    assert sorted(without.state_dict()) == sorted(layers)


def test_average_w_follows_the_batch_mean() -> None:
    network = MappingNetwork(6, 0, 5, num_ws=2)
    network.w_avg.fill_(1.0)
    ws = network(normal(8, 6), update_w_avg=True)
    expected = 0.998 * torch.ones(5) + 0.002 * ws[:, 0].mean(dim=0)
    torch.testing.assert_close(network.w_avg, expected.detach())
    assert not network.w_avg.requires_grad


def test_truncation() -> None:
    network = MappingNetwork(6, 0, 5, num_ws=4)
    network.w_avg.copy_(normal(5))
    z = normal(2, 6)
    full, average = network(z), network.w_avg
    expected = average + 0.7 * (full - average)
    torch.testing.assert_close(network(z, truncation_psi=0.7), expected)
    cut = network(z, truncation_psi=0.7, truncation_cutoff=3)
    torch.testing.assert_close(cut[:, :3], expected[:, :3])
    torch.testing.assert_close(cut[:, 3:], full[:, 3:])
    torch.testing.assert_close(network(z, truncation_psi=0.0), average.expand(2, 4, 5))


def test_mean_pose_stands_in_for_a_missing_camera_in_evaluation() -> None:
    pose = (0.3, 1.2, 0.0)
    network = MappingNetwork(6, 0, 5, 2, camera=CameraEmbedding(True), mean_camera_pose=pose).eval()
    z = normal(3, 6)
    torch.testing.assert_close(network(z), network(z, None, angles(pose, pose, pose)))
    with pytest.raises(ValueError, match="camera conditioning needs camera_angles"):
        network.train()(z)
    with pytest.raises(ValueError, match="camera conditioning needs camera_angles"):
        MappingNetwork(6, 0, 5, 2, camera=CameraEmbedding(True)).eval()(z)


def test_a_camera_of_which_only_the_yaw_is_told() -> None:
    embedding = CameraEmbedding(raw=True, yaw_only=True)
    turns = embedding(angles((0.5, 1.0, 0.0), (0.5, 2.0, 0.0), (-0.25, 1.0, 0.0)))
    tau = 2 * math.pi
    torch.testing.assert_close(turns, torch.tensor([[0.5, 0], [0.5, 0], [-0.25, 0]]) / tau)


def test_camera_embedding_is_periodic_and_odd_in_raw_form() -> None:
    embedding = CameraEmbedding(raw=True)
    y = embedding(angles((1.0, 2.0, 0.0), (1.0 - 2 * math.pi, -2.0, 5.0)))
    tau = 2 * math.pi
    assert y[0].tolist() == pytest.approx([1 / tau, 2 / tau])
    assert y[1].tolist() == pytest.approx([1 / tau - 1, -2 / tau])


def test_camera_noise_and_dropout_use_the_given_draws() -> None:
    embedding = CameraEmbedding(raw=True, drop_p=0.5, noise_std=0.2)
    cameras = angles((1.0, 2.0, 0.0), (2.0, 1.0, 0.0))
    noise = torch.tensor([[1.0, -1.0], [0.0, 2.0]])
    keep = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    draws = ReplayDraws([("noise", noise), ("keep", keep)])
    std = math.sqrt(0.5)  # of {1, 2}, with Bessel's correction
    y = embedding(cameras, draws)
    draws.finish()
    tau = 2 * math.pi
    assert y[0].tolist() == pytest.approx([2 * (1 + 0.2 * std) / tau, 0.0])
    assert y[1].tolist() == pytest.approx([0.0, 2 * (1 + 0.4 * std) / tau])
    torch.testing.assert_close(embedding.eval()(cameras), cameras[:, :2] / tau)


def test_camera_noise_of_one_camera_is_left_out() -> None:
    embedding = CameraEmbedding(raw=True, noise_std=0.2)
    y = embedding(angles((1.0, 2.0, 0.0)), RandomDraws(0))
    assert y[0].tolist() == pytest.approx([0.5 / math.pi, 1 / math.pi])


def test_randomness_needs_draws() -> None:
    with pytest.raises(ValueError, match="noise and dropout need draws in training, got None"):
        CameraEmbedding(raw=True, drop_p=0.5)(angles((1.0, 2.0, 0.0)))


@pytest.mark.parametrize(
    ("z", "c", "message"),
    [
        (normal(2, 5), torch.eye(2, 3), r"mapping: z must have shape \[B, 6\], got \[2, 5\]"),
        (None, torch.eye(2, 3), r"mapping: z must have shape \[B, 6\], got None"),
        (normal(2, 6), None, r"mapping: c must have shape \[B, 3\], got None"),
        (normal(2, 6), torch.eye(2), r"mapping: c must have shape \[B, 3\], got \[2, 2\]"),
    ],
)
def test_wrong_shapes(z: Tensor | None, c: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MappingNetwork(6, 3, 5, 2)(z, c)


def test_nothing_to_map() -> None:
    with pytest.raises(ValueError, match="nothing to map"):
        MappingNetwork(0, 0, 5)


def test_average_needs_num_ws() -> None:
    with pytest.raises(ValueError, match="keeps no average w"):
        MappingNetwork(6, 0, 5)(normal(2, 6), update_w_avg=True)
