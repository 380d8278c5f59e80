"""Compare, evaluate and time models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, overload

from resnet_infer.api.arguments import PathText, check_options, check_value, named, optional_path, path_of
from resnet_infer.api.options import BenchmarkOptions, CompareOptions, EvaluateOptions, ScenarioOptions
from resnet_infer.api.wording import in_python
from resnet_infer.errors import UsageError

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from resnet_infer.api.arguments import Model
    from resnet_infer.benchmarking.latency.measured import Benchmark
    from resnet_infer.benchmarking.load.scenario import Outcome
    from resnet_infer.evaluation.result import Evaluation
    from resnet_infer.runtimes.base import Runtime
    from resnet_infer.verification.comparison import Comparison
    from resnet_infer.verification.parity import Predict64
    from resnet_infer.verification.tolerances import Verdict

HELD_OUT = ("val", "test")
"""Splits of a data set to compare on by default, in order of preference."""
PICTURES = 128
"""Images to compare on by default."""


@in_python()
def compare(
    model: Model, reference: Model, data: PathText | None = None, **options: Unpack[CompareOptions]
) -> Verdict[Comparison]:
    """Compare the logits of two models on the same images, and judge whether they differ by more than the limits.

    - `model`, `reference`: names, paths or loaded checkpoints. A built-in model stands for its checkpoint as the
      reference.
    - `data`: images: a folder, archive or data set; default: synthetic ones. `pictures` is their number (128).
    - `tolerance`: largest accepted difference of a logit, as a fraction of the standard deviation of the reference's
      logits; default: limits for the lower precision of the two.

    The verdict's `measured` has the figures, and `passed` and `failures` the judgement. Raises `UsageError` for models
    that cannot be compared, `ModelError`, and `DataError` for images that cannot be used.

    >>> from resnet_infer import compare
    >>> verdict = compare("resnet20-cifar10", "resnet20-cifar10", pictures=8)
    >>> verdict.passed, verdict.measured.agreement
    (True, 1.0)
    """
    from functools import partial

    from resnet_infer import zoo
    from resnet_infer.data.feed import open_feed
    from resnet_infer.verification import comparison as comparing
    from resnet_infer.verification.tolerances import Tolerance

    check_options("compare", options, CompareOptions)
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    tolerance, split = given.get("tolerance"), given.get("split")
    limits = None if tolerance is None else Tolerance(delta=tolerance)
    source = optional_path("data", data)
    if split is not None and source is None:
        raise UsageError("a split is of data, which is not given", hint="give a data set, or leave split out")
    chosen = [given.get(name, "auto") for name in ("runtime", "device", "reference_runtime", "reference_device")]
    with named(model, reference) as (name, other):
        if other in zoo.BUILT_IN:
            other = str(zoo.checkpoint_file(other))
        with open_side(name, *chosen[:2]) as first, open_side(other, *chosen[2:]) as second:
            comparing.require_comparable(first.spec, second.spec)
            pictures = partial(open_feed, source, second.spec, split=split, prefer=HELD_OUT)
            feed = pictures(seed=given.get("seed", 0), count=given.get("pictures", PICTURES))
            exact = exact_reference(other) if comparing.lower_precision(first, second) == "fp32" else None
            return comparing.compare(first, second, feed, limits=limits, exact=exact)


def open_side(model: str | None, runtime: str, device: str) -> Runtime:
    """Open a model to compare: with a named runtime, an artifact with its own, a checkpoint with the reference's."""
    from resnet_infer import zoo
    from resnet_infer.models.checkpoint import SUFFIX, load_checkpoint
    from resnet_infer.runtimes.base import parse_device
    from resnet_infer.runtimes.registry import open_runtime, select_runtime
    from resnet_infer.utils.files import suffix_of

    path = zoo.find(model) if runtime == "auto" else zoo.file_for(model, runtime)
    if suffix_of(path) == SUFFIX and runtime == "auto":
        if parse_device(device)[0] == "cuda":
            return open_runtime(path, device=device)
        from resnet_infer.verification.parity import reference_runtime

        return reference_runtime(load_checkpoint(path))[0]
    # Spinning threads would take the cores from the other model.
    options: dict[str, Any] = {"spin": False} if "spin" in select_runtime(path, runtime).options else {}
    return open_runtime(path, runtime=runtime, device=device, **options)


def exact_reference(model: str | None) -> Predict64 | None:
    """Return a function that computes the model in float64; None for an engine, which has no graph."""
    from resnet_infer import zoo
    from resnet_infer.models.checkpoint import SUFFIX, load_checkpoint
    from resnet_infer.utils.files import suffix_of
    from resnet_infer.verification.parity import exact_graph, exact_network

    path = zoo.find(model)
    if suffix_of(path) == SUFFIX:
        return exact_network(load_checkpoint(path))
    return exact_graph(path) if suffix_of(path) == ".onnx" else None


@in_python()
def evaluate(
    models: Model | Sequence[Model], data: PathText, *, reference: Model = None, **options: Unpack[EvaluateOptions]
) -> Evaluation:
    """Measure the error of one or several models on labelled images.

    - `models`: a name, path or loaded checkpoint, or a list of them. "torch:NAME" runs a model by torch.
    - `data`: CIFAR, ImageNet, Tiny ImageNet, a folder or archive of class folders, or a CSV with the columns path and
      label.
    - `reference`: another model, which the others are compared with, by McNemar's test.
    - `protocols`: how views are cut, such as "1-crop" or "10-crop"; default: the one that fits the model.
    - `answers`: a file that keeps answers as they come. With `resume=True` an evaluation of the same models, images and
      protocols continues from it.

    Raises `UsageError` for options that do not fit, `ModelError`, `DataError` for data without labels or other classes,
    `PictureError` for an image that cannot be read (unless `skip_unreadable`), and `ServiceError` with a `url`.

    >>> from resnet_infer import evaluate
    >>> found = evaluate("resnet20-cifar10", "vehicles")
    >>> found.pictures, found.results[0].top1.error  # percent
    (16, 0.0)
    """
    check_options("evaluate", options, EvaluateOptions)
    source = path_of("data", data)
    from resnet_infer.evaluation.config import EvaluationConfig
    from resnet_infer.evaluation.evaluate import evaluate as measure

    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    given["answers"] = optional_path("answers", given.get("answers"))
    with named(*_models(models), reference) as (*names, other):
        return measure(names, source, EvaluationConfig(**given, reference=other))


def _models(models: object) -> list[Any]:
    """Return a list of models, of which one alone may be given."""
    from resnet_infer.models.checkpoint import Checkpoint

    single = models is None or isinstance(models, (str, bytes, bytearray, PathLike, Checkpoint))
    return [models] if single or not isinstance(models, Iterable) else list(models)


@overload
def benchmark(
    models: Model | Sequence[Model] = None, *, scenario: None = None, **options: Unpack[BenchmarkOptions]
) -> Benchmark: ...


@overload
def benchmark(models: Model = None, *, scenario: str, **options: Unpack[ScenarioOptions]) -> Outcome: ...


@in_python()
def benchmark(models: Any = None, *, scenario: str | None = None, **options: Any) -> Benchmark | Outcome:
    """Time models side by side, each in a process of its own, or put one under load.

    - `models`: a name, path or loaded checkpoint, or a list of them; None is the default model.
    - `batch_size`, `threads`: a number, or a list of numbers that are all tried.
    - `scenario`: "closed-loop", "open-loop", "sweep", or one of MLPerf's LoadGen ("single-stream", "multi-stream",
      "server", "offline"). The options are then those of a load: `rates`, `clients`, `url`, `data`, `seconds`, ...
    - `rounds`, `seconds`: how often each model has its turn (20), and for how long each stage is called (0.2 s).

    Raises `UsageError` for options that do not fit, `ModelError`, and `RuntimeUnavailableError` where no processes can
    be started.

    >>> from resnet_infer import benchmark
    >>> found = benchmark("resnet20-cifar10", batch_size=8, threads=1, rounds=2, seconds=0.01)
    >>> [entry.entry.batch for entry in found.measured], len(found.failed)
    ([8], 0)
    """
    check_value("scenario", scenario, str | None)
    if scenario is not None:
        return _under_load(models, scenario, options)
    check_options("benchmark", options, BenchmarkOptions)
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    from resnet_infer.benchmarking.environment import environment, warnings
    from resnet_infer.benchmarking.latency.measured import Benchmark
    from resnet_infer.benchmarking.latency.paired_run import Settings, measure
    from resnet_infer.benchmarking.latency.subjects import entries, photographs, synthetic

    settings = Settings(**{name: given[name] for name in ("rounds", "seconds") if name in given})
    photos = optional_path("photos", given.get("photos"))
    with named(*_models(models)) as names:
        rows = entries(
            names,
            _several(given.get("batch_size", 1)),
            runtime=given.get("runtime", "auto"),
            device=given.get("device", "auto"),
            threads=_several(given.get("threads")),
            compute=given.get("compute", "auto"),
        )
        machine = environment()
        pictures = photographs(photos) if photos else synthetic()
        measured = measure(rows, pictures, settings)
    return Benchmark(measured, pictures, settings.rounds, settings.seconds, machine, warnings(machine))


def _under_load(model: Any, scenario: str, options: dict[str, Any]) -> Outcome:
    """Run a scenario on one model."""
    check_options("benchmark with a scenario", options, ScenarioOptions)
    from resnet_infer.benchmarking.scenarios import Scenario, run_scenario

    several = _models(model)
    if len(several) != 1:
        raise UsageError("a scenario is run on one model")
    given = {name: value for name, value in options.items() if value is not None}
    paths: dict[str, Any] = {name: path_of(name, given.pop(name)) for name in ("data", "output") if name in given}
    if "rates" in given:
        given["rates"] = tuple(given["rates"])
    with named(several[0]) as (name,):
        return run_scenario(Scenario(scenario, model=name, **given, **paths))


def _several(given: Any) -> tuple[Any, ...]:
    """Return a number, or None, as a tuple of one, and a list as a tuple."""
    return tuple(given) if isinstance(given, Iterable) else (given,)
