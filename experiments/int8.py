"""What INT8 costs by each calibration method, on a whole labelled test set.

    python -m experiments.int8 DATA MODEL... [-o int8.md]

DATA is a data set with the splits train and test: pictures of the one calibrate, all of the other are answered. Of each
model, method and target: top-1 and top-5 error beside FP32, with McNemar's exact test against FP32; then the same test
between the methods. No layer is left in float.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import get_args

from resnet_infer import zoo
from resnet_infer.data.feed import open_feed
from resnet_infer.utils.console import note, on_stderr
from resnet_infer.utils.error_statistics import difference, ranks
from resnet_infer.utils.files import atomic_path
from resnet_infer.verification.metrics import measure


@on_stderr()
def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", metavar="DATA", type=Path)
    parser.add_argument("models", metavar="MODEL", nargs="+")
    parser.add_argument("--pictures", metavar="N", type=int, default=512, help="to calibrate on; default: 512")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, default=Path("int8.md"))
    options = parser.parse_args()
    text = "\n".join(line for model in options.models for line in report(model, options.data, options.pictures))
    with atomic_path(options.output) as path:
        path.write_text(f"{text}\n", encoding="utf-8")
    print(text)


def report(model: str, data: Path, count: int) -> Iterator[str]:
    """Markdown: the table of one model, and the test between its methods."""
    from resnet_infer.converters.precision.calibration import calibrate
    from resnet_infer.converters.precision.int8 import cpu_weight_bits, quantize
    from resnet_infer.converters.precision.lower import logits_of
    from resnet_infer.converters.precision.placement import Target
    from resnet_infer.converters.precision.ranges import Method
    from resnet_infer.converters.source import open_source

    source = open_source(zoo.source(model))
    calibration = calibrate(source.graph.model, open_feed(data, source.graph.spec, count=count, split="train").crops())
    test = open_feed(data, source.graph.spec, split="test", labelled=True)
    assert test.labels is not None
    classes = len(source.graph.spec.classes)
    reference = logits_of(source.graph.content, test)
    exact = difference(ranks(reference, test.labels), ranks(reference, test.labels), classes).model
    yield f"## {source.graph.spec.name}, {len(test):,} images, calibrated on {len(calibration.pictures)}\n"
    yield "| target | method | top-1 error, % | difference | top-5 error, % | p | logit error, % | agreement, % |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|"
    yield f"| | FP32 | {exact.top1:.2f} | | {exact.top5:.2f} | | | |"
    found = {}
    for target in get_args(Target):
        bits = cpu_weight_bits() if target == "cpu" else 8
        for method in get_args(Method):
            graph = quantize(source.graph.model, calibration, target=target, method=method, weight_bits=bits)
            logits = logits_of(graph.SerializeToString(), test)
            cost = measure(reference, logits, test.labels)
            assert cost.difference
            found[target, method] = ranks(logits, test.labels)
            own = cost.difference
            note(f"{source.graph.spec.name} {target} {method}: {cost}")
            yield (
                f"| {target} | {method} | {own.model.top1:.2f} | {own.top1:+.2f} | {own.model.top5:.2f} | {own.p:.3f} "
                f"| {100 * cost.error:.3f} | {100 * cost.agreement:.2f} |"
            )
    yield "\nMcNemar's p between the methods:\n"
    yield "| | " + " | ".join(get_args(Target)) + " |\n|---|" + "---:|" * len(get_args(Target))
    for first, second in combinations(get_args(Method), 2):
        cells = (difference(found[target, first], found[target, second], classes).p for target in get_args(Target))
        yield f"| {first}, {second} | " + " | ".join(f"{p:.3f}" for p in cells) + " |"
    yield ""


if __name__ == "__main__":
    main()
