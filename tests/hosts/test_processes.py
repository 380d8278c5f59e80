"""Programs that spread images over processes: each answers as the command does, and ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from resnet_infer import zoo
from tests.hosts.conftest import Expected
from tests.hosts.host import host, python

METHODS = ("fork", "spawn", "forkserver")


@pytest.mark.parametrize("model", [zoo.DEFAULT, zoo.SMALL])
@pytest.mark.parametrize("method", METHODS)
def test_a_pool_of_processes(method: str, model: str, expected: Callable[[str], Expected], tmp_path: Path) -> None:
    command = expected(model)
    with host(python("process_pool.py", method, command.folder), tmp_path, RESNET_INFER_MODEL=model) as running:
        running.require_clean_end()
    assert len(running.children) >= 2
    command.require_same_lines(running.out)


@pytest.mark.parametrize("model", [zoo.DEFAULT, zoo.SMALL])
def test_joblib(model: str, expected: Callable[[str], Expected], tmp_path: Path) -> None:
    pytest.importorskip("joblib", reason="needs joblib: make hosts")
    command = expected(model)
    with host(python("joblib_parallel.py", command.folder), tmp_path, RESNET_INFER_MODEL=model) as running:
        running.require_clean_end()
    assert len(running.children) >= 2
    command.require_same_lines(running.out)


@pytest.mark.parametrize("method", METHODS)
def test_the_workers_of_a_data_loader(method: str, expected: Callable[[str], Expected], tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs torch: make hosts")
    command = expected(zoo.DEFAULT)
    folder = command.folder
    with host(python("torch_dataloader.py", method, folder), tmp_path, RESNET_INFER_MODEL=zoo.DEFAULT) as running:
        running.require_clean_end()
    assert len(running.children) >= 2
    command.require_same_lines(running.out)
