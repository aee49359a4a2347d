import torch
from torch.nn import functional as F

from sealr.retrieve import loss
from sealr.retrieve.loss import softmax_loss


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
