"""Implement `resnet-infer serve`."""

from __future__ import annotations

import errno
import inspect
import ipaddress
import os
import socket
import tempfile
from collections.abc import Callable
from copy import copy
from dataclasses import fields
from pathlib import Path
from typing import Annotated, get_args

import typer

from resnet_infer.cli.options import Compute, Device, ModelArgument, Runtime, introduce_default
from resnet_infer.cli.parsing import MOST
from resnet_infer.errors import ResnetInferError, UsageError
from resnet_infer.serving.settings import Settings, load_keys, variable
from resnet_infer.utils.console import note
from resnet_infer.utils.extras import needs
from resnet_infer.utils.threads import MOST_THREADS

EXAMPLES = ("serve", "serve resnet50.onnx --host 0.0.0.0 --port 8080")
"""Command lines that the help ends with."""


def _with_variables(command: Callable[..., None]) -> Callable[..., None]:
    """Let every option that is a setting default to its environment variable, which `bentoml serve` also reads."""
    parameters = inspect.signature(command, eval_str=True).parameters
    for setting in fields(Settings):
        kind, option = get_args(parameters[setting.name].annotation)
        option = copy(option)
        option.envvar, option.show_envvar = variable(setting.name), False
        command.__annotations__[setting.name] = Annotated[kind, option]
    return command


@_with_variables
def serve(
    model: ModelArgument = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on; 0.0.0.0 is all networks of this machine.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 3000,
    runtime: Runtime = "auto",
    device: Device = "auto",
    compute: Compute = "auto",
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_THREADS,
            help="Threads within a call of the runtime; default: all usable cores, or one under load.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_THREADS, help="Number of processes; default: one for every GPU, or one."),
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(min=1, max=MOST, help="Crops in one call of the runtime at most; default: 8, or 32 on a GPU."),
    ] = None,
    max_wait_ms: Annotated[
        float,
        typer.Option(min=0, help="Longest time in ms that an image waits for others to join its batch."),
    ] = 50.0,
    max_queue: Annotated[
        int, typer.Option(min=1, max=MOST, help="Crops that may wait; further requests are answered with 503.")
    ] = 256,
    timeout: Annotated[float, typer.Option(help="Longest time of a request in seconds, more than 0.")] = 30.0,
    max_body_mb: Annotated[float, typer.Option(help="Largest body of a request in MB, more than 0.")] = 32.0,
    max_memory_mb: Annotated[float, typer.Option(help="Memory for requests and images in MB, more than 0.")] = 512.0,
    max_pixels: Annotated[int, typer.Option(min=1, max=MOST, help="Pixels of the largest image.")] = 50_000_000,
    max_pictures: Annotated[int, typer.Option(min=1, max=MOST, help="Images in a request at most.")] = 64,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File with keys, one on each line; a request needs one of them. Or set $RESNET_INFER_API_KEY.",
        ),
    ] = None,
    admin_key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="File with keys for /admin/, one on each line. Or set $RESNET_INFER_ADMIN_KEY."
        ),
    ] = None,
    access_log: Annotated[bool, typer.Option("--access-log", help="Log every request as a line of JSON.")] = False,
) -> None:
    """Serve a model over HTTP until a signal ends the command. Exit with 1 if a worker could not open the model."""
    with needs("serve", "serving a model"):
        import bentoml  # noqa: F401  # first, so that a missing package is reported at once

    from resnet_infer import zoo
    from resnet_infer.runtimes.base import parse_device
    from resnet_infer.runtimes.processes import interpreter

    if model and os.path.exists(model):
        model = os.path.abspath(model)
    settings = Settings(
        model=model,
        runtime=runtime,
        device=device,
        compute=compute,
        threads=threads,
        workers=workers,
        max_batch=max_batch,
        max_wait_ms=max_wait_ms,
        max_queue=max_queue,
        timeout=timeout,
        max_body_mb=max_body_mb,
        max_memory_mb=max_memory_mb,
        max_pixels=max_pixels,
        max_pictures=max_pictures,
        api_key_file=os.path.abspath(api_key_file) if api_key_file else None,
        admin_key_file=os.path.abspath(admin_key_file) if admin_key_file else None,
        access_log=access_log,
    )
    parse_device(device)
    interpreter()  # raises where BentoML could not start its processes
    keys = load_keys(settings)
    zoo.load_for(model, runtime)  # fails before BentoML starts
    address, port = _bind(host, port)
    introduce_default(model, "resnet-infer serve")
    if not keys and not ipaddress.ip_address(address).is_loopback:
        note(f"whoever reaches {host} may use this service; to change that, set RESNET_INFER_API_KEY")
    # BentoML keeps its files in a folder that two services must not share.
    with tempfile.TemporaryDirectory(prefix="resnet-infer-") as home:
        # Temporary files of killed processes are deleted with that folder.
        os.environ.update(settings.to_environment(), BENTOML_HOME=home, TMPDIR=home, BENTOML_QUIET="True")
        from resnet_infer.serving.service import service
        from resnet_infer.serving.supervisor import FAILED, HOME

        os.environ[HOME] = home
        before, tempfile.tempdir = tempfile.tempdir, home  # tempfile has already cached TMPDIR
        try:
            service.serve_http(host=address, port=port)
        finally:
            tempfile.tempdir = before
        failed = Path(home, FAILED).exists()
    if failed:
        raise typer.Exit(1)


def _bind(host: str, port: int) -> tuple[str, int]:
    """Resolve the host and bind the port once, to report errors early. Port 0 becomes a free port.

    Raises `UsageError` for an unknown address, and `ResnetInferError` if the port cannot be bound.
    """
    try:
        family, kind, protocol, _, (address, *_) = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UsageError(f"there is no address {host} ({error.strerror})", hint="give an IP address") from error
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise ResnetInferError(
                f"cannot listen on {host}, port {port}: {error.strerror}",
                hint=_remedy(host, error),
            ) from error
        return str(address), int(probe.getsockname()[1])


def _remedy(host: str, error: OSError) -> str | None:
    """Return what to do about an address that cannot be bound, if that is clear."""
    if error.errno == errno.EADDRNOTAVAIL:
        everywhere = "::" if ":" in host else "0.0.0.0"
        return f"{host} is no address of this machine; --host {everywhere} is all of them"
    if error.errno in (errno.EADDRINUSE, errno.EACCES):
        return "give another port with --port"
    return None
