"""Write `docs/peers.md` from `results/peers.json`.

python -m benchmarks.peers_table
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.paired import RESULTS

TARGET = RESULTS.parent.parent / "docs" / "peers.md"
BATCHES = {"batch1": "batch 1", "batch8": "batch 8", "batch32": "batch 32"}
PRECISIONS = {
    "FP32": "Computed in float32",
    "bf16": "Computed in bfloat16, which is OpenVINO's default where the processor has it",
    "INT8": "INT8",
}
OURS = "resnet-infer"
NEAR = 1.05
"""Up to this ratio two figures are called even: so much do rounds of the same thing differ."""


def precision(subject: str) -> str:
    return next((name for name in PRECISIONS if name in subject), "FP32")


def ratio(part: dict[str, Any], subject: str, other: str) -> float:
    """How many times as long it takes as the other: the median of the rounds' ratios."""
    pairs = zip(part[subject]["ms, each"], part[other]["ms, each"], strict=True)
    return float(statistics.median(mine / theirs for mine, theirs in pairs))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def shown(subject: str) -> str:
    return f"**{subject}**" if subject.startswith(OURS) else subject


def rows_of(part: dict[str, Any]) -> dict[str, Any]:
    """The subjects of a part, and what was found of each."""
    return {name: row for name, row in part.items() if name not in ("date", "pictures")}


def inference(result: dict[str, Any]) -> Iterator[str]:
    parts = {name: title for name, title in BATCHES.items() if name in result}
    if not parts:
        return
    yield "## Inference alone"
    rounds = ", ".join(str(len(next(iter(rows_of(result[part]).values()))["ms, each"])) for part in parts)
    yield (
        f"Milliseconds per call, medians of {rounds} rounds; less is better. Rounds of the same subject differ by up "
        f"to {100 * (NEAR - 1):.0f}%: the fastest of each precision, and those within that of it, are in bold."
    )
    subjects = list(rows_of(result[next(iter(parts))]))
    for kind, title in PRECISIONS.items():
        group = [name for name in subjects if precision(name) == kind]
        rows = []
        for subject in group:
            row = [shown(subject)]
            for part in parts:
                text = f"{result[part][subject]['ms']:.1f}"
                best = min(group, key=lambda name: result[part][name]["ms"])
                row.append(f"**{text}**" if ratio(result[part], subject, best) <= NEAR else text)
            rows.append(row)
        yield f"{title}:"
        yield table((kind, *parts.values()), rows)
    yield from faster(result, parts, subjects)


def faster(result: dict[str, Any], parts: dict[str, str], subjects: Sequence[str]) -> Iterator[str]:
    """Where a peer is faster than what we take unasked, and than the best that we have."""
    found = []
    for part, title in parts.items():
        for kind in ("FP32", "INT8"):
            own = [name for name in subjects if name.startswith(OURS) and precision(name) == kind]
            for peer in subjects:
                if peer.startswith(OURS) or precision(peer) != kind:
                    continue
                usual = ratio(result[part], f"{OURS} {kind}", peer)
                best = min(ratio(result[part], name, peer) for name in own)
                if usual > NEAR:
                    rest = "also over its fastest runtime" if best > NEAR else "but not over its fastest runtime"
                    found.append(f"- {title}: {peer} has a speed-up of {usual:.2f} over {OURS} {kind}, {rest}.")
    yield f"Where a peer is faster, by more than {100 * (NEAR - 1):.0f}%, than the default runtime of resnet-infer:"
    yield "\n".join(found) or "- Nowhere."


def pictures(result: dict[str, Any]) -> Iterator[str]:
    parts = [part for part in ("pipeline", "loader", "timm") if part in result]
    if not parts:
        return
    yield "## JPEG files to top-5"
    yield (
        f"{result[parts[0]]['pictures']:,} decodes and classifications of photographs, in images per second; more is "
        "better. The Hugging Face pipeline reads the files itself; timm and torch read them in a DataLoader with two "
        "workers."
    )
    for part in parts:
        peers = [name for name in rows_of(result[part]) if not name.startswith(OURS)]
        rows = []
        for subject, row in rows_of(result[part]).items():
            times = [f"{row[f'times {peer}']:.1f}" if f"times {peer}" in row else "" for peer in peers]
            rows.append([shown(subject), f"{row['pictures_per_s']:.1f}", *times])
        yield table(("", "images/s", *(f"speed-up over {peer}" for peer in peers)), rows)


def start(result: dict[str, Any]) -> Iterator[str]:
    if "start" not in result:
        return
    yield "## Process start to first answer"
    yield "Seconds of a whole process that loads the network and classifies one photo; less is better."
    rows = sorted((row["s"], subject) for subject, row in rows_of(result["start"]).items())
    yield table(("", "seconds"), [(shown(subject), f"{value:.2f}") for value, subject in rows])
    found = {subject: value for value, subject in rows}
    behind = [
        f"{subject} takes {own - value:.2f} s less than {OURS} {kind}"
        for kind in ("FP32", "INT8")
        if (own := found.get(f"{OURS} {kind}"))
        for subject, value in found.items()
        if not subject.startswith(OURS) and precision(subject) == kind and value * NEAR < own
    ]
    if behind:
        yield f"A bare script, without checks and without a model spec, is faster: {'; '.join(behind)}."


def dates(result: dict[str, Any]) -> list[str]:
    """When the parts were measured."""
    found = {part["date"] for part in result.values() if isinstance(part, dict) and "date" in part}
    return sorted(found)


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0]).parse_args()
    result = json.loads((RESULTS / "peers.json").read_text(encoding="utf-8"))
    machine = result["machine"]
    flags = f"{machine['cores']} cores of an {machine['processor']}, {machine['platform']}, Python {machine['python']}"
    peers = ", ".join(f"{name} {version}" for name, version in result["peers"].items())
    gates = "\n".join(f"- {'met' if held else '**missed**'}: {gate}" for gate, held in result["gates"].items())
    blocks = [
        "# ResNet-50 compared with other libraries",
        "Written by `python -m benchmarks.peers_table`; measured by `python -m benchmarks.peers PHOTOS`, which "
        "installs them. All use the same weights and processor. Each is a process of its own, and they take turns.",
        f"Measured on {' and '.join(dates(result))} on {flags}. Versions: {peers}.",
        "Each batch size, and each of the later tables, was measured in a run of its own: compare within it only. The "
        "weights are random, so accuracy was not measured. onnxruntime is called directly on our graphs, "
        "openvino on our FP32 graphs and, in INT8, on graphs quantized by NNCF. torch.compile uses "
        "channels_last and freezing. The input of torch is normalised float32, that of the others uint8 images.",
        *inference(result),
        *pictures(result),
        *start(result),
        "## Goals",
        gates,
    ]
    TARGET.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
