import math

import pytest
import torch
from torch.nn import functional as F

from sealr.retrieve import loss
from sealr.retrieve.loss import binary_loss, sampled_loss, softmax_loss


def test_value_and_gradients_equal_cross_entropy(monkeypatch):
    monkeypatch.setitem(loss.BLOCK_ELEMENTS, "cpu", 16 * 30)  # several blocks, the last one short
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(53, 6, generator=generator) * 3, torch.randn(30, 6, generator=generator) * 3
    targets = torch.randint(0, 30, (53,), generator=generator)
    h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    expected = F.cross_entropy(h @ w.T, targets)
    (2 * expected).backward()
    hidden.requires_grad_()
    weight.requires_grad_()
    value = softmax_loss(hidden, weight, targets)
    (2 * value).backward()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(hidden.grad, h.grad)
    torch.testing.assert_close(weight.grad, w.grad)


def test_large_logits_stay_finite():
    hidden = torch.full((2, 1), 1000.0, requires_grad=True)
    value = softmax_loss(hidden, torch.tensor([[1.0], [2.0]], requires_grad=True), torch.tensor([1, 0]))
    assert value.item() == 500.0


@pytest.fixture
def given() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(20, 6, generator=generator),
        torch.randn(30, 6, generator=generator),
        torch.randint(30, (20,), generator=generator),
    )


def test_sampled_loss_comes_close_to_softmax_with_many_items(given):
    torch.manual_seed(0)
    hidden, weight, targets = given
    rows, exact = weight.__getitem__, softmax_loss(*given)
    found = sampled_loss(hidden, rows, 30, targets, negatives=200_000)
    assert found.item() == pytest.approx(exact.item(), rel=0.01)
    few = torch.stack([sampled_loss(hidden, rows, 30, targets, negatives=5) for _ in range(200)])
    assert few.std() > 0.05 and few.mean().item() == pytest.approx(exact.item(), rel=0.2)


def test_sampled_loss_by_hand(given):
    hidden, weight, targets = given
    torch.manual_seed(1)
    drawn = torch.randint(30, (40,))
    torch.manual_seed(1)
    found = sampled_loss(hidden, weight.__getitem__, 30, targets, 40)
    each = []
    for h, target in zip(hidden, targets, strict=True):
        others = sum(math.exp(h @ weight[i]) for i in drawn if i != target) * 29 / 40
        wanted = math.exp(h @ weight[target])
        each.append(-math.log(wanted / (wanted + others)))
    assert any(i == target for i in drawn for target in targets)  # a target among the drawn is not its own negative
    assert found.item() == pytest.approx(sum(each) / 20, rel=1e-5)


def test_binary_loss_by_hand(given):
    hidden, weight, targets = given
    torch.manual_seed(2)
    drawn = torch.randint(30, (20, 7))
    torch.manual_seed(2)
    found = binary_loss(hidden, weight.__getitem__, 30, targets, 7)
    total = 0.0
    for h, target, negatives in zip(hidden, targets, drawn, strict=True):
        total -= math.log(1 / (1 + math.exp(-(h @ weight[target]))))
        total -= sum(math.log(1 - 1 / (1 + math.exp(-(h @ weight[i])))) for i in negatives if i != target)
    assert (drawn == targets[:, None]).any()
    assert found.item() == pytest.approx(total / 20, rel=1e-5)
