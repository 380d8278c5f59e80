"""A row that the table of architectures does not have, with groups, in every module that handles networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="the networks are made by torch (the extra `train`)")
onnx = pytest.importorskip("onnx", reason="graphs need onnx (the extra `export`)")
pytest.importorskip("onnxruntime", reason="graphs are run by onnxruntime (the extra `cpu`)")

from PIL import Image  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402

from resnet_infer.converters.importers.input_options import InputOptions  # noqa: E402
from resnet_infer.converters.importers.labels import Labels  # noqa: E402
from resnet_infer.converters.importers.weights import import_weights  # noqa: E402
from resnet_infer.converters.precision.calibration import calibrate  # noqa: E402
from resnet_infer.converters.precision.fp16 import to_fp16  # noqa: E402
from resnet_infer.converters.precision.fp16_graph import emulate  # noqa: E402
from resnet_infer.converters.precision.int8 import quantize  # noqa: E402
from resnet_infer.converters.precision.placement import Target  # noqa: E402
from resnet_infer.converters.source import export_onnx  # noqa: E402
from resnet_infer.converters.tensorrt.engine_graph import read_graph  # noqa: E402
from resnet_infer.data.synthetic import natural_noise  # noqa: E402
from resnet_infer.errors import ModelError, UsageError  # noqa: E402
from resnet_infer.models.architectures import architecture  # noqa: E402
from resnet_infer.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint  # noqa: E402
from resnet_infer.models.families import Family  # noqa: E402
from resnet_infer.models.graph import build_graph  # noqa: E402
from resnet_infer.models.network import ResNet  # noqa: E402
from resnet_infer.models.weights.state_dict import guess_architecture, match_state_dict  # noqa: E402
from resnet_infer.runtimes.activation_map import ActivationMaps  # noqa: E402
from resnet_infer.runtimes.onnxruntime import OnnxRuntime  # noqa: E402
from resnet_infer.verification.layers import compare_layers, literal_graph  # noqa: E402
from resnet_infer.verification.parity import open_reference  # noqa: E402
from tests.conftest import Outcome  # noqa: E402
from tests.families import RESNEXT50, SMALL, WIDE_RESNET50, add_rows  # noqa: E402

Make = Callable[..., Checkpoint]
Photos = Callable[..., NDArray[np.uint8]]
Cli = Callable[..., Outcome]


@pytest.fixture(scope="module", autouse=True)
def more_rows() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        add_rows(patch, RESNEXT50, WIDE_RESNET50, SMALL)
        yield


@pytest.fixture(scope="module")
def checkpoint(more_rows: None, make_checkpoint: Make) -> Checkpoint:
    return make_checkpoint(SMALL.name)


def answers(model: Any, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    with OnnxRuntime(model.SerializeToString(), device="cpu") as runtime:
        return runtime(images)


def error(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest difference of the logits, in units of their deviation over the pictures."""
    return float(np.abs(found - expected).max() / np.std(expected - expected.mean(axis=0)))


@pytest.mark.parametrize(
    ("row", "size", "options"),
    [
        *((SMALL, 32, {"shortcut": option}) for option in ("A", "B", "C")),
        (SMALL, 32, {"stride_in": "1x1"}),
        (RESNEXT50, 64, {}),
        pytest.param(WIDE_RESNET50, 64, {}, marks=pytest.mark.slow),
    ],
    ids=lambda value: value.name if isinstance(value, Family) else None,
)
def test_module_graph_and_float64_agree(
    row: Family, size: int, options: dict[str, str], make_checkpoint: Make, photos: Photos, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(row.name, size=size, **options)
    arch = checkpoint.spec.architecture
    assert arch is not None
    state = ResNet(arch).state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items() if not name.endswith("num_batches_tracked")}
    assert shapes == arch.plan().shapes()
    parity = export_onnx(checkpoint, tmp_path / "model.onnx", images=photos(4, size, seed=1))
    assert parity.measured.reference == "the torch module in float64"
    assert parity.measured.relative_delta <= 1e-4
    with pytest.MonkeyPatch.context() as patch:  # by numpy, from the graph in which batch norm is not folded
        patch.setattr("resnet_infer.verification.parity.find_spec", lambda module: None)
        unfused = export_onnx(checkpoint, tmp_path / "again.onnx", images=photos(4, size, seed=1))
    assert unfused.measured.reference == "the unfused graph in float64"
    assert unfused.measured.relative_delta <= 1e-4


def test_an_untrained_convolution_is_nearly_the_identity_in_every_group(checkpoint: Checkpoint) -> None:
    weight = checkpoint.weights["layer1.1.conv2.weight"]
    assert weight.shape == (16, 4, 3, 3)
    identity = np.zeros_like(weight)
    identity[np.arange(16), np.arange(16) % 4, 1, 1] = 1
    assert np.abs(weight - identity).max() < 0.5


def test_weights_tell_the_row(checkpoint: Checkpoint) -> None:
    """And those of a row with other groups do not fit it."""
    for row in (SMALL, RESNEXT50, WIDE_RESNET50):
        for option in ("A", "B", "C"):
            arch = architecture(row.name, 7, shortcut=option)
            shapes = arch.plan().shapes()
            state = {name: np.broadcast_to(np.float32(1), shape) for name, shape in shapes.items()}
            assert guess_architecture(state) == arch
    with pytest.raises(ModelError, match="do not fit resnet50: missing") as caught:
        match_state_dict(checkpoint.weights, architecture("resnet50"), "x.pth")
    assert caught.value.hint == f"these weights look like {SMALL.name}"


def test_weights_are_imported(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({f"module.{name}": value for name, value in checkpoint.weights.items()}, path)
    with pytest.raises(UsageError, match="say which network") as caught:
        import_weights(path)
    assert caught.value.hint == f"they look like {SMALL.name}: --arch {SMALL.name}"
    options = InputOptions(
        resize=32, crop=32, mean=tuple(checkpoint.spec.input.mean), std=tuple(checkpoint.spec.input.std)
    )
    imported = import_weights(
        path, SMALL.name, options=options, labels=Labels(checkpoint.spec.classes, None, "the test")
    )
    assert imported.checkpoint.spec.architecture == checkpoint.spec.architecture
    assert imported.check is not None


def test_files_are_read_again_and_inspected(checkpoint: Checkpoint, tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(checkpoint, path)
    assert load_checkpoint(path).spec.architecture == checkpoint.spec.architecture
    done = cli("inspect", path)
    assert f"{SMALL.name} (shortcut option B, stride in the 3x3, cardinality 4, width 16)\n" in done.out


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
def test_int8(checkpoint: Checkpoint, photos: Photos, target: Target) -> None:
    model = build_graph(checkpoint)
    calibration = calibrate(model, ((str(index), image) for index, image in enumerate(photos(16, 32))))
    quantized = quantize(model, calibration, target=target)
    constants = {item.name: item for item in quantized.graph.initializer}
    groups: Counter[int] = Counter()
    for node in quantized.graph.node:
        if node.op_type == "Conv":
            (weight,) = (item for item in quantized.graph.node if item.output[0] == node.input[1])
            shape = constants[weight.input[0]].dims
            assert constants[weight.input[1]].dims == [shape[0]], "one scale per output channel"
            groups[next((item.i for item in node.attribute if item.name == "group"), 1)] += 1
    assert groups == {1: 12, 4: 4}
    images = photos(8, 32, seed=1)
    assert error(answers(quantized, images), answers(model, images)) < 0.3
    assert read_graph(quantized.SerializeToString()).convolutions == {"int8": 16}


def test_fp16(checkpoint: Checkpoint, photos: Photos) -> None:
    model = build_graph(checkpoint)
    half = to_fp16(model)
    assert not half.kept
    images = photos(8, 32, seed=1)
    assert error(answers(emulate(half.model), images), answers(model, images)) < 0.03
    assert read_graph(half.model.SerializeToString()).convolutions == {"fp16": 16}


def test_layers_and_activation_maps(checkpoint: Checkpoint, tmp_path: Path, photos: Photos) -> None:
    model = build_graph(checkpoint)

    class Pictures:
        def crops(self) -> Iterator[tuple[str, NDArray[np.uint8]]]:
            yield from (("", image) for image in photos(2, 32))

        def __len__(self) -> int:
            return 2

    report = compare_layers(model, literal_graph(checkpoint), Pictures(), limit=1e-3)  # type: ignore[arg-type]
    assert report.passed
    assert len(report.measured.layers) > 16
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    assert ActivationMaps(path, checkpoint.spec)(natural_noise(1, 32, 32), [0, 3]).shape == (2, 8, 8)


def test_the_torch_runtime_answers_as_the_graph(checkpoint: Checkpoint, photos: Photos) -> None:
    images = photos(4, 32, seed=1)
    with open_reference(checkpoint) as reference:
        assert error(answers(build_graph(checkpoint), images), reference.source(images)) < 1e-4


@pytest.mark.parametrize("options", [(), ("--recipe", "tiny-imagenet", "--stages", "1:16:16:0.1")])
def test_it_is_trained_by_any_recipe(options: tuple[str, ...], tmp_path: Path, cli: Cli) -> None:
    for number, name in enumerate(("dark", "light")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index, picture in enumerate(natural_noise(4, 16, 16, seed=number)):
            Image.fromarray(picture).save(tmp_path / "data" / name / f"{index}.png")
    done = cli(
        "train",
        tmp_path / "data",
        "--arch",
        SMALL.name,
        "--iterations",
        2,
        "--validation",
        0,
        *options,
        *("--precision", "fp32", "-o", tmp_path / "run", "--no-compile"),
    )
    assert done.code == 0, done.err
    arch = load_checkpoint(tmp_path / "run" / "last.safetensors").spec.architecture
    assert arch == architecture(SMALL.name, 2)


def test_a_plain_row_refuses_what_needs_shortcuts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cli: Cli) -> None:
    add_rows(monkeypatch, Family("straight8", "cifar", "basic", (1, 1, 1), (16, 32, 64), None))
    done = cli("train", tmp_path, "--arch", "straight8", "--zero-init")
    assert done.code == 2
    assert "networks with shortcuts" in done.err
