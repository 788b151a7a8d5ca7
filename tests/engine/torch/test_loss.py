"""The backward pass of the head's loss multiplies its stored gradients by the incoming gradient."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from homespun.engine.torch import loss as loss_module
from homespun.engine.torch.loss import head_loss, loss_to_slope

Loss = Callable[[Tensor, Tensor], Tensor]


@pytest.fixture(autouse=True)
def _short_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "HEAD_ROWS", 7)


def inputs(*, hidden: bool = True, head: bool = True) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(20, 8, generator=generator).requires_grad_(hidden),
        torch.randn(30, 8, generator=generator).requires_grad_(head),
    )


def mean_loss(hidden: Tensor, head: Tensor) -> Tensor:
    targets = torch.arange(len(hidden))
    return head_loss(hidden, head, targets, torch.tensor(1 / len(hidden)), loss_to_slope)


def gradients(function: Loss) -> tuple[Tensor, ...]:
    given = inputs()
    return torch.autograd.grad(function(*given), given)


def test_a_multiple_of_the_loss_has_a_multiple_of_the_gradients() -> None:
    for once, thrice in zip(
        gradients(mean_loss), gradients(lambda *given: 3 * mean_loss(*given)), strict=True
    ):
        torch.testing.assert_close(thrice, 3 * once)


def test_a_loss_that_is_used_twice_counts_twice() -> None:
    def twice(hidden: Tensor, head: Tensor) -> Tensor:
        loss = mean_loss(hidden, head)
        return loss + loss.square()

    loss = mean_loss(*inputs()).item()
    for once, both in zip(gradients(mean_loss), gradients(twice), strict=True):
        torch.testing.assert_close(both, (1 + 2 * loss) * once)


def test_the_gradients_are_those_of_cross_entropy() -> None:
    def expected(hidden: Tensor, head: Tensor) -> Tensor:
        targets = torch.arange(len(hidden))
        return 5 * torch.nn.functional.cross_entropy(hidden @ head.T, targets)

    for ours, theirs in zip(
        gradients(lambda *given: 5 * mean_loss(*given)), gradients(expected), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kept", [0, 1], ids=["hidden", "head"])
def test_an_input_without_a_gradient_changes_nothing_for_the_other(kept: int) -> None:
    given = inputs(hidden=kept == 0, head=kept == 1)
    [gradient] = torch.autograd.grad(mean_loss(*given), [given[kept]])
    assert torch.equal(gradient, gradients(mean_loss)[kept])


def test_a_kept_graph_is_never_differentiated_wrongly() -> None:
    """The stored gradients are multiplied in place, so a second backward pass over the same graph must fail."""
    given = inputs()
    loss = 3 * mean_loss(*given)
    torch.autograd.grad(loss, given, retain_graph=True)
    with pytest.raises(RuntimeError, match="inplace"):
        torch.autograd.grad(loss, given)
