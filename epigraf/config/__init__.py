"""The configuration: frozen, typed and strict.

Keys that the official EpiGRAF configuration has keep their official names and defaults; the others
are ours and are marked so. YAML presets hold only their differences from these defaults. An unknown
key is an error that names the nearest one.
"""

from __future__ import annotations

from epigraf.config.conventions import (
    ColorActivation,
    HiddenActivation,
    Projection,
    Quadrature,
)
from epigraf.config.presets import list_presets, load_config, preset_folders
from epigraf.config.sections import (
    AugmentConfig,
    AugmentMode,
    AugmentProbs,
    BackgroundConfig,
    BackgroundType,
    CameraConfig,
    CameraDist,
    ClampMode,
    Compositor,
    DatasetConfig,
    DecoderConfig,
    DecoderEngine,
    DiscriminatorConfig,
    GeneratorConfig,
    LastInterval,
    LossConfig,
    LossName,
    MlpConfig,
    ModelConfig,
    OptimConfig,
    PatchConfig,
    PatchDistribution,
    Precision,
    RenderBackend,
    RenderConfig,
    RenderSampler,
    TrainingConfig,
    TriPlaneConfig,
)
from epigraf.config.sentinels import (
    NonfiniteConfig,
    SentinelAction,
    SentinelConfig,
    SentinelsConfig,
)
from epigraf.config.tree import Config

__all__ = [
    "AugmentConfig",
    "AugmentMode",
    "AugmentProbs",
    "BackgroundConfig",
    "BackgroundType",
    "CameraConfig",
    "CameraDist",
    "ClampMode",
    "ColorActivation",
    "Compositor",
    "Config",
    "DatasetConfig",
    "DecoderConfig",
    "DecoderEngine",
    "DiscriminatorConfig",
    "GeneratorConfig",
    "HiddenActivation",
    "LastInterval",
    "LossConfig",
    "LossName",
    "MlpConfig",
    "ModelConfig",
    "NonfiniteConfig",
    "OptimConfig",
    "PatchConfig",
    "PatchDistribution",
    "Precision",
    "Projection",
    "Quadrature",
    "RenderBackend",
    "RenderConfig",
    "RenderSampler",
    "SentinelAction",
    "SentinelConfig",
    "SentinelsConfig",
    "TrainingConfig",
    "TriPlaneConfig",
    "list_presets",
    "load_config",
    "preset_folders",
]
