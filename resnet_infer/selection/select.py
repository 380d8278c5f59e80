"""Choose the runtime of an artifact where `auto` was asked for: by the machine profile, else by the rules.

One image from the command line does not come here: the default runtime starts soonest. Neither do `evaluate`,
`compare` and the checks of exports, whose figures must not depend on the machine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from resnet_infer.errors import ModelError, ResnetInferError
from resnet_infer.runtimes.base import Runtime, parse_device
from resnet_infer.runtimes.registry import RUNTIMES, RuntimeInfo, get_runtime, open_runtime, select_runtime
from resnet_infer.selection.machine import Model, may_use_gpu
from resnet_infer.selection.rules import Situation, Use, find_rule, missing_rule
from resnet_infer.utils import cpu
from resnet_infer.utils.console import logger, note, warn

_LOG = logger(__name__)


@dataclass(frozen=True)
class Choice:
    """Hold the runtime for an artifact, and why.

    - `runtime`: the runtime's name. `is_default`: it is the one that opens such a file by default.
    - `reason`: why, for people, and `by`: what decided. What is not `default` is worth a line in a log.
    - `missing`: what would be faster here if it were installed, None if nothing is known to be.
    """

    runtime: str
    reason: str
    is_default: bool = True
    missing: str | None = None
    by: Literal["default", "profile", "rule", "proof"] = "default"

    def log(self) -> list[str]:
        """Return the lines that the log of a service says of it: none if it is the default and nothing is missing."""
        why = [] if self.by == "default" else [f"{self.runtime} answers: {self.reason}"]
        return [*why, *([self.missing] if self.missing else [])]


@dataclass(frozen=True)
class Work:
    """Describe what an artifact is opened for.

    - `use`: one image at a time, many in parallel, or a service.
    - `batch`: most images in a call, None if it is not known.
    - `device`, `compute`: the values of the options of these names.
    - `images`: number of images that will come, None if it is not known.
    """

    use: Use
    batch: int | None = None
    device: str | int = "auto"
    compute: str = "auto"
    images: int | None = None


def choose(path: Path, work: Work) -> Choice:
    """Return the runtime for the artifact at `path`, after its proof (see `proof`).

    A file that is missing or damaged has the default, which says so when it opens it. Raises what `select_runtime`
    raises.

        choice = choose(Path("model.onnx"), Work("service", batch=8))
        runtime = open_runtime(path, runtime=choice.runtime, threads=1)
    """
    choice, model = _propose(path, work)
    if choice.is_default or model is None:
        return _told(path, choice)
    opened, choice = _opened(model, choice, work, None, True)
    if opened:
        opened.close()
    return _told(path, choice)


def open_chosen(path: Path, work: Work, *, threads: int | None = None, say: bool = True) -> tuple[Runtime, Choice]:
    """Open the artifact at `path` with the runtime of `choose`, and return it with the choice.

    The runtime that answers is the one that was proved: nothing is opened twice. Raises what `open_runtime` raises for
    the default runtime. Another one that cannot be opened gives way to the default, with a warning. Without `say` there
    is no note that another one answers from now on.
    """
    choice, model = _propose(path, work)
    opened: Runtime | None = None
    if not choice.is_default and model is not None:
        opened, choice = _opened(model, choice, work, threads, say)
    _told(path, choice)
    return opened or open_runtime(path, device=work.device, threads=threads), choice


def _propose(path: Path, work: Work) -> tuple[Choice, Model | None]:
    """Return what the profile or the rules say, before any proof, and the model if it was read."""
    default = select_runtime(path)
    usual = Choice(default.name, f"it is the default for {path.suffix.lower()} files")
    others = [row for row in RUNTIMES if row is not default and _is_able(row, path)]
    if not others or "cpu" not in default.devices:
        return usual, None
    device, _ = parse_device(work.device)
    if device == "cuda":
        return replace(usual, reason=f"the device {work.device} was named"), None
    if device == "auto" and may_use_gpu():
        return replace(usual, reason="the installed ONNX Runtime may use a GPU"), None
    try:
        model = Model(path)
    except ModelError:  # opening it says what is wrong
        return usual, None
    if found := _from_profile(model, work, usual):
        return found, model
    situation = Situation(
        frozenset(cpu.flags()),
        model.spec.precision,
        work.use,
        path.suffix.lower(),
        work.compute,
        model.stem,
        work.images,
    )
    rule = find_rule(situation)
    lacking = missing_rule(situation)
    if rule is None:
        return replace(usual, missing=lacking.advice() if lacking else None), model
    reason = f"by the rules it is faster on this processor: {rule.measured}"
    return Choice(rule.runtime, reason, is_default=rule.runtime == default.name, by="rule"), model


def _is_able(row: RuntimeInfo, path: Path) -> bool:
    """Return whether a runtime opens the file and computes several calls side by side on a CPU."""
    return row.offered and row.opens(path.suffix.lower()) and "cpu" in row.devices and row.parallel


def _from_profile(model: Model, work: Work, usual: Choice) -> Choice | None:
    """Return the choice by the machine profile; None if it says nothing."""
    from resnet_infer.selection.profile import best_known

    best = best_known(model, work.batch, use=work.use, compute=work.compute)
    if best is None:
        return None
    measured = f"batch {best.batch}, {best.timing.streams} side by side: {best.timing.ms:.3g} ms"
    if best.timing.runtime == usual.runtime:
        return replace(usual, reason=f"it was measured to be fastest here ({measured})", by="profile")
    if work.use == "many" and not best.worthwhile(work.images):
        return replace(usual, reason=f"{best.timing.runtime} is faster here, but not for so few pictures")
    reason = f"it was measured to be {best.ratio:.2f} times as fast as {usual.runtime} here ({measured})"
    return Choice(best.timing.runtime, reason, is_default=False, by="profile")


def _opened(model: Model, choice: Choice, work: Work, threads: int | None, say: bool) -> tuple[Runtime | None, Choice]:
    """Open the runtime of a choice and prove it. Return None and the default's choice if either fails."""
    default = select_runtime(model.path).name
    other = get_runtime(choice.runtime)
    opened: Runtime | None = None
    try:
        from resnet_infer.selection.proof import prove

        more = {} if work.compute == "auto" else {"compute": work.compute}
        opened = open_runtime(model.path, runtime=other.name, device="cpu", threads=threads, **more)
        proof = prove(model, opened, compute=work.compute)
    except ResnetInferError as error:
        if opened:
            opened.close()
        warn(f"{other.name}, which would be faster here, cannot be used: {error.message}; so {default} answers")
        return None, Choice(default, f"{other.name} cannot be used: {error.message}", by="proof")
    if not proof.failures:
        if proof.fresh and say:
            note(
                f"{other.name} answers for {model.path.name} from now on; {choice.reason}. It agrees with {default} "
                f"on 16 pictures; --runtime {default} keeps to that one"
            )
        return opened, choice
    opened.close()
    differs = "; ".join(proof.failures)
    warn(
        f"{other.name} does not answer for {model.path.name} as {default} does, so {default} answers "
        f"(--runtime {default} leaves out this comparison): {differs}"
    )
    return None, Choice(default, f"{other.name} answers otherwise: {differs}", by="proof")


def _told(path: Path, choice: Choice) -> Choice:
    """Log a choice for `--verbose`, and return it."""
    _LOG.debug("%s: the runtime is %s: %s", path, choice.runtime, choice.reason)
    if choice.missing:
        _LOG.debug("%s", choice.missing)
    return choice
