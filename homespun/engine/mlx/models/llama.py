"""Llama (Touvron et al., 2023): the block of Qwen3 without norms on queries and keys."""

from homespun.engine.mlx.models import qwen3


class Model(qwen3.Model):
    has_qk_norm = False
