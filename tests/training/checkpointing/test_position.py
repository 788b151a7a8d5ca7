"""The position in a checkpoint keeps its format, independent of the field names in the code."""

import json

from homespun.engine.base import StepResult
from homespun.planning.resolved import ResolvedConfig
from homespun.training.checkpointing.position import Position

KEYS = {
    "": "step next_sample next_replayed tokens epoch training_seconds elapsed_seconds evaluated_at sampled_at "
    "prompts_done guard watch window experts",
    "guard": "best_val_loss evaluations_without_better refused refused_in_a_row recent spike_at",
    "watch": "settings counting first block_steps blocks now at_evaluation evaluations said_at",
    "window": "steps clipped seconds experts with_experts loss applied answers pairs",
    "experts": "steps sums advised_at",
}


def test_a_position_is_stored_under_the_names_of_the_format() -> None:
    stored = Position().stored()
    for part, names in KEYS.items():
        assert list(stored[part] if part else stored) == names.split()


def test_a_position_survives_json() -> None:
    position = Position(step=3, next_sample=24, tokens=96)
    for step in range(1, 15):
        result = StepResult(5.0 + 0.1 * step, 0.5, clipped=True, applied=True)
        position.watch.observe_step(step, result, 1.0, ResolvedConfig())
    position.watch.advised_at["plateau"] = 7
    position.watch.observe_evaluation(14, 5.5, ResolvedConfig())
    assert Position.restored(json.loads(json.dumps(position.stored()))) == position
