"""Configuration: pydantic models, read from TOML recipes, environment variables and dotted flags, with their origins."""

from ._load import Loaded, Sources, flatten, load_config
from ._model import ConfigModel
from ._sections import (
    AUTO,
    AttentionKernel,
    Checkpointing,
    Experts,
    GenerationConfig,
    Layers,
    LoraConfig,
    Method,
    ModelConfig,
    OutputConfig,
    Quantisation,
    RequestsConfig,
    StartConfig,
    TaskConfig,
)
from ._stages import Stage, load_stages, validate_recipe
from ._training import CheckpointConfig, OptimConfig, TrackingConfig
from ._write import dump_toml

__all__ = [
    "AUTO",
    "AttentionKernel",
    "CheckpointConfig",
    "Checkpointing",
    "ConfigModel",
    "Experts",
    "GenerationConfig",
    "Layers",
    "Loaded",
    "LoraConfig",
    "Method",
    "ModelConfig",
    "OptimConfig",
    "OutputConfig",
    "Quantisation",
    "RequestsConfig",
    "Sources",
    "Stage",
    "StartConfig",
    "TaskConfig",
    "TrackingConfig",
    "dump_toml",
    "flatten",
    "load_config",
    "load_stages",
    "validate_recipe",
]
