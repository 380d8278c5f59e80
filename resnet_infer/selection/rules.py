"""List on which processors another runtime than the default is faster, with the measurement behind each rule.

No runtime and no numpy is imported: `env` reads this table where packages may be broken. A machine profile (`profile`),
which was measured on the machine itself, goes before the table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from resnet_infer.runtimes.registry import get_runtime
from resnet_infer.utils.extras import install_command

Use = Literal["single", "many", "service"]
"""What a model is opened for: one image at a time, many images in parallel, or requests of a service."""
USES: tuple[Use, ...] = get_args(Use)


@dataclass(frozen=True)
class Situation:
    """Describe the work that a runtime is chosen for.

    - `flags`: instruction sets of the processor, as `utils.cpu.flags` returns them.
    - `precision`: precision of the artifact: `fp32`, `fp16` or `int8`.
    - `use`: what the model is opened for.
    - `suffix`: suffix of the artifact.
    - `compute`: what float layers compute in, `auto` where it was not named.
    - `stem`: kind of the network's first layers, `imagenet` or `cifar`; None for a graph of another program.
    - `images`: number of images that will come, None if it is not known.
    """

    flags: frozenset[str]
    precision: str
    use: Use
    suffix: str = ".onnx"
    compute: str = "auto"
    stem: str | None = None
    images: int | None = None


@dataclass(frozen=True)
class Rule:
    """Say that `runtime` is faster than the default runtime in some situations.

    - `flags`: instruction sets that the processor has, all of them; `without`: those of which it has none.
    - `precisions`, `uses`, `computes`, `suffixes`, `stems`: values of a `Situation` that the rule covers.
    - `images`: fewest images for the use `many`: for fewer, the longer start takes more than the answers save.
    - `ratio`: how many times as fast as the default runtime its calls were, the least of the measurements.
    - `measured`: what was measured, and where.
    """

    runtime: str
    flags: frozenset[str]
    without: frozenset[str]
    precisions: tuple[str, ...]
    uses: tuple[Use, ...]
    images: int
    ratio: float
    measured: str
    computes: tuple[str, ...] = ("auto", "fp32")
    suffixes: tuple[str, ...] = (".onnx",)
    stems: tuple[str | None, ...] = ("imagenet", None)

    def covers(self, situation: Situation) -> bool:
        """Return whether the rule holds in a situation.

        >>> amx = frozenset({"amx_int8", "avx512_vnni"})
        >>> RULES[0].covers(Situation(amx, "int8", "service", stem="imagenet"))
        True
        >>> RULES[0].covers(Situation(amx, "int8", "single", stem="imagenet"))
        False
        """
        return (
            self.suits(situation.flags)
            and situation.precision in self.precisions
            and situation.use in self.uses
            and situation.compute in self.computes
            and situation.suffix in self.suffixes
            and situation.stem in self.stems
            and (situation.use != "many" or situation.images is None or situation.images >= self.images)
        )

    def suits(self, flags: frozenset[str]) -> bool:
        """Return whether the rule is about a processor with these instruction sets."""
        return self.flags <= flags and not self.without & flags

    @property
    def is_installed(self) -> bool:
        """Whether the packages of its runtime are there. None is imported."""
        return get_runtime(self.runtime).is_installed

    @property
    def install(self) -> str:
        """The command that installs its runtime."""
        extra = get_runtime(self.runtime).extra
        return install_command(extra) if extra else ""

    def advice(self) -> str:
        """Return what would be faster here, by how much it was where that was measured, and how to install it."""
        return (
            f"with the runtime {self.runtime}, {' and '.join(self.precisions).upper()} models answer faster on this "
            f"processor: {self.measured}; to install it: {self.install}"
        )


RULES: tuple[Rule, ...] = (
    Rule(
        "openvino",
        flags=frozenset({"amx_int8"}),
        without=frozenset(),
        precisions=("int8",),
        uses=("many", "service"),
        images=100,
        ratio=2.2,
        measured="2.2 times as fast at batch 1 and 2.7 at batch 8 (ResNet-50, two cores of an Intel server with AMX: "
        "10.5 and 70.7 ms with onnxruntime, 4.7 and 26.0 ms with openvino)",
    ),
    Rule(
        "openvino",
        flags=frozenset({"avx512_vnni"}),
        without=frozenset({"amx_int8"}),
        precisions=("int8",),
        uses=("many", "service"),
        images=1000,
        ratio=1.07,
        measured="1.07 times as fast at batch 8 and 1.08 at batch 1, 1.04 in a service with 16 clients and 1.03 on 984 "
        "files (ResNet-50, two cores of an AMD EPYC)",
    ),
)
"""Rules in the order in which they count: the first that covers a situation and whose runtime is installed.

FP32 has no rule: on the Intel server the two were within 6% of each other (30.3 and 210 ms with onnxruntime, 31.8 and
222 ms with openvino), on the AMD EPYC within 4% (39.8 and 318 ms, 38.6 and 320 ms). Fewer than 1000 images in INT8 with
VNNI take as long with either, the start of OpenVINO included.
"""


def find_rule(situation: Situation, rules: Iterable[Rule] | None = None) -> Rule | None:
    """Return the first of `rules` (default: `RULES`) that covers a situation and whose runtime is installed."""
    return next((rule for rule in _all(rules) if rule.covers(situation) and rule.is_installed), None)


def missing_rule(situation: Situation, rules: Iterable[Rule] | None = None) -> Rule | None:
    """Return the first rule that covers a situation if its runtime is not installed; None if it is, or there is none.

    Its `advice` tells what to install.
    """
    found = next((rule for rule in _all(rules) if rule.covers(situation)), None)
    return found if found and not found.is_installed else None


def missing_for(flags: frozenset[str], rules: Iterable[Rule] | None = None) -> list[Rule]:
    """Return the rules for a processor with these instruction sets whose runtimes are not installed."""
    return [rule for rule in _all(rules) if rule.suits(flags) and not rule.is_installed]


def _all(rules: Iterable[Rule] | None) -> Iterable[Rule]:
    """Return the rules given, or the table as it is now."""
    return RULES if rules is None else rules
