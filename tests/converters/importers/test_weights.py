"""Foreign weights become checkpoints that answer as they did at home; what they do not reveal is asked for or said."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from resnet_infer.converters.importers.input_options import InputOptions
from resnet_infer.converters.importers.labels import Labels
from resnet_infer.converters.importers.weights import import_weights
from resnet_infer.converters.source import export_onnx
from resnet_infer.errors import DataError, ModelError, UsageError
from resnet_infer.models.architectures import BottleneckStride, architecture
from resnet_infer.models.spec import imagenet_classes
from resnet_infer.models.weights import published
from resnet_infer.models.weights.published import PublishedWeights
from resnet_infer.runtimes.onnxruntime import OnnxRuntime

Photos = Callable[..., NDArray[np.uint8]]


def save_weights(path: Path, name: str, classes: int = 10, **options: Any) -> Path:
    """Weights of a network, one number in all of them, without a spec."""
    shapes = architecture(name, classes, **options).plan().shapes()
    save_file({key: np.full(shape, 0.5, np.float32) for key, shape in shapes.items()}, path)
    return path


def labels(*names: str) -> Labels:
    return Labels(names, None, "labels.txt")


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch", reason="the references are torch modules")


def network(torch: Any, shortcut: Callable[[Any, int], Any]) -> Any:
    """A CIFAR ResNet-8 as the field's repositories write it."""
    nn = torch.nn
    Module: Any = nn.Module  # noqa: N806

    class Block(Module):  # type: ignore[misc]
        def __init__(self, inputs: int, planes: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, planes, 3, stride=planes // inputs, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(planes)
            self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(planes)
            self.change = planes != inputs

        def forward(self, x: Any) -> Any:
            out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            return torch.relu(out + (shortcut(x, out.shape[1]) if self.change else x))

    class Net(Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(16)
            self.layer1 = nn.Sequential(Block(16, 16))
            self.layer2 = nn.Sequential(Block(16, 32))
            self.layer3 = nn.Sequential(Block(32, 64))
            self.linear = nn.Linear(64, 10)

        def forward(self, x: Any) -> Any:
            x = self.layer3(self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x))))))
            return self.linear(nn.functional.avg_pool2d(x, x.shape[3]).flatten(1))

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return Net()


@pytest.fixture(scope="module")
def references(torch: Any, photos: Photos, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The file of weights, the pictures, and the logits of each style for them."""

    def split(x: Any, planes: int) -> Any:
        return torch.nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, planes // 4, planes // 4))

    def append(x: Any, planes: int) -> Any:
        y = x[:, :, ::2, ::2]
        return torch.cat((y, torch.zeros(len(y), planes - y.shape[1], *y.shape[2:])), 1)

    pictures = photos(24, 32)
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2470, 0.2435, 0.2616])
    batch = ((torch.from_numpy(pictures).float() / 255 - mean) / std).permute(0, 3, 1, 2)
    trained = network(torch, append).train()
    with torch.no_grad():
        for _ in range(20):
            trained(batch)
    path = tmp_path_factory.mktemp("option-a") / "resnet8.th"
    state = {f"module.{name}": value for name, value in trained.state_dict().items()}
    torch.save({"state_dict": state, "best_prec1": 87.5}, path)
    logits = {}
    for padding, shortcut in (("append", append), ("split", split)):
        module = network(torch, shortcut).eval()
        module.load_state_dict(trained.state_dict())
        with torch.no_grad():
            logits[padding] = module(batch).numpy()
    return path, pictures, logits


class TestOptionA:
    """Weights do not reveal where option A's zero channels go: each padding must equal code of its own style."""

    @pytest.mark.parametrize("padding", ["append", "split"])
    def test_a_padding_equals_its_own_reference_and_not_the_other(
        self, references: Any, tmp_path: Path, padding: Any
    ) -> None:
        path, pictures, logits = references
        imported = import_weights(path, "resnet8", padding=padding)
        export_onnx(imported.checkpoint, tmp_path / "model.onnx")
        with OnnxRuntime(tmp_path / "model.onnx", device="cpu") as runtime:
            answers = runtime(pictures)
        other = logits["split" if padding == "append" else "append"]
        spread = np.std(logits[padding] - logits[padding].mean(axis=0))
        assert np.abs(answers - logits[padding]).max() < 1e-4 * spread
        assert np.abs(answers - other).max() > spread

    def test_the_padding_must_be_said(self, tmp_path: Path) -> None:
        path = save_weights(tmp_path / "x.safetensors", "resnet8")
        with pytest.raises(UsageError, match="the weights do not reveal it") as caught:
            import_weights(path, "resnet8")
        assert "append:" in (caught.value.hint or "")
        assert "split:" in (caught.value.hint or "")


class TestWhatShapesTell:
    def test_classes_and_shortcuts(self, tmp_path: Path) -> None:
        path = save_weights(tmp_path / "x.safetensors", "resnet20", 3, shortcut="C")
        imported = import_weights(path, "resnet20", labels=labels("a", "b", "c"))
        assert imported.checkpoint.spec.architecture == architecture("resnet20", 3, shortcut="C")
        assert imported.checkpoint.spec.classes == ("a", "b", "c")

    def test_what_contradicts_them(self, tmp_path: Path) -> None:
        path = save_weights(tmp_path / "x.safetensors", "resnet20", shortcut="B")
        with pytest.raises(ModelError, match=r"of another shape: fc\.weight"):
            import_weights(path, "resnet20", num_classes=100)
        with pytest.raises(ModelError, match="left over: layer") as caught:
            import_weights(path, "resnet20", shortcut="A")
        assert caught.value.hint == "these weights look like resnet20 with shortcut option B"

    def test_the_architecture_is_asked_for_with_a_suggestion(self, tmp_path: Path) -> None:
        path = save_weights(tmp_path / "x.safetensors", "resnet20", shortcut="B")
        with pytest.raises(UsageError, match="--arch") as caught:
            import_weights(path)
        assert caught.value.hint == "they look like resnet20: --arch resnet20"

    def test_the_labels_of_other_classes_are_asked_for(self, tmp_path: Path) -> None:
        path = save_weights(tmp_path / "x.safetensors", "plain8", 7)
        with pytest.raises(UsageError, match="7 classes, and nothing names them"):
            import_weights(path, "plain8")
        with pytest.raises(DataError, match=r"labels\.txt names 2 classes; the model has 7"):
            import_weights(path, "plain8", labels=labels("a", "b"))


class TestEntries:
    """Of raw weights and their average over training, the average is taken, and it is said."""

    @pytest.fixture
    def both(self, torch: Any, tmp_path: Path) -> Path:
        def state(value: float) -> dict[str, Any]:
            shapes = architecture("plain8", 10).plan().shapes()
            return {f"module.{key}": torch.full(shape, value) for key, shape in shapes.items()}

        path = tmp_path / "both.pth"
        average = {"n_averaged": torch.tensor(9), **state(0.25)}
        torch.save({"model": state(0.5), "model_ema": average, "epoch": 3}, path)
        return path

    def test_the_average_is_taken(self, both: Path) -> None:
        imported = import_weights(both, "plain8")
        assert imported.checkpoint.weights["fc.bias"][0] == 0.25
        assert imported.entry == imported.checkpoint.spec.provenance["source_entry"] == "model_ema"
        said = "the weights in model_ema, averaged over training; also there: model (--entry NAME)"
        assert said in imported.assumed
        assert said in imported.checkpoint.spec.provenance["assumed"]

    def test_another_one_can_be_chosen(self, both: Path) -> None:
        imported = import_weights(both, "plain8", entry="model")
        assert (imported.checkpoint.weights["fc.bias"][0], imported.entry) == (0.5, "model")
        assert not any("model_ema" in text for text in imported.assumed)
        with pytest.raises(UsageError, match="it has model, model_ema"):
            import_weights(both, "plain8", entry="ema")


def test_one_output_is_refused(tmp_path: Path) -> None:
    """A softmax over one class is 100% for every picture."""
    path = save_weights(tmp_path / "x.safetensors", "plain8", 1)
    with pytest.raises(ModelError, match="one output") as caught:
        import_weights(path, "plain8", labels=labels("x"))
    assert "two outputs" in (caught.value.hint or "")


@pytest.mark.parametrize("given", [None, ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))])
def test_a_network_that_takes_bgr(torch: Any, photos: Photos, tmp_path: Path, given: Any) -> None:
    """Its answers are those of its own code, which turns the pictures round; mean and std are in its order."""

    def append(x: Any, planes: int) -> Any:
        y = x[:, :, ::2, ::2]
        return torch.cat((y, torch.zeros(len(y), planes - y.shape[1], *y.shape[2:])), 1)

    from resnet_infer.runtimes.pytorch import TorchRuntime

    module, pictures = network(torch, append), photos(6, 32)
    default = ((0.4465, 0.4822, 0.4914), (0.2616, 0.2435, 0.2470))  # CIFAR-10's, as BGR
    mean, std = (torch.tensor(value) for value in given or default)
    fed = ((torch.from_numpy(pictures[..., ::-1].copy()).float() / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        module.train()(fed)
        expected = module.eval()(fed).numpy()
    torch.save(module.state_dict(), tmp_path / "bgr.pth")
    options = InputOptions(mean=given[0], std=given[1], channels="bgr") if given else InputOptions(channels="bgr")
    imported = import_weights(tmp_path / "bgr.pth", "resnet8", padding="append", options=options)
    assert "BGR" in imported.checkpoint.spec.provenance["channels"]
    export_onnx(imported.checkpoint, tmp_path / "model.onnx")
    with OnnxRuntime(tmp_path / "model.onnx", device="cpu") as runtime:
        answers = runtime(pictures)
    with TorchRuntime(imported.checkpoint, device="cpu") as own:
        again = own(pictures)
    assert np.abs(answers - expected).max() < 1e-4 * expected.std()
    assert np.abs(again - expected).max() < 1e-4 * expected.std()


def test_a_checkpoint_of_ours_is_not_imported_again(checkpoint_file: Path) -> None:
    with pytest.raises(ModelError, match="a checkpoint with a model spec already"):
        import_weights(checkpoint_file, "resnet20", padding="append")


class TestAssumptions:
    def test_of_a_cifar_network(self, tmp_path: Path) -> None:
        path = save_weights(tmp_path / "mine.safetensors", "plain8")
        imported = import_weights(path, "plain8")
        spec = imported.checkpoint.spec
        assert (spec.name, spec.classes[0], len(spec.classes), spec.class_ids) == ("mine", "airplane", 10, None)
        assert (spec.input.resize, spec.input.crop, spec.input.exif) == (32, 32, True)
        assert spec.input.mean.tolist() == pytest.approx([0.4914, 0.4822, 0.4465])
        assert spec.input.std.tolist() == pytest.approx([0.2470, 0.2435, 0.2616])
        assert imported.assumed == (
            "mean 0.4914,0.4822,0.4465, std 0.247,0.2435,0.2616, as is usual for CIFAR-10",
            "resize 32, crop 32, interpolation bilinear, as is usual for CIFAR-10",
            "the classes of CIFAR-10 in their usual order",
        )
        assert {key: value for key, value in spec.provenance.items() if key not in ("check", "warnings")} == {
            "source_file": "mine.safetensors",
            "source_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "assumed": list(imported.assumed),
        }

    def test_of_an_imagenet_network(self, tmp_path: Path) -> None:
        path = save_weights(tmp_path / "mine.safetensors", "plain18", 1000)
        imported = import_weights(path, "plain18", name="other")
        spec = imported.checkpoint.spec
        assert (spec.name, spec.classes, spec.class_ids) == ("other", *imagenet_classes())
        assert (spec.input.resize, spec.input.crop, spec.input.interpolation) == (256, 224, "bilinear")
        assert spec.input.mean.tolist() == pytest.approx([0.485, 0.456, 0.406])
        assert len(imported.assumed) == 3

    def test_of_bottlenecks(self, tmp_path: Path) -> None:
        path = save_weights(tmp_path / "mine.safetensors", "resnet50", 2)
        strides: dict[BottleneckStride | None, bool] = {None: True, "1x1": False}
        for stride_in, said in strides.items():
            small = InputOptions(resize=40, crop=40)
            imported = import_weights(path, "resnet50", stride_in=stride_in, options=small, labels=labels("a", "b"))
            assert imported.checkpoint.spec.architecture == architecture("resnet50", 2, stride_in=stride_in)
            assert any("stride in the 3x3" in text for text in imported.assumed) is said

    def test_nothing_is_assumed_where_all_is_said(self, tmp_path: Path) -> None:
        path = save_weights(tmp_path / "mine.safetensors", "plain8", 2)
        options = InputOptions(40, 36, (127.5,), (51.0, 102.0, 255.0), "bicubic", False, scale=255)
        imported = import_weights(path, "plain8", options=options, labels=Labels(("a", "b"), ("n1", "n2"), "x"))
        spec = imported.checkpoint.spec
        assert imported.assumed == ()
        assert "assumed" not in spec.provenance
        assert (spec.input.resize, spec.input.crop, spec.input.interpolation, spec.input.exif) == (
            *(40, 36, "bicubic"),
            False,
        )
        assert spec.input.mean.tolist() == [0.5, 0.5, 0.5]
        assert spec.input.std.tolist() == pytest.approx([0.2, 0.4, 1.0])
        assert spec.class_ids == ("n1", "n2")

    def test_options_that_make_no_sense(self, tmp_path: Path) -> None:
        path = save_weights(tmp_path / "mine.safetensors", "plain8")
        ruined = (InputOptions(mean=mean, std=std) for mean, std in (((0.5,), (0.0,)), ((float("nan"),), (0.5,))))
        for options in InputOptions(crop=48), *ruined:
            with pytest.raises(UsageError):
                import_weights(path, "plain8", options=options)


class TestPublished:
    """A published file is known by its SHA-256, whatever it is called."""

    @pytest.fixture
    def weights(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, PublishedWeights]:
        path = save_weights(tmp_path / "x.pth", "plain8", 1000)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        row = replace(published.PUBLISHED[3], arch="plain8", sha256_prefix=digest[:8])
        monkeypatch.setattr(published, "PUBLISHED", (row,))
        return path, row

    def test_it_brings_its_own_spec(self, weights: tuple[Path, PublishedWeights]) -> None:
        path, row = weights
        imported = import_weights(path)
        spec = imported.checkpoint.spec
        own = published.spec_of(row)
        assert imported.assumed == ()
        assert spec.with_(provenance=own.provenance) == own
        assert (spec.name, spec.input.resize, len(spec.measured)) == ("resnet50.v2", 232, 1)
        assert spec.provenance["source_file"] == "x.pth"
        assert spec.provenance["source_sha256"].startswith(row.sha256_prefix)
        assert spec.provenance["licence"] == "BSD-3-Clause"

    def test_what_is_said_goes_first_and_the_published_error_goes(self, weights: tuple[Path, PublishedWeights]) -> None:
        spec = import_weights(weights[0], options=InputOptions(resize=256), name="mine").checkpoint.spec
        assert (spec.name, spec.input.resize, spec.input.crop, spec.measured) == ("mine", 256, 224, ())
        names = labels(*(f"class {i}" for i in range(1000)))
        assert import_weights(weights[0], labels=names).checkpoint.spec.classes == names.names

    def test_another_file_under_its_name(self, weights: tuple[Path, PublishedWeights]) -> None:
        path = save_weights(weights[0].with_name(weights[1].filename), "plain8", 10)
        imported = import_weights(path, "plain8")
        assert imported.checkpoint.spec.input.resize == 32
        assert "has the name of resnet50.v2, but SHA-256" in imported.assumed[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": [123.7, 116.3, 103.5], "std": [58.4, 57.1, 57.4]}, "shares of the full range"),
        ({"mean": [0.5]}, "belong together"),
        ({"std": [0.5]}, "belong together"),
        ({"scale": 255}, "not given"),
    ],
)
def test_a_normalisation_in_other_units_or_by_halves_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        InputOptions(**options)
