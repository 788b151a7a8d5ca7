"""Llama: the model of Qwen3 without norms on queries and keys."""

from homespun.engine.numpy.models import qwen3
from homespun.engine.numpy.models.qwen3 import FUSED as FUSED


class Model(qwen3.Model):
    """The forward pass of a Llama without its head; see `models.Model`."""

    has_qk_norm = False
