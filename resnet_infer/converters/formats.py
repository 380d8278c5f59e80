"""List the formats that `export` writes. A format is a row of `FORMATS`, and a module that writes and proves its files.

The command's choices and options, and the steps of `export`, are read from the row.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

from resnet_infer.errors import UsageError, did_you_mean
from resnet_infer.models.spec import Precision
from resnet_infer.runtimes.registry import load
from resnet_infer.utils.files import suffix_of

if TYPE_CHECKING:
    from resnet_infer.converters.config import ExportConfig
    from resnet_infer.converters.precision.lower import Lowered
    from resnet_infer.converters.precision.placement import Target

Evidence = dict[str, Any]
"""Results of a step by the key of the command's JSON output."""


@dataclass(frozen=True)
class Option:
    """Describe an option of `export` that not every format has.

    `name` is the option's name with underscores. A "flag" has no value, an "int" lies from `least` to `most`, and a
    "path" names a file. `metavar` stands for the value in the help.
    """

    name: str
    kind: Literal["flag", "int", "path"]
    help: str
    metavar: str | None = None
    least: int | None = None
    most: int | None = None


@dataclass(frozen=True)
class Format:
    """Describe one format of artifacts.

    - `name`: value of `--format`.
    - `suffix`: suffix of the file, with its dot. A runtime opens it (`runtimes.registry`).
    - `extra`: optional dependency group that the export needs.
    - `precisions`: precisions that the format has.
    - `targets`: accepted values of `--target`, the first being the default.
    - `options`: options of the command that the format has.
    - `write`: "module:function" that writes the file. It takes the lowered graph, the path to write to and the
      `ExportConfig`, and returns `Evidence`.
    - `prove`: "module:function" that compares the written file with the graph that it was made from. It takes the same,
      returns `Evidence`, and raises `ParityError` if the answers differ.
    - `check`: "module:function" that raises an error if the `ExportConfig` cannot be met here. It is called before
      anything slow.
    - `companion`: name of a file that is written beside the artifact, made of the artifact's `{name}` or `{stem}`.
    - `spellings`: other values of `--format` that mean this one, in small letters.
    """

    name: str
    suffix: str
    extra: str
    precisions: tuple[Precision, ...]
    targets: tuple[Target, ...]
    options: tuple[Option, ...]
    write: str
    prove: str
    check: str | None = None
    companion: str | None = None
    spellings: tuple[str, ...] = ()

    def check_config(self, config: ExportConfig) -> None:
        """Check the settings for this format, and that the packages it needs are there.

        Raises `UsageError`, `MissingExtraError` and the errors of the row's `check`.
        """
        if config.precision not in self.precisions:
            raise UsageError(
                f"--format {self.name} has no precision {config.precision}", hint=f"it has {', '.join(self.precisions)}"
            )
        if config.target is not None and config.target not in self.targets:
            raise UsageError(f"--format {self.name} is for the target {', '.join(self.targets)}, not {config.target}")
        check_options(self, config.options)
        for step in (self.write, self.prove):
            load(step)
        if self.check:
            load(self.check)(config)

    def write_file(self, lowered: Lowered, path: Path, config: ExportConfig) -> Evidence:
        """Write the lowered graph to `path`, and its companion beside it."""
        evidence: Evidence = load(self.write)(lowered, path, config)
        return evidence

    def prove_file(self, lowered: Lowered, path: Path, config: ExportConfig) -> Evidence:
        """Compare the written file with the graph that it was made from. Raises `ParityError` if the answers differ."""
        evidence: Evidence = load(self.prove)(lowered, path, config)
        return evidence

    def companion_of(self, path: Path) -> Path | None:
        """Return the path of the file that belongs beside the artifact at `path`, or None.

        >>> get_format("tensorrt").companion_of(Path("model.engine"))
        PosixPath('model.engine.json')
        """
        return path.with_name(self.companion.format(name=path.name, stem=path.stem)) if self.companion else None

    def require_free(self, path: Path, inputs: Iterable[Path | str | None], option: str) -> None:
        """Check that `path`, and the file that belongs beside it, may be written without harm.

        Raises `UsageError`, with the name of the `option` that gave the path, if one of them is an input or is not part
        of an artifact, or if the path is a link to an artifact whose second file would not be replaced with it. Raises
        `ResnetInferError` if nothing can be written there.
        """
        from resnet_infer.errors import ModelError
        from resnet_infer.models.outputs import Output, has_spec, require_free
        from resnet_infer.runtimes.artifacts import read_spec

        def ours(_: Path) -> bool:
            """Tell whether the artifact that would be replaced has a spec."""
            if path.is_file() and path.stat().st_size and has_spec(path):
                return True
            try:
                return bool(read_spec(path))
            except ModelError:
                return False

        outputs = [Output(option, path, "artifact", ours)]
        companion = self.companion_of(path)
        if companion:
            outputs.append(Output(option, companion, f"part of {path.name}", ours))
        require_free(outputs, inputs)
        real = Path(os.path.realpath(path))
        partner = self.companion_of(real)
        if companion and partner and partner.exists() and os.path.realpath(companion) != os.path.realpath(partner):
            raise UsageError(
                f"{path} is a link to {real}, and {companion.name} none to {partner.name}: the two would no longer fit",
                hint=f"name {real} with {option}, or link both files",
            )


_ALL: tuple[Precision, ...] = get_args(Precision)
_DYNAMIC_SIZE = Option("dynamic_size", "flag", "Leave the height and width of the input open, for multi-scale testing.")

ROWS = (
    Format(
        name="onnx",
        suffix=".onnx",
        extra="export",
        precisions=_ALL,
        targets=("cpu", "tensorrt"),
        options=(_DYNAMIC_SIZE,),
        write="resnet_infer.converters.onnx:write",
        prove="resnet_infer.converters.onnx:prove",
    ),
    Format(
        name="tensorrt",
        suffix=".engine",
        extra="tensorrt",
        precisions=_ALL,
        targets=("tensorrt",),
        options=(
            Option("min_batch", "int", "For TensorRT: smallest batch; default: 1.", least=1),
            Option("opt_batch", "int", "For TensorRT and --target auto: batch to optimize for; default: 8.", least=1),
            Option("max_batch", "int", "For TensorRT: largest batch; default: 64.", least=1),
            Option(
                "workspace",
                "int",
                "For TensorRT: memory that a layer may use while it is built and run.",
                "MB",
                least=1,
            ),
            Option("optimization_level", "int", "For TensorRT: 0 builds fastest, 5 runs fastest.", least=0, most=5),
            Option("version_compatible", "flag", "For TensorRT: let newer versions of TensorRT run the engine."),
            Option("hardware_compatible", "flag", "For TensorRT: let every GPU from Ampere on run the engine."),
            Option(
                "timing_cache",
                "path",
                "For TensorRT: keep the times of kernels in this file, for the next build.",
                "FILE",
            ),
        ),
        write="resnet_infer.converters.tensorrt.export:write",
        prove="resnet_infer.converters.tensorrt.export:prove_file",
        check="resnet_infer.converters.tensorrt.export:check",
        companion="{name}.json",
        spellings=("trensorrt", "trt", "engine", "plan"),
    ),
    Format(
        name="openvino",
        suffix=".xml",
        extra="openvino",
        precisions=_ALL,
        targets=("cpu",),
        options=(_DYNAMIC_SIZE,),
        write="resnet_infer.converters.openvino:write",
        prove="resnet_infer.converters.openvino:prove",
        companion="{stem}.bin",
        spellings=("ov", "ir"),
    ),
)
"""Every format, in the order of the help. The first is the default."""

FORMATS: Mapping[str, Format] = MappingProxyType({row.name: row for row in ROWS})
"""Format of each value of `--format`."""
SPELLINGS: Mapping[str, str] = MappingProxyType({name: row.name for row in ROWS for name in row.spellings})
"""Other spelling of a format, in small letters -> the format. It is accepted with a note by the command."""


def get_format(name: str) -> Format:
    """Return the format called `name`. Raises `UsageError`, which suggests a similar name, if there is none.

    >>> get_format("tensorrt").suffix
    '.engine'
    """
    if name not in FORMATS:
        raise UsageError(
            f"unknown format {name!r}" + did_you_mean(name, FORMATS), hint=f"known are {', '.join(FORMATS)}"
        )
    return FORMATS[name]


def format_of(path: Path) -> Format:
    """Return the format of the file `path` by its suffix. Raises `UsageError` for a suffix that no format has.

    >>> format_of(Path("model.onnx")).name
    'onnx'
    """
    for row in ROWS:
        if row.suffix == suffix_of(path):
            return row
    known = " or ".join(row.suffix for row in ROWS)
    raise UsageError(
        f"no format ends in {path.suffix}: {path}" if path.suffix else f"{path} has no suffix",
        hint=f"an artifact ends in {known}",
    )


def known_options() -> tuple[Option, ...]:
    """Return the options of all formats, each once, in the order of the rows."""
    return tuple({option.name: option for row in ROWS for option in row.options}.values())


def known_precisions() -> tuple[Precision, ...]:
    """Return the precisions that any format has, the highest first."""
    return tuple(name for name in _ALL if any(name in row.precisions for row in ROWS))


def known_targets() -> tuple[Target, ...]:
    """Return the targets that any format has, in the order of the rows."""
    return tuple(dict.fromkeys(target for row in ROWS for target in row.targets))


def check_options(chosen: Format, given: Collection[str]) -> None:
    """Check that the format `chosen` has the options that were given, by names as in `Option.name`.

    Raises `UsageError` for an option that belongs to another format, or to none.
    """
    own = {option.name for option in chosen.options}
    for name in sorted(set(given) - own):
        others = [row.name for row in ROWS if any(option.name == name for option in row.options)]
        if not others:
            known = [option.name for option in known_options()]
            raise UsageError(f"export has no option {name!r}" + did_you_mean(name, known))
        flag = f"--{name.replace('_', '-')}"
        raise UsageError(f"{flag} is an option of --format {' and '.join(others)}, not of {chosen.name}")
