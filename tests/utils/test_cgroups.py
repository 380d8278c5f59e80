"""The limits of control groups: planted files of both versions, and a real group where one can be made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_infer.utils import cgroups
from tests.conftest import ROOT

NAMES = st.sampled_from(["kubepods.slice", "pod 1", "a,b", "x:y", "user@1000.service", "büro", "docker"])
GIB = 1 << 30


@dataclass(frozen=True)
class Group:
    """A group's limits: processors and bytes, None for none; `broken` files say neither."""

    cores: float | None
    memory: int | None
    used: int = 0
    broken: bool = False


@dataclass(frozen=True)
class Tree:
    """The way from the top of what is mounted down to the process's group, for version 1 or 2.

    `hidden` is how many groups lie above what is mounted; `names` are of all groups below the root of the host.
    """

    version: int
    names: tuple[str, ...]
    hidden: int
    groups: tuple[Group, ...]
    shown: str
    """How the process's group is named: as on the host, or from its own name space's root."""


@st.composite
def trees(draw: st.DrawFn, version: int) -> Tree:
    depth = draw(st.integers(0, 4))
    hidden = draw(st.integers(0, depth))
    group = st.builds(
        Group,
        st.none() | st.floats(0.01, 64).map(lambda value: round(value, 2)),
        st.none() | st.integers(1, 64).map(lambda value: value * GIB),
        st.integers(0, 128).map(lambda value: value * GIB // 2),
        st.booleans(),
    )
    shown = draw(st.sampled_from(["host", "own", "other"])) if hidden == depth else "host"
    return Tree(
        version,
        tuple(draw(st.lists(NAMES, min_size=depth, max_size=depth))),
        hidden,
        tuple(draw(st.lists(group, min_size=depth - hidden + 1, max_size=depth - hidden + 1))),
        shown,
    )


def escaped(path: str) -> str:
    return "".join(f"\\{ord(letter):03o}" if letter in " \t\n\\" else letter for letter in path)


def plant(folder: Path, planted: list[Tree]) -> Path:
    """Write the trees, and a process's files that lead to them. The process's folder is returned."""
    process = folder / "proc"
    process.mkdir(parents=True)
    memberships = ["7:pids:/else", "3:cpuset:/wrong"]
    mounts = [
        "24 0 8:1 / / rw - ext4 /dev/sda rw",
        f"26 24 0:24 / {escaped(str(folder))}/x rw - cgroup cgroup rw,cpuset",
    ]
    for number, tree in enumerate(planted):
        top = folder / f"sys fs {number}"
        above, below = tree.names[: tree.hidden], tree.names[tree.hidden :]
        root = "/" + "/".join(above)
        own = "/" + "/".join(tree.names)
        if tree.shown == "own":  # a name space of its own: both begin at the container
            root = own = "/"
        elif tree.shown == "other":  # the mount is named as on the host, the process is not
            own = "/"
        memberships.append(f"0::{own}" if tree.version == 2 else f"4:cpu,cpuacct:{own}")
        if tree.version == 1:
            memberships.append(f"5:memory:{own}")
        kinds = ["cgroup2 cgroup2 rw"] if tree.version == 2 else ["cgroup cgroup rw,cpu,cpuacct", "cgroup c rw,memory"]
        for kind in kinds:
            place = top if tree.version == 2 else top / kind.rpartition(",")[2]
            mounts.append(f"30 24 0:2 {escaped(root)} {escaped(str(place))} rw,nosuid shared:9 master:1 - {kind}")
            for level, group in enumerate(tree.groups):
                write(place.joinpath(*below[:level]), tree.version, group, last=level == len(below))
    (process / "cgroup").write_text("\n".join(memberships) + "\n", encoding="utf-8")
    (process / "mountinfo").write_text("\n".join(mounts) + "\n", encoding="utf-8")
    return process


def write(folder: Path, version: int, group: Group, last: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    period = 50_000
    quota = None if group.cores is None else round(group.cores * period)
    if group.broken:
        texts = dict.fromkeys(("cpu.max", "memory.max", "cpu.cfs_quota_us", "memory.limit_in_bytes"), "\x00?")
        if last:
            (folder / "memory.stat").mkdir(exist_ok=True)
    elif version == 2:
        texts = {
            "cpu.max": f"{'max' if quota is None else quota} {period}",
            "memory.max": "max" if group.memory is None else str(group.memory),
            "memory.current": str(group.used + GIB),
            "memory.stat": f"anon {group.used}\ninactive_file {GIB}\n",
        }
    else:
        texts = {
            "cpu.cfs_quota_us": str(-1 if quota is None else quota),
            "cpu.cfs_period_us": str(period),
            "memory.limit_in_bytes": str(9223372036854771712 if group.memory is None else group.memory),
            "memory.usage_in_bytes": str(group.used + GIB),
            "memory.stat": f"inactive_file 0\ntotal_inactive_file {GIB}\n",
        }
    for name, text in texts.items():
        (folder / name).write_text(f"{text}\n", encoding="utf-8")


@settings(max_examples=150, deadline=None)
@given(planted=st.tuples(trees(1), trees(2)), which=st.sampled_from(["1", "2", "both"]))
def test_the_least_limit_of_all_groups_that_can_be_seen_counts(planted: tuple[Tree, Tree], which: str) -> None:
    chosen = [tree for tree in planted if which in (str(tree.version), "both")]
    seen = [group for tree in chosen for group in tree.groups if not group.broken]
    with tempfile.TemporaryDirectory() as folder:
        process = plant(Path(folder), chosen)
        quota, limit, left = (ask(process) for ask in (cgroups.cpu_quota, cgroups.memory_limit, cgroups.memory_left))
    cores = [group.cores for group in seen if group.cores is not None]
    assert quota == (pytest.approx(min(cores), abs=1e-4) if cores else None)
    assert limit == min((group.memory for group in seen if group.memory is not None), default=None)
    assert left == min((max(group.memory - group.used, 0) for group in seen if group.memory is not None), default=None)


@pytest.mark.parametrize(
    ("text", "quota"),
    [
        ("max 100000", None),
        ("50000 100000", 0.5),
        ("150000", 1.5),
        ("1000 1000000", 0.001),
        ("0 100000", None),
        ("-1 100000", None),
        ("100000 0", None),
        ("", None),
        ("9" * 400, None),
        ("1e3 100000", None),
        ("\u0665 100000", None),
    ],
)
def test_what_cpu_max_may_say(tmp_path: Path, text: str, quota: float | None) -> None:
    process = plant(tmp_path, [Tree(2, (), 0, (Group(1, None),), "host")])
    (tmp_path / "sys fs 0" / "cpu.max").write_text(text, encoding="utf-8")
    assert cgroups.cpu_quota(process) == quota


def test_a_group_outside_of_what_can_be_seen_has_no_limit_that_is_known(tmp_path: Path) -> None:
    process = plant(tmp_path, [Tree(2, ("a",), 0, (Group(1, GIB), Group(1, GIB)), "host")])
    (process / "cgroup").write_text("0::/../../elsewhere\n", encoding="utf-8")
    assert cgroups.cpu_quota(process) is None
    assert cgroups.memory_limit(process) is None


@pytest.mark.parametrize("damage", ["absent", "folder", "binary", "empty", "words"])
@pytest.mark.parametrize("name", ["cgroup", "mountinfo"])
def test_without_a_system_that_tells_there_is_no_limit(tmp_path: Path, name: str, damage: str) -> None:
    process = plant(tmp_path, [Tree(1, ("a",), 0, (Group(1, GIB), Group(1, GIB)), "host")])
    file = process / name
    file.unlink()
    if damage == "folder":
        file.mkdir()
    elif damage != "absent":
        file.write_bytes({"binary": bytes(range(256)), "empty": b"", "words": b"0::\n0\n - \n:::\n- cgroup\n"}[damage])
    assert (cgroups.cpu_quota(process), cgroups.memory_limit(process), cgroups.memory_left(process)) == (None,) * 3


@pytest.fixture
def half_a_core() -> Iterator[Path]:
    """A real group with half a core, below the one of this process."""
    above = next(cgroups._groups(Path("/proc/self"), "cpu"), None)
    if above is None or not os.access(above, os.W_OK):
        pytest.skip("needs a tree of control groups of version 1 that may be written")
    group = above / f"resnet-infer-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no group can be made here ({error.strerror})")
    try:
        (group / "cpu.cfs_quota_us").write_text("50000")
        yield group
    finally:
        group.rmdir()


def test_a_real_group_with_half_a_core_lets_one_thread_compute(half_a_core: Path) -> None:
    pytest.importorskip("onnxruntime", reason="opens a model (the extra `cpu` or `gpu`)")
    code = (
        "import json, os, sys; open(sys.argv[1] + '/cgroup.procs', 'w').write(str(os.getpid()))\n"
        "from resnet_infer.utils import cgroups, cpu\n"
        "from resnet_infer.classifier import Classifier\n"
        "one = Classifier('resnet20-cifar10'); many = Classifier('resnet20-cifar10', throughput=True)\n"
        "print(json.dumps([cgroups.cpu_quota(), cpu.usable_cores(), one.runtime.describe()['threads'], many.lanes]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(half_a_core)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=True,
    )
    assert json.loads(done.stdout) == [0.5, 1, 1, 1]
