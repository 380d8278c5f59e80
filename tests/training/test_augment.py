from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="training needs torch (the extra `train`)")

from resnet_infer.training.augment import crop_and_flip, step_generator  # noqa: E402


def positions(count: int) -> "torch.Tensor":
    """Pictures (count, 8, 8, 2) whose pixels name their own row and column, from 1."""
    rows = torch.arange(1.0, 9).view(8, 1).expand(8, 8)
    return torch.stack([rows, rows.T], dim=-1).expand(count, 8, 8, 2).contiguous()


def test_crops_and_flips_are_uniform_and_independent() -> None:
    count = 20_000
    out = crop_and_flip(positions(count), 2, True, step_generator(0, 1, 0))
    assert out.shape == (count, 8, 8, 2)
    centre = out[:, 4, 4]  # never in the border
    top = centre[:, 0] - 5 + 2
    flipped = out[:, 4, 3, 1] > out[:, 4, 4, 1]
    column = torch.where(flipped, out[:, 4, 3, 1], centre[:, 1])
    left = column - 5 + 2
    for offset in range(5):
        assert (top == offset).float().mean().item() == pytest.approx(0.2, abs=0.015)
        assert (left == offset).float().mean().item() == pytest.approx(0.2, abs=0.015)
    assert flipped.float().mean().item() == pytest.approx(0.5, abs=0.015)
    assert abs(torch.corrcoef(torch.stack([top, left, flipped.float()])).triu(1)).max().item() < 0.03


def test_every_result_is_a_window_of_the_zero_padded_picture() -> None:
    pictures = torch.randn(64, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    out = crop_and_flip(pictures, 3, True, step_generator(0, 1, 5))
    padded = torch.nn.functional.pad(pictures, (0, 0, 3, 3, 3, 3))
    for picture, result in zip(padded, out, strict=True):
        windows = [picture[y : y + 8, x : x + 8] for y in range(7) for x in range(7)]
        assert sum(torch.equal(result, w) or torch.equal(result, w.flip(1)) for w in windows) >= 1


def test_a_step_draws_the_same_again_and_another_step_something_else() -> None:
    pictures = positions(32)
    first, again, other = (crop_and_flip(pictures, 2, True, step_generator(0, 1, step)) for step in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_no_padding_and_no_flip_changes_nothing() -> None:
    pictures = positions(4)
    assert torch.equal(crop_and_flip(pictures, 0, False, step_generator(0, 1, 0)), pictures)
