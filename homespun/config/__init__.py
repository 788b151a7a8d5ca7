"""Every setting once: type, default, bounds, help text, and whether a resumed run may change it.

Flags, TOML files and Python all fill these frozen dataclasses, which check their values.
"""

from homespun.config.commands import (
    BenchConfig,
    DoctorConfig,
    ModelsConfig,
    ReportConfig,
    ServeConfig,
    StudioConfig,
    VerifyConfig,
)
from homespun.config.conversion import ExportConfig, ExportPrecision, FormatName, ImportConfig
from homespun.config.data import TOKENS_DIR, DownloadConfig, PrepareConfig, TokenizerConfig
from homespun.config.evaluation import (
    BUILT_IN_PAIRS,
    BUILT_IN_QUESTIONS,
    MAX_DEFAULT_CONTEXT,
    EvalConfig,
)
from homespun.config.generation import (
    STANDARD_INPUT,
    ChatConfig,
    GenerateConfig,
    JudgeConfig,
    LoadConfig,
    ReaderConfig,
    ReaderName,
    ReaderPrecision,
    SamplingConfig,
)
from homespun.config.machine import EngineName, MachineConfig, Precision
from homespun.config.model import LONGEST_CONTEXT, ModelConfig
from homespun.config.optimizer import OnSpike, Optimizer, OptimizerConfig, Schedule, StepConfig
from homespun.config.recording import RecordConfig
from homespun.config.reinforcement import BUILT_IN_REWARDS, QUESTIONS
from homespun.config.shape import ShapeConfig
from homespun.config.training import PlanConfig, ReinforceConfig, TrainConfig
from homespun.config.tuning import TuneConfig

__all__ = [
    "BUILT_IN_PAIRS",
    "BUILT_IN_QUESTIONS",
    "BUILT_IN_REWARDS",
    "LONGEST_CONTEXT",
    "MAX_DEFAULT_CONTEXT",
    "QUESTIONS",
    "STANDARD_INPUT",
    "TOKENS_DIR",
    "BenchConfig",
    "ChatConfig",
    "DoctorConfig",
    "DownloadConfig",
    "EngineName",
    "EvalConfig",
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
    "PrepareConfig",
    "ReaderConfig",
    "ReaderName",
    "ReaderPrecision",
    "RecordConfig",
    "ReinforceConfig",
    "ReportConfig",
    "SamplingConfig",
    "Schedule",
    "ServeConfig",
    "ShapeConfig",
    "StepConfig",
    "StudioConfig",
    "TokenizerConfig",
    "TrainConfig",
    "TuneConfig",
    "VerifyConfig",
]
