"""Every setting once: type, default, bounds, help text, and whether a resumed run may change it.

Flags, TOML files and Python all fill these frozen dataclasses, which check their values.
"""

from homespun.config.commands import DoctorConfig, ModelsConfig, VerifyConfig
from homespun.config.conversion import ExportConfig, ExportPrecision, FormatName, ImportConfig
from homespun.config.data import TOKENS_DIR, DownloadConfig, TokenizerConfig
from homespun.config.generation import (
    GenerateConfig,
    JudgeConfig,
    LoadConfig,
    ReaderName,
    SamplingConfig,
)
from homespun.config.model import LONGEST_CONTEXT, ModelConfig
from homespun.config.training import (
    EngineName,
    MachineConfig,
    OnSpike,
    Optimizer,
    OptimizerConfig,
    PlanConfig,
    Precision,
    RecordConfig,
    Schedule,
    ShapeConfig,
    StepConfig,
    TrainConfig,
)

__all__ = [
    "LONGEST_CONTEXT",
    "TOKENS_DIR",
    "DoctorConfig",
    "DownloadConfig",
    "EngineName",
    "ExportConfig",
    "ExportPrecision",
    "FormatName",
    "GenerateConfig",
    "ImportConfig",
    "JudgeConfig",
    "LoadConfig",
    "MachineConfig",
    "ModelConfig",
    "ModelsConfig",
    "OnSpike",
    "Optimizer",
    "OptimizerConfig",
    "PlanConfig",
    "Precision",
    "ReaderName",
    "RecordConfig",
    "SamplingConfig",
    "Schedule",
    "ShapeConfig",
    "StepConfig",
    "TokenizerConfig",
    "TrainConfig",
    "VerifyConfig",
]
