"""Histograms, the ranges made of them, and the calibration as a whole."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

onnx = pytest.importorskip("onnx", reason="INT8 needs onnx (the extra `export`)")
pytest.importorskip("onnxruntime", reason="INT8 needs onnxruntime (the extra `cpu`)")

from onnx import helper, numpy_helper  # noqa: E402

from resnet_infer.converters.precision.calibration import Calibration, calibrate  # noqa: E402
from resnet_infer.converters.precision.histogram import SIDE, Histogram  # noqa: E402
from resnet_infer.converters.precision.ranges import PERCENTILE, Grid, Method, find_range, grid_parameters  # noqa: E402
from resnet_infer.data.synthetic import natural_noise  # noqa: E402
from resnet_infer.errors import DataError, ModelError, UsageError  # noqa: E402

METHODS, GRIDS = get_args(Method), get_args(Grid)
PICTURES = [(f"picture {index}", crop) for index, crop in enumerate(natural_noise(7, 32, 32))]
VALUES = arrays(
    np.float32,
    st.integers(1, 60),
    elements=st.one_of(
        st.floats(-8, 8, width=32), st.floats(width=32, allow_nan=False, allow_infinity=False), st.just(0.0)
    ),
)


def histogram(*parts: NDArray[Any]) -> Histogram:
    result = Histogram()
    for part in parts:
        assert result.add(part)
    return result


@settings(deadline=None, max_examples=60)
@given(VALUES, st.data())
def test_a_histogram_is_the_same_in_any_order_and_division(values: NDArray[np.float32], data: st.DataObject) -> None:
    whole = histogram(values)
    shuffled = np.array(data.draw(st.permutations(list(values))), np.float32)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=5)))
    divided = histogram(*np.split(shuffled, cuts))
    assert np.array_equal(divided.counts, whole.counts)
    assert [divided.width, divided.zeros, divided.low] == [whole.width, whole.zeros, whole.low]
    # And it is what the definition says, for all but the zeros.
    filled = values[values != 0].astype(np.float64)
    places = np.floor(np.abs(filled) / whole.width).astype(int)
    bins = np.where(filled < 0, SIDE - 1 - places, SIDE + places)
    assert np.array_equal(whole.counts, np.bincount(bins, minlength=2 * SIDE))
    assert (whole.zeros, whole.total) == (len(values) - len(filled), len(values))
    assert (whole.low, whole.high) == (min(0, values.min()), max(0, values.max()))
    if np.abs(values).max() > 1e-20:
        assert whole.width * SIDE / 2 <= np.abs(values).max()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_counted(value: float) -> None:
    values = histogram(np.ones(3, np.float32))
    assert not values.add(np.array([2, value], np.float32))
    assert values.total == 3


def squared_error(values: NDArray[Any], limits: tuple[float, float], grid: Grid) -> float:
    """Of all values, quantised one by one as the ONNX operators do it."""
    scale, zero = grid_parameters(limits, grid)
    lowest, highest = (-128, 127) if grid == "symmetric" else (0, 255)
    integers = np.clip(np.rint(values / scale) + zero, lowest, highest)
    return float(np.square((integers - zero) * np.float64(scale) - values).sum())


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(0, 6), st.booleans(), st.sampled_from(GRIDS))
def test_what_the_methods_cover(seed: int, tail: float, relu: bool, grid: Grid) -> None:
    random = np.random.default_rng(seed)
    values = random.normal(random.normal(), 1, 20_000) * np.exp(tail * np.abs(random.normal(0, 0.3, 20_000)))
    values = np.float32(10.0) ** random.integers(-8, 8) * (np.maximum(values, 0) if relu else values).astype(np.float32)
    found = {method: find_range(histogram(values), grid, method) for method in METHODS}
    least, most = min(0.0, float(values.min())), max(0.0, float(values.max()))
    for low, high in found.values():
        assert low <= 0 <= high
        if grid == "symmetric":
            assert low == -high
            least, most = -max(-least, most), max(-least, most)
        assert least <= low
        assert high <= most
        scale, zero = grid_parameters((low, high), grid)
        assert 0 <= zero <= 255
        # All that is inside is told apart as finely as the grid can.
        inside = values[(values >= low) & (values <= high)]
        assert squared_error(inside, (low, high), grid) <= len(inside) * float(scale) ** 2
    assert found["minmax"] == (least, most)
    errors = {method: squared_error(values, limits, grid) for method, limits in found.items()}
    assert errors["mse"] <= 1.02 * min(errors.values())
    clipped = np.mean((values < found["percentile"][0]) | (values > found["percentile"][1]))
    assert clipped <= 1 - PERCENTILE / 100


@pytest.mark.parametrize("tail", [(-1, 30), (-30, 1), (-12, 25)])
def test_least_squares_clips_each_end_as_it_needs(tail: tuple[float, float]) -> None:
    """No other range is much better, whichever end has the outliers."""
    values = np.random.default_rng(0).normal(size=20_000).astype(np.float32)
    values[:20] *= np.linspace(1, max(np.abs(tail)), 20)
    values = np.clip(values, *tail)
    low, high = find_range(histogram(values), "unsigned", "mse")
    parts = np.linspace(0.05, 1, 20)
    others = [squared_error(values, (values.min() * a, values.max() * b), "unsigned") for a in parts for b in parts]
    assert squared_error(values, (low, high), "unsigned") <= 1.05 * min(others)


def test_outliers_are_clipped_by_all_but_minmax() -> None:
    values = np.random.default_rng(0).normal(size=400_000).astype(np.float32)
    values[:2] = 300, -300
    widths = {method: find_range(histogram(values), "symmetric", method)[1] for method in METHODS}
    assert widths["minmax"] == 300
    assert widths["mse"] < 200  # two outliers weigh as much as all the others
    assert max(widths["entropy"], widths["percentile"]) < 30


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("values", [[0, 0], [1e-35, 0], [-1e-38, 1e-38], [3e38, -3e38], [5], [-5]])
def test_strange_tensors_have_ranges(values: list[float], method: Method, grid: Grid) -> None:
    numbers = np.array(values, np.float32)
    low, high = find_range(histogram(numbers), grid, method)
    assert -np.inf < low <= 0 <= high < np.inf
    scale, _ = grid_parameters((low, high), grid)
    assert np.isfinite(scale)
    assert scale > 0
    if method == "minmax":
        assert np.sqrt(squared_error(numbers, (low, high), grid)) <= 0.01 * np.abs(numbers).max() + 1e-20


@pytest.fixture(scope="module")
def net() -> Any:
    """A graph of the shape that ours have, with one convolution."""
    random = np.random.default_rng(0)
    weights = {"w": random.normal(size=(8, 3, 3, 3)) / 50, "b": random.normal(size=8), "f": random.normal(size=(5, 8))}
    steps: list[tuple[str, list[str], dict[str, Any]]] = [
        ("Cast", ["images"], {"to": 1}),
        ("Transpose", ["x0"], {"perm": [0, 3, 1, 2]}),
        ("Conv", ["x1", "w", "b"], {"strides": [2, 2]}),
        ("Relu", ["x2"], {}),
        ("GlobalAveragePool", ["x3"], {}),
        ("Flatten", ["x4"], {}),
        ("Gemm", ["x5", "f"], {"transB": 1}),
    ]
    nodes = [helper.make_node(kind, inputs, [f"x{i}"], **more) for i, (kind, inputs, more) in enumerate(steps)]
    images = helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["N", 32, 32, 3])
    logits = helper.make_tensor_value_info("x6", onnx.TensorProto.FLOAT, ["N", 5])
    constants = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "net", [images], [logits], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def calibration(net: Any) -> Calibration:
    return calibrate(net, PICTURES)


def numbers(calibration: Calibration) -> NDArray[Any]:
    ranges = [calibration.range(t, g, m) for t in calibration.ranges for g in GRIDS for m in METHODS]
    return np.concatenate([np.ravel(ranges), *map(np.array, calibration.means.values())])


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_the_size_of_batches_does_not_matter(net: Any, calibration: Calibration, batch_size: int) -> None:
    done: list[int] = []
    other = calibrate(net, iter(PICTURES), batch_size=batch_size, advance=done.append)
    assert sum(done) == len(PICTURES)
    assert max(done) == batch_size
    # A picture's activations may differ in the last bit, and a method then choose the next of its candidates.
    assert np.allclose(numbers(other), numbers(calibration), rtol=0.05, atol=1e-5)
    exact, same = ([c.range(name, "unsigned", "minmax") for name in c.ranges] for c in (other, calibration))
    assert np.allclose(exact, same, rtol=1e-4, atol=1e-5)


def test_pictures_are_not_kept(net: Any) -> None:
    alive: list[weakref.ref[Any]] = []
    most = 0

    def feed() -> Iterator[tuple[str, Any]]:
        nonlocal most
        for index in range(40):
            picture = natural_noise(1, 32, 32, seed=index)[0].copy()
            alive.append(weakref.ref(picture))
            most = max(most, sum(reference() is not None for reference in alive))
            yield str(index), picture

    assert len(calibrate(net, feed(), batch_size=4).pictures) == 40
    assert 4 <= most <= 6


def test_the_first_picture_decides_the_batch(net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    monkeypatch.setattr("resnet_infer.converters.precision.calibration.MEMORY", 1 << 17)
    calibrate(net, PICTURES, advance=done.append)
    assert done[0] == 1
    assert 1 < max(done) < len(PICTURES) - 1


def test_the_hash_is_of_names_pixels_and_order(net: Any, calibration: Calibration) -> None:
    def sha256(pictures: list[tuple[str, Any]]) -> str:
        return calibrate(net, pictures).sha256

    renamed = [("other", PICTURES[0][1]), *PICTURES[1:]]
    changed = [(name, pixels.copy()) for name, pixels in PICTURES]
    changed[3][1][5, 5, 1] ^= 1
    found = {calibration.sha256, *map(sha256, (renamed, changed, PICTURES[::-1], PICTURES[:-1]))}
    assert len(found) == 5
    assert sha256(PICTURES) == calibration.sha256
    assert calibration.pictures == tuple(name for name, _ in PICTURES)


def test_it_survives_a_file(calibration: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "new" / "calibration.json"
    calibration.save(path)
    assert Calibration.load(path) == calibration


def test_files_that_are_none(calibration: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    with pytest.raises(ModelError, match=r"calibration\.json cannot be read: No such file"):
        Calibration.load(path)
    calibration.save(path)
    whole = path.read_text(encoding="utf-8")
    value = json.loads(whole)
    tensor = next(iter(value["ranges"]))
    broken: list[tuple[str, str]] = [
        (whole[: len(whole) // 2], "no calibration, or damaged"),
        ("", "no calibration, or damaged"),
        ("[1]", "no calibration, or damaged"),
        (json.dumps({**value, "format": 99}), "is of format 99 of the calibration; this resnet-infer reads up to 1"),
        *((json.dumps({k: v for k, v in value.items() if k != key}), "damaged") for key in value),
    ]
    for limits in ([1, 2], [-1], ["a", "b"], [None, 1], [-1, float("nan")], [float("-inf"), 1]):
        grids = {grid: dict.fromkeys(METHODS, limits) for grid in GRIDS}
        broken.append((json.dumps({**value, "ranges": {tensor: grids}}), "damaged"))
    for text, message in broken:
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ModelError, match=message):
            Calibration.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelError, match="damaged"):
        Calibration.load(path)


def test_scaling_changes_what_was_asked_for(calibration: Calibration) -> None:
    first, second, *_ = calibration.ranges
    low, high = calibration.range(first, "unsigned", "mse")
    everything, one = calibration.scaled(0.1), calibration.scaled(0.1, [first])
    assert everything.range(first, "unsigned", "mse") == one.range(first, "unsigned", "mse") == (0.1 * low, 0.1 * high)
    assert everything.ranges[second] != calibration.ranges[second] == one.ranges[second]
    with pytest.raises(UsageError, match="no range of 'nowhere' was measured"):
        calibration.scaled(2, ["nowhere"])


def test_without_pictures_there_is_no_calibration(net: Any) -> None:
    with pytest.raises(DataError, match="INT8 needs pictures to measure ranges on"):
        calibrate(net, [])


@pytest.mark.parametrize("shape", [(32, 32), (32, 32, 4), (1, 32, 32, 3)])
def test_pictures_of_another_kind(net: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="odd: a picture is uint8"):
        calibrate(net, [("odd", np.zeros(shape, np.uint8))])
    with pytest.raises(UsageError, match="odd: a picture is uint8"):
        calibrate(net, [("odd", np.zeros((32, 32, 3), np.float32))])
    with pytest.raises(ModelError, match="does not run on pictures of"):
        calibrate(net, [("odd", np.zeros((16, 16, 3), np.uint8))])


def test_a_net_of_nonsense_has_no_ranges(net: Any) -> None:
    broken = onnx.ModelProto.FromString(net.SerializeToString())
    weight = next(tensor for tensor in broken.graph.initializer if tensor.name == "w")
    value = numpy_helper.to_array(weight).copy()
    value[0, 0, 0, 0] = np.inf
    weight.CopyFrom(numpy_helper.from_array(value, weight.name))
    with pytest.raises(ModelError, match="x3 is not finite"):
        calibrate(broken, PICTURES)


def test_another_net_is_refused(net: Any, calibration: Calibration) -> None:
    calibration.require(onnx.ModelProto.FromString(net.SerializeToString()))
    other = onnx.ModelProto.FromString(net.SerializeToString())
    weight = other.graph.initializer[-1]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + 1, weight.name))
    with pytest.raises(ModelError, match="measured on another net"):
        calibration.require(other)
