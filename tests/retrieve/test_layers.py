"""Layers on packed positions equal their textbook form on padded rows."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sealr.retrieve.models.base import Packed
from sealr.retrieve.models.bsarec import FrequencyFilter
from sealr.retrieve.models.caser import WINDOW, Caser, windows
from sealr.retrieve.models.gru4rec import GRU4Rec
from sealr.retrieve.models.layers import Attention
from sealr.settings import RetrieveConfig

ROWS = torch.tensor([[3, 4, 5, 6], [7, 0, 0, 0], [0, 0, 0, 0], [0, 8, 0, 9], [1, 2, 3, 0], [5, 1, 2, 0]])
LENGTHS = [4, 1, 0, 2, 3, 3]


@pytest.fixture
def packed() -> Packed:
    return Packed(ROWS)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(13, 8, generator=torch.Generator().manual_seed(0))


def by_row(packed: Packed, x: torch.Tensor) -> dict[int, torch.Tensor]:
    """Row of the batch -> its (length, D)."""
    return {row: x[packed.row == row] for row in packed.nonempty.tolist()}


def test_packed(packed):
    assert packed.items.tolist() == [7, 8, 9, 1, 2, 3, 5, 1, 2, 3, 4, 5, 6]
    assert packed.row.tolist() == [1, 3, 3, 4, 4, 4, 5, 5, 5, 0, 0, 0, 0]
    assert packed.position_ids.tolist() == [0, 0, 1, 0, 1, 2, 0, 1, 2, 0, 1, 2, 3]
    assert packed.nonempty.tolist() == [1, 3, 4, 5, 0] and packed.lengths.tolist() == [1, 2, 3, 3, 4]
    assert packed.items[packed.last].tolist() == [7, 9, 3, 2, 6]
    assert packed.groups == [(1, 1), (1, 2), (2, 3), (1, 4)]
    assert [len(part) for part in packed.split(packed.items)] == [1, 2, 6, 4]


@pytest.mark.parametrize("causal", [True, False])
def test_attention_equals_torch(packed, x, causal):
    torch.manual_seed(0)
    attention = Attention(8, 2, 0.5, causal).eval()
    found = by_row(packed, attention(x, packed))
    for row, inside in by_row(packed, x).items():
        q, k, v = (
            t.view(-1, 2, 4).transpose(0, 1) for t in attention.qkv(inside).split(8, dim=1)
        )  # (heads, length, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(0, 1).reshape(-1, 8)
        torch.testing.assert_close(found[row], attention.out(mixed))


def test_gru_equals_one_row_at_a_time(packed, x):
    torch.manual_seed(0)
    model = GRU4Rec(9, RetrieveConfig(model="gru4rec", hidden=8, layers=2, dropout=0.5)).eval()
    nn.init.normal_(model.out.weight)
    found = by_row(packed, model.encode(x, packed))
    for row, inside in by_row(packed, x).items():
        torch.testing.assert_close(found[row], model.out(model.gru(inside[:, None])[0][:, 0]))


def test_windows_of_caser(packed, x):
    found = by_row(packed, windows(x, packed, 3))
    for row, inside in by_row(packed, x).items():
        before = torch.cat([torch.zeros(2, 8), inside])
        torch.testing.assert_close(found[row], torch.stack([before[i : i + 3] for i in range(len(inside))]))


def test_caser_equals_its_equations(packed, x):
    torch.manual_seed(0)
    model = Caser(9, RetrieveConfig(model="caser", hidden=8)).eval()
    for p in model.parameters():
        nn.init.normal_(p)
    image = windows(x, packed, WINDOW)[5]  # (5, 8)
    across = []
    for height, filters in enumerate(model.horizontal, start=1):
        weight = filters.weight.transpose(1, 2)  # (filters, height, 8)
        slides = [
            F.relu((image[i : i + height] * weight).sum((1, 2)) + filters.bias) for i in range(WINDOW - height + 1)
        ]  # equation 3
        across.append(torch.stack(slides).amax(0))  # equation 5
    down = [sum(column[i] * image[i] for i in range(WINDOW)) for column in model.vertical.weight]  # equation 6
    together = torch.cat([*across, torch.stack(down, 1).flatten()])
    torch.testing.assert_close(
        model.encode(x, packed)[5], model.out(F.relu(model.join(together))), rtol=1e-4, atol=1e-4
    )


def low_pass(x, cutoff):
    """(B, L, D) with the lowest frequencies of a Fourier transform over L."""
    spectrum = torch.fft.rfft(x, dim=1, norm="ortho")
    spectrum[:, cutoff // 2 + 1 :] = 0
    return torch.fft.irfft(spectrum, n=x.shape[1], dim=1, norm="ortho")


@pytest.mark.parametrize(("length", "cutoff"), [(12, 1), (12, 3), (12, 5), (4, 5), (8, 9), (6, 9), (5, 9)])
def test_frequency_filter_equals_a_fourier_transform_on_the_newest_item(length, cutoff):
    torch.manual_seed(0)
    layer, x = FrequencyFilter(4, length, cutoff), torch.randn(2, length, 4)
    low = low_pass(x, cutoff)
    found = layer(x.view(2 * length, 4), Packed(torch.ones(2, length, dtype=torch.int64))).view(2, length, 4)
    torch.testing.assert_close(found[:, -1], (low + layer.root**2 * (x - low))[:, -1])


def test_frequency_filter_of_a_short_row_takes_padding_as_zeros():
    torch.manual_seed(0)
    layer, x = FrequencyFilter(4, 12, 5), torch.randn(1, 12, 4)
    x[:, :7] = 0
    low = low_pass(x, 5)
    short = layer(x[0, 7:], Packed(torch.ones(1, 5, dtype=torch.int64)))
    torch.testing.assert_close(short[-1], (low + layer.root**2 * (x - low))[0, -1])


def test_frequency_filter_does_not_see_the_future(packed, x):
    torch.manual_seed(0)
    layer, changed = FrequencyFilter(8, 6, 3), x.clone()
    changed[packed.last] += 1
    kept = torch.ones(len(x), dtype=torch.bool)
    kept[packed.last] = False
    torch.testing.assert_close(layer(changed, packed)[kept], layer(x, packed)[kept])
    assert not torch.allclose(layer(changed, packed)[~kept], layer(x, packed)[~kept])
