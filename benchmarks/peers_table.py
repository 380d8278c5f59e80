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
from benchmarks.peer_programs.arguments import precision

FILES = ("peers.json", "peers-amx.json")
"""Results of a machine without AMX, and of one with it."""
TARGET = RESULTS.parent.parent / "docs" / "peers.md"
BATCHES = {"batch1": "batch 1", "batch8": "batch 8", "batch32": "batch 32"}
PRECISIONS = {
    "FP32": "Computed in float32",
    "bf16": "Computed in bfloat16, which is OpenVINO's default where the processor has it, and ours only by name",
    "INT8": "INT8",
}
OURS = "resnet-infer"
NEAR = 1.05
"""Up to this ratio two figures are called even: so much do rounds of the same thing differ."""


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
    """How what is taken unasked, and bfloat16 by name, compare with the fastest peer of their precision."""
    yield (
        "Time of resnet-infer as a multiple of that of the fastest peer of the same precision, with its 95% confidence "
        f"interval. The goal is that the upper end is at most {NEAR}."
    )
    rows = []
    for part, title in parts.items():
        for subject in subjects:
            row = result[part][subject]
            if "ratio" not in row:
                continue
            low, high = row["interval"]
            verdict = "met" if high <= NEAR else "**missed**" if low > NEAR else "undecided"
            rows.append([subject, title, row["fastest peer"], f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})", verdict])
    yield table(("", "batch", "fastest peer", "multiple", "goal"), rows)


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


def of_machine(result: dict[str, Any]) -> Iterator[str]:
    """The part of the page about one machine."""
    machine = result["machine"]
    flags = f"{machine['cores']} cores of an {machine['processor']}, {machine['platform']}, Python {machine['python']}"
    peers = ", ".join(f"{name} {version}" for name, version in result["peers"].items())
    yield f"Measured on {' and '.join(dates(result))} on {flags}. Versions: {peers}."
    yield from inference(result)
    yield from pictures(result)
    yield from start(result)
    yield "## Goals"
    yield "Those of inference alone are in its table."
    goals = {gate: held for gate, held in result["gates"].items() if not gate.startswith("batch")}
    yield "\n".join(f"- {'met' if held else '**missed**'}: {gate}" for gate, held in goals.items())


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0]).parse_args()
    found = [json.loads(path.read_text(encoding="utf-8")) for name in FILES if (path := RESULTS / name).exists()]
    blocks = [
        "# ResNet-50 compared with other libraries",
        "Written by `python -m benchmarks.peers_table`; measured by `python -m benchmarks.peers PHOTOS`, which "
        "installs them. All use the same weights and processor. Each is a process of its own, and they take turns.",
        "Each batch size, and each of the later tables, was measured in a run of its own: compare within it only. The "
        "weights are random, so accuracy was not measured. onnxruntime is called directly on our graphs and on one of "
        "its own quantize_static in its default form (QDQ, signed activations; `benchmarks/int8.py` measures the "
        "faster unsigned one), openvino on our FP32 graph and, in INT8, on one quantized by NNCF; optimum is "
        "OpenVINO through optimum-intel. torch.compile uses channels_last and freezing, and bfloat16 is torch's "
        "autocast. The input of torch and optimum is normalised float32, that of the others uint8 images. "
        "resnet-infer FP32 and INT8 are what `--runtime auto` takes for a service.",
        *(block for result in found for block in of_machine(result)),
    ]
    if len(found) < len(FILES):
        blocks.append(
            f"A processor with AMX has not been measured. There the command writes `{FILES[1]}`, and this page."
        )
    TARGET.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
