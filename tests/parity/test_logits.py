"""Logits of exported artifacts against the libraries that define the networks, run in float64.

An artifact may be as far from the library in float64 as the library's own float32 is, three times over, or 1e-4 of the
spread of the logits over the pictures. `busy` batch-norm statistics make the logits of deep networks nearly the same
for every picture, so that float32 itself is further away than 1e-4.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from resnet_infer.converters.importers.input_options import InputOptions
from resnet_infer.converters.importers.weights import import_weights
from resnet_infer.converters.source import export_onnx
from resnet_infer.data.synthetic import natural_noise
from resnet_infer.runtimes.onnxruntime import OnnxRuntime
from tests.batch_norm import make_busy
from tests.families import RESNEXT50, WIDE_RESNET50, add_rows
from tests.parity.conftest import IMAGENET_MEAN, IMAGENET_STD

DEPTHS = (18, 34, 50, 101, 152)
SEEDS = (1, 2, 3)
PICTURES = 6
CASES = [("torchvision", f"resnet{depth}", seed) for depth in DEPTHS for seed in SEEDS[: 3 if depth <= 50 else 1]]
CASES += [("timm", f"resnet{depth}", 4) for depth in DEPTHS]  # at one seed both libraries initialise alike
CASES += [("torchvision", row.name, 1) for row in (RESNEXT50, WIDE_RESNET50)]


def answers(torch: Any, network: Any, pictures: NDArray[np.uint8], dtype: Any) -> NDArray[np.float64]:
    """The library's logits (N, classes), with pictures prepared and the network run in `dtype`."""
    mean, std = (torch.tensor(value).double() for value in (IMAGENET_MEAN, IMAGENET_STD))
    pixels = (torch.tensor(pictures).double() / 255 - mean) / std
    batches = pixels.permute(0, 3, 1, 2).to(dtype).contiguous().split(2)
    with torch.inference_mode():
        logits: NDArray[np.float64] = torch.cat([network.to(dtype)(batch) for batch in batches]).double().numpy()
    return logits


@pytest.mark.parametrize(("library", "name", "seed"), CASES, ids=["-".join(map(str, case)) for case in CASES])
def test_an_export_is_as_near_to_float64_as_the_library(
    request: pytest.FixtureRequest,
    torch: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Any,
    library: str,
    name: str,
    seed: int,
) -> None:
    module = request.getfixturevalue(library)
    add_rows(monkeypatch, RESNEXT50, WIDE_RESNET50)
    torch.manual_seed(seed)
    network = (getattr(module.models, name)() if library == "torchvision" else module.create_model(name)).eval()
    make_busy(torch, network)
    weights, artifact = tmp_path / f"{name}.pth", tmp_path / f"{name}.onnx"
    torch.save(network.state_dict(), weights)
    options = InputOptions(resize=256, crop=224, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    checkpoint = import_weights(weights, arch=name, options=options).checkpoint
    started = time.monotonic()
    parity = export_onnx(checkpoint, artifact)
    took = time.monotonic() - started

    pictures = natural_noise(PICTURES, 224, 224, seed=7)
    own = answers(torch, network, pictures, torch.float32)
    exact = answers(torch, network, pictures, torch.float64)
    with OnnxRuntime(artifact, device="cpu") as runtime:
        actual = np.concatenate([runtime(pictures[i : i + 2]) for i in range(0, PICTURES, 2)])
    spread = np.std(exact - exact.mean(axis=0))
    delta, floor = (float(np.abs(logits - exact).max() / spread) for logits in (actual, own))
    print(
        f"\n{library} {name} seed {seed}: artifact {delta:.1e} of the spread, the library's float32 {floor:.1e}; "
        f"export took {took:.0f} s, its own parity {parity.measured.relative_delta:.1e} of "
        f"{parity.measured.largest_delta:.1e} allowed"
    )
    record_property("delta", delta)
    assert delta <= max(1e-4, 3 * floor)
    np.testing.assert_array_equal(actual.argmax(axis=1), exact.argmax(axis=1))
