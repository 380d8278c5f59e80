"""Batches on a device, here in the CPU's memory: few shapes, right answers, also for several threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `cpu` or `gpu`")

from resnet_infer import zoo  # noqa: E402
from resnet_infer.errors import UsageError  # noqa: E402
from resnet_infer.runtimes import ort_session  # noqa: E402
from resnet_infer.runtimes.nvidia import bound as module  # noqa: E402
from resnet_infer.runtimes.nvidia.bound import BUFFERS, BoundSession  # noqa: E402
from resnet_infer.runtimes.nvidia.sizes import SIZES, padded, warm_up_sizes  # noqa: E402

ARTIFACT = str(zoo.built_in(zoo.SMALL, ".onnx"))
Photos = Callable[..., NDArray[np.uint8]]


@pytest.fixture(scope="module")
def session() -> Any:
    return ort_session.open_session(ARTIFACT, ort_session.session_options(threads=1))


@pytest.fixture
def make(session: Any) -> Callable[..., BoundSession]:
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    return lambda **options: BoundSession(session, (images.name, logits.name), 10, ("cpu", 0), **options)


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes for which buffers are made."""
    found: list[tuple[int, ...]] = []
    plain = ort_session.device_value

    def value(shape: Any, dtype: Any, device: Any) -> Any:
        if dtype is np.uint8:
            found.append(tuple(shape))
        return plain(shape, dtype, device)

    monkeypatch.setattr(ort_session, "device_value", value)
    return found


def answers(session: Any, images: NDArray[np.uint8]) -> Any:
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def test_three_hundred_batches_of_up_to_32_have_six_shapes(
    session: Any, make: Callable[..., BoundSession], shapes: list[Any], photos: Photos
) -> None:
    bound, images = make(), photos(32, 32, seed=1)
    expected = answers(session, images)
    first = bound(images[:3])
    kept = first.copy()
    for count in np.random.default_rng(0).integers(1, 33, 300):
        np.testing.assert_allclose(bound(images[:count]), expected[:count], rtol=0, atol=1e-4)
    assert sorted(count for count, *_ in shapes) == list(SIZES)
    assert np.array_equal(first, kept)  # an answer given out is not overwritten by the next


def test_threads_get_their_own_answers(session: Any, make: Callable[..., BoundSession], photos: Photos) -> None:
    """Two threads with batches of one shape share its buffers."""
    bound = make()
    images = photos(8, 32, seed=2)
    expected = answers(session, images)

    def ask(number: int) -> int:
        row = number % len(images)
        found = bound(images[row : row + 1])
        return int(not np.allclose(found, expected[row : row + 1], rtol=0, atol=1e-4))

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(ask, range(2000))) == 0


def test_large_batches_are_split_at_the_largest(
    session: Any, make: Callable[..., BoundSession], shapes: list[Any], photos: Photos
) -> None:
    bound, images = make(largest=4), photos(11, 32, seed=3)
    np.testing.assert_allclose(bound(images), answers(session, images), rtol=0, atol=1e-4)
    assert {count for count, *_ in shapes} == {4}
    bound.upload(images)


def test_a_graph_of_one_batch_size_is_not_padded(
    make: Callable[..., BoundSession], shapes: list[Any], photos: Photos
) -> None:
    make(batch=3)(photos(3, 32))
    assert [count for count, *_ in shapes] == [3]


def test_buffers_are_few(make: Callable[..., BoundSession], photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "padded", lambda count, largest: count)
    bound = make()
    for count in range(1, BUFFERS + 4):
        bound(photos(count, 32))
    assert len(bound._buffers) == BUFFERS


def test_closed_is_closed(make: Callable[..., BoundSession], photos: Photos) -> None:
    bound = make()
    bound(photos(1, 32))
    bound.close()
    with pytest.raises(UsageError, match="was closed"):
        bound(photos(1, 32))


def test_sizes_hold_their_batches_and_all_are_warmed_up() -> None:
    for largest in (1, 3, 8, 32, 33, 100):
        sizes = warm_up_sizes(largest)
        for count in range(1, largest + 1):
            assert count <= padded(count, largest) <= largest
            assert padded(count, largest) in sizes
            assert padded(count) < 2 * count or count == 1
    assert warm_up_sizes(32) == SIZES
