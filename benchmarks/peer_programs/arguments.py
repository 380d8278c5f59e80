"""The arguments that the programs of one subject have in common."""

from __future__ import annotations

import argparse


def subject_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser of SUBJECT and the files that `benchmarks.peers` has for all of them."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("subject", metavar="SUBJECT", help="name as in `benchmarks.peers`")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=".safetensors")
    parser.add_argument("artifact", metavar="ARTIFACT", help=".onnx in FP32")
    parser.add_argument("int8", metavar="INT8-ARTIFACT", help=".onnx in INT8")
    parser.add_argument("folder", metavar="FOLDER", help="what `make_models` wrote")
    return parser


def add_geometry(parser: argparse.ArgumentParser) -> None:
    """Add RESIZE (pixels), MEAN and STD (three numbers each, of values from 0 to 1), and the photos."""
    parser.add_argument("resize", metavar="RESIZE", type=int)
    parser.add_argument("mean", metavar="MEAN,MEAN,MEAN", type=_numbers)
    parser.add_argument("std", metavar="STD,STD,STD", type=_numbers)
    parser.add_argument("photos", metavar="PHOTO", nargs="+")


def _numbers(text: str) -> list[float]:
    return [float(value) for value in text.split(",")]


def precision(subject: str) -> str:
    """Return what a subject computes in, by its name: FP32, bf16 or INT8."""
    return next((name for name in ("FP32", "bf16", "INT8") if name in subject), "FP32")
