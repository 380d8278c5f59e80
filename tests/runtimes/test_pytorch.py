"""The torch runtime: the module that was trained, as another runtime."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from resnet_infer import zoo
from resnet_infer.errors import ModelError, RuntimeUnavailableError, UsageError
from resnet_infer.models.checkpoint import Checkpoint, load_checkpoint
from resnet_infer.runtimes.onnxruntime import OnnxRuntime

torch = pytest.importorskip("torch", reason="the extra `train`")

from resnet_infer.runtimes.pytorch import TorchRuntime  # noqa: E402

CHECKPOINT = zoo.built_in(zoo.SMALL, ".safetensors")
Make = Callable[..., Checkpoint]
Photos = Callable[..., NDArray[np.uint8]]


def test_torch_and_onnxruntime_agree_on_the_built_in(photos: Photos) -> None:
    with (
        TorchRuntime(CHECKPOINT, device="cpu") as reference,
        OnnxRuntime(zoo.built_in(zoo.SMALL, ".onnx"), device="cpu") as candidate,
    ):
        images = photos(24, reference.spec.input.crop)
        expected, actual = reference(images), candidate(images)
        assert candidate.spec.with_(measured=()) == reference.spec.with_(measured=())
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * expected.std())
    np.testing.assert_array_equal(actual.argmax(1), expected.argmax(1))


def test_a_picture_is_answered_alike_alone_and_in_any_batch(make_checkpoint: Make, photos: Photos) -> None:
    with TorchRuntime(make_checkpoint(), device="cpu") as runtime:
        images = photos(11, 32)
        together = runtime(images)
        alone = np.concatenate([runtime(images[i : i + 1]) for i in range(len(images))])
        assert together.shape == (11, 10)
        assert together.dtype == np.float32
        np.testing.assert_allclose(alone, together, rtol=0, atol=1e-4 * together.std())
        np.testing.assert_array_equal(runtime(images[::-1]), runtime(images[::-1].copy()))
        assert runtime(images[:0]).shape == (0, 10)


def test_the_size_is_open_unless_the_mean_is_per_pixel(make_checkpoint: Make, photos: Photos) -> None:
    with TorchRuntime(make_checkpoint(), device="cpu") as runtime:
        assert runtime.size == (None, None)
        assert runtime(photos(2, 40)).shape == (2, 10)
        with pytest.raises(UsageError, match="uint8 of shape"):
            runtime(photos(1, 32).astype(np.float32))
    with TorchRuntime(make_checkpoint(per_pixel=True), device="cpu") as runtime:
        assert runtime.size == (32, 32)
        with pytest.raises(UsageError, match="takes pictures of"):
            runtime(photos(2, 40))


def test_threads_are_reported(make_checkpoint: Make) -> None:
    with TorchRuntime(make_checkpoint(), device="cpu", threads=1) as runtime:
        assert runtime.describe() == {
            "runtime": "torch",
            "device": "cpu",
            "version": torch.__version__,
            "threads": 1,
            "precision": "fp32",
            "fused": False,
            "channels_last": False,
            "compiled": False,
        }


def test_nothing_is_kept_for_a_backward_pass(make_checkpoint: Make, photos: Photos) -> None:
    runtime = TorchRuntime(make_checkpoint(), device="cpu")
    with runtime:
        before = {name: value.clone() for name, value in runtime.network.state_dict().items()}
        runtime(photos(8, 32))
        assert not runtime.network.training
        for name, value in runtime.network.state_dict().items():
            assert torch.equal(value, before[name]), name


def test_a_closed_one_holds_no_tensors(make_checkpoint: Make) -> None:
    runtime = TorchRuntime(make_checkpoint(), device="cpu")
    runtime.close()
    # Freed later, on a daemon thread at the end of the program, each would end it with SIGABRT.
    assert not [name for name, value in vars(runtime).items() if isinstance(value, (torch.Tensor, torch.nn.Module))]


def test_a_missing_or_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.safetensors does not exist"):
        TorchRuntime(tmp_path / "nowhere.safetensors")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(CHECKPOINT.read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"damaged\.safetensors is damaged"):
        TorchRuntime(damaged)


def test_an_adopted_graph_has_no_module() -> None:
    checkpoint = load_checkpoint(CHECKPOINT)
    with pytest.raises(ModelError, match="has no architecture to build a module from"):
        TorchRuntime(replace(checkpoint, spec=checkpoint.spec.with_(architecture=None)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_device_that_is_named_is_never_replaced(make_checkpoint: Make, device: str) -> None:
    with pytest.raises(RuntimeUnavailableError, match=f"^{device} was asked for, and torch has no CUDA"):
        TorchRuntime(make_checkpoint(), device=device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
def test_cuda_is_used_where_it_is_there(make_checkpoint: Make) -> None:
    for device in ("auto", "cuda", "cuda:0"):
        runtime = TorchRuntime(make_checkpoint(), device=device)
        with runtime:
            assert runtime.device == "cuda:0"
            assert next(runtime.network.parameters()).is_cuda
    with pytest.raises(RuntimeUnavailableError, match="CUDA devices here"):
        TorchRuntime(make_checkpoint(), device=f"cuda:{torch.cuda.device_count()}")


@pytest.mark.parametrize("device", ["cdua", "mps", "cpu:0", "cuda:x"])
def test_an_unknown_device_is_a_usage_error(make_checkpoint: Make, device: str) -> None:
    with pytest.raises(UsageError, match="there is no device"):
        TorchRuntime(make_checkpoint(), device=device)


# As fast as torch is


@pytest.fixture(scope="module")
def small(make_checkpoint: Make) -> Checkpoint:
    return make_checkpoint("resnet8", shortcut="B")


@pytest.fixture(scope="module")
def reference(small: Checkpoint, photos: Photos) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Pictures and what the literal module answers."""
    images = photos(12, 32)
    with TorchRuntime(small, device="cpu") as runtime:
        return images, runtime(images)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("precision", "rounding"), [("fp32", 1e-4), ("fp16", 2e-2), ("bf16", 2e-1)])
def test_every_variant_answers_alike(
    small: Checkpoint,
    reference: tuple[NDArray[np.uint8], NDArray[np.float32]],
    precision: Any,
    rounding: float,
    fused: bool,
    channels_last: bool,
) -> None:
    images, expected = reference
    options = {"precision": precision, "fused": fused, "channels_last": channels_last}
    with TorchRuntime(small, device="cpu", **options) as runtime:
        actual = runtime(images)
        assert {name: runtime.describe()[name] for name in options} == options
    assert actual.dtype == np.float32
    spread = (expected - expected.mean(axis=0)).std()
    largest = np.abs(actual - expected).max()
    assert largest <= rounding * spread
    # Each precision is worse than the one above it, so it was used.
    assert largest >= {"fp32": 0.0, "fp16": 1e-4, "bf16": 1e-3}[precision] * spread


def test_a_fused_module_has_no_batch_norm_left_and_the_checkpoint_is_as_before(small: Checkpoint) -> None:
    before = {name: value.copy() for name, value in small.weights.items()}
    with TorchRuntime(small, device="cpu", fused=True) as fused, TorchRuntime(small, device="cpu") as plain:
        kinds = [{type(module).__name__ for module in item.network.modules()} for item in (fused, plain)]
    assert "BatchNorm2d" not in kinds[0]
    assert "BatchNorm2d" in kinds[1]
    for name, value in small.weights.items():
        assert np.array_equal(value, before[name])


def test_a_precision_that_there_is_not_is_a_usage_error(small: Checkpoint) -> None:
    with pytest.raises(UsageError, match=r"has no precision 'fp61'; did you mean fp16\?"):
        TorchRuntime(small, device="cpu", precision="fp61")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a CPU has no tf32"):
        TorchRuntime(small, device="cpu", precision="tf32")


def test_where_torch_cannot_compile_it_says_so_at_once(small: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiler(_: Any) -> Any:
        def run(_: Any) -> Any:
            raise RuntimeError("No working C++ compiler found\nand more")

        return run

    monkeypatch.setattr(torch, "compile", compiler)
    with pytest.raises(RuntimeUnavailableError, match=r"cannot compile resnet8-test here \(No working C\+\+ compiler"):
        TorchRuntime(small, device="cpu", compile=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_module_answers_alike(
    small: Checkpoint, reference: tuple[NDArray[np.uint8], NDArray[np.float32]]
) -> None:
    if not shutil.which("g++"):
        pytest.skip("torch.compile needs a C++ compiler")
    images, expected = reference
    with TorchRuntime(small, device="cpu", compile=True, fused=True) as runtime:
        assert runtime.describe()["compiled"] is True
        np.testing.assert_allclose(runtime(images), expected, rtol=0, atol=1e-4 * expected.std())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
def test_fp32_on_cuda_is_fp32_and_the_process_keeps_its_setting(
    small: Checkpoint, reference: tuple[NDArray[np.uint8], NDArray[np.float32]]
) -> None:
    images, expected = reference
    before = torch.backends.cudnn.conv.fp32_precision
    found = {}
    for precision in ("fp32", "tf32"):
        with TorchRuntime(small, device="cuda", precision=precision) as runtime:
            found[precision] = np.abs(runtime(images) - expected).max() / expected.std()
    assert found["fp32"] < 1e-4 < found["tf32"] < 1e-1
    assert torch.backends.cudnn.conv.fp32_precision == before


def settings_of_the_program() -> dict[str, Any]:
    """What a program may have set for torch."""
    return {
        "threads": torch.get_num_threads(),
        "random": torch.get_rng_state().tolist(),
        "grad": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "products": torch.backends.mkldnn.matmul.fp32_precision,
        "convolutions": torch.backends.mkldnn.conv.fp32_precision,
        "autocast": torch.is_autocast_enabled("cpu"),
    }


@contextmanager
def program(threads: int = 2, **more: Any) -> Iterator[None]:
    """A program with settings of its own, which are put back after."""
    before = settings_of_the_program()
    random = torch.get_rng_state()
    try:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(more.get("grad", True))
        torch.set_default_dtype(more.get("dtype", torch.float32))
        torch.set_default_device(more.get("device", "cpu"))
        torch.use_deterministic_algorithms(more.get("deterministic", False))
        torch.backends.mkldnn.matmul.fp32_precision = more.get("products", "none")
        torch.backends.mkldnn.conv.fp32_precision = more.get("products", "none")
        with torch.autocast("cpu", enabled=more.get("autocast", False)):
            yield
    finally:
        torch.set_num_threads(before["threads"])
        torch.set_grad_enabled(before["grad"])
        torch.set_default_dtype(before["dtype"])
        torch.set_default_device(None)
        torch.use_deterministic_algorithms(before["deterministic"])
        torch.backends.mkldnn.matmul.fp32_precision = before["products"]
        torch.backends.mkldnn.conv.fp32_precision = before["convolutions"]
        torch.set_rng_state(random)


@pytest.mark.parametrize("threads", [None, 1])
@pytest.mark.parametrize(
    "host",
    [
        {},
        {"threads": 1},
        {"grad": False},
        {"dtype": torch.float64},
        {"dtype": torch.float16},
        {"device": "meta"},
        {"deterministic": True},
        {"products": "bf16"},
        {"autocast": True},
    ],
    ids=lambda host: "-".join(map(str, host.values())) or "plain",
)
def test_a_program_keeps_its_settings_and_they_change_no_answer(
    small: Checkpoint,
    reference: tuple[NDArray[np.uint8], NDArray[np.float32]],
    host: dict[str, Any],
    threads: int | None,
) -> None:
    images, _ = reference
    with program(), TorchRuntime(small, device="cpu", threads=threads) as runtime:
        expected = runtime(images)
    with program(**host):
        before = settings_of_the_program()
        with TorchRuntime(small, device="cpu", threads=threads) as runtime:
            assert settings_of_the_program() == before
            # Other numbers of threads may add up in another order.
            np.testing.assert_allclose(runtime(images), expected, rtol=0, atol=1e-5 * expected.std())
            assert settings_of_the_program() == before
            with pytest.raises(UsageError):
                runtime(images[..., :2])
        assert settings_of_the_program() == before


def test_the_threads_asked_for_are_those_of_the_call(small: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    with program(2), TorchRuntime(small, device="cpu", threads=3) as runtime:
        forward = runtime._forward

        def watched(x: Any) -> Any:
            seen.append(torch.get_num_threads())
            return forward(x)

        monkeypatch.setattr(runtime, "_forward", watched)
        runtime(np.zeros((1, 32, 32, 3), np.uint8))
        assert (seen, torch.get_num_threads(), runtime.describe()["threads"]) == ([3], 2, 3)


def test_calls_of_several_threads_leave_the_number_of_threads(small: Checkpoint) -> None:
    """As the lanes of `Classifier(throughput=True)` make them, whose threads begin while others compute."""
    images = np.zeros((4, 32, 32, 3), np.uint8)
    with program(2), TorchRuntime(small, device="cpu", threads=1) as one, TorchRuntime(small, threads=3) as three:
        for _ in range(5):
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda runtime: runtime(images), [one, three] * 10))
                assert torch.get_num_threads() == 2
                assert set(pool.map(lambda _: torch.get_num_threads(), range(8))) == {2}
        with ThreadPoolExecutor(1) as pool:  # a thread of the program that comes later
            assert pool.submit(torch.get_num_threads).result() == 2
