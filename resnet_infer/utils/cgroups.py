"""What Linux's control groups allow this process: a share of the processors, and memory.

Containers (docker --cpus, limits of Kubernetes) and systemd (CPUQuota, MemoryMax) set them. A limit holds for a group
and all groups below it, so the least of the process's own group and those above it is what counts, as far up as they
can be seen. Version 2 has one tree of groups; version 1 has one for each controller; some systems have both.

A limit that cannot be read is taken for none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

_SELF = Path("/proc/self")
_PERIOD = 100_000
"""Microseconds of the kernel's period where a group names none."""
_NO_LIMIT = 1 << 60
"""Bytes from which on a limit of version 1 means that there is none: the kernel writes its largest number of pages."""


def cpu_quota(process: Path = _SELF) -> float | None:
    """Return how many processors' time the process may use, 0.5 for half of one's; None without a limit.

    `process` is its folder in /proc.
    """
    found = [_quota_2(group) for group in _groups(process, None)]
    found += [_quota_1(group) for group in _groups(process, "cpu")]
    return min((quota for quota in found if quota is not None), default=None)


def memory_limit(process: Path = _SELF) -> int | None:
    """Return the most bytes of memory that the process and its group may have; None without a limit."""
    return min((limit for limit, _ in _memory(process)), default=None)


def memory_left(process: Path = _SELF) -> int | None:
    """Return how many bytes of `memory_limit` are not in use, those for files that can be dropped counted as free."""
    return min((max(limit - used, 0) for limit, used in _memory(process)), default=None)


def _memory(process: Path) -> Iterator[tuple[int, int]]:
    """Limit and use of every group that has a limit, in bytes."""
    for controller, limit_file, used_file, dropped in (
        (None, "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        for group in _groups(process, controller):
            limit = _number(_read(group / limit_file))
            if limit is not None and limit < _NO_LIMIT:
                lines = (line.split() for line in _read(group / "memory.stat").splitlines())
                free = sum(_number(words[1]) or 0 for words in lines if len(words) == 2 and words[0] == dropped)
                yield limit, max((_number(_read(group / used_file)) or 0) - free, 0)


def _quota_2(group: Path) -> float | None:
    words = _read(group / "cpu.max").split()
    return _share(_number(words[0]), _number(words[1]) if len(words) > 1 else _PERIOD) if words else None


def _quota_1(group: Path) -> float | None:
    period = _read(group / "cpu.cfs_period_us")
    return _share(_number(_read(group / "cpu.cfs_quota_us")), _number(period) if period else _PERIOD)


def _share(quota: int | None, period: int | None) -> float | None:
    return quota / period if quota and period else None


def _groups(process: Path, controller: str | None) -> Iterator[Path]:
    """The folders of the process's group and of those above it, for a controller of version 1; None for version 2."""
    own = _membership(_read(process / "cgroup").splitlines(), controller)
    if own is None:
        return
    mounts = list(_mounts(_read(process / "mountinfo").splitlines(), controller))
    below = [(place, _below(own, root)) for root, place in mounts]
    if not any(path is not None for _, path in below) and ".." not in own.parts:
        # A container's own tree, seen under the names of its host: its top is the nearest group there is.
        below = [(place, PurePosixPath()) for _, place in mounts]
    for place, path in below:
        if path is not None:
            yield from (place / part for part in (path, *path.parents))


def _membership(lines: Iterable[str], controller: str | None) -> PurePosixPath | None:
    """The process's group by /proc/self/cgroup, lines like `4:cpu,cpuacct:/group` and, for version 2, `0::/group`."""
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if path.startswith("/") and (
            (number, controllers) == ("0", "") if controller is None else controller in controllers.split(",")
        ):
            return PurePosixPath(path.removesuffix(" (deleted)"))
    return None


def _mounts(lines: Iterable[str], controller: str | None) -> Iterator[tuple[PurePosixPath, Path]]:
    """The group at the top of every mounted tree, and where it is mounted, by /proc/self/mountinfo."""
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, (kind, *more) = before.split(" "), after.split(" ") or [""]
        if len(fields) < 5 or kind != ("cgroup2" if controller is None else "cgroup"):
            continue
        if controller is None or (more and controller in more[-1].split(",")):
            root, place = (re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), path) for path in fields[3:5])
            yield PurePosixPath(root), Path(place)


def _below(group: PurePosixPath, root: PurePosixPath) -> PurePosixPath | None:
    """The way from the group at the top of a mount down to another; None where it is not below."""
    if ".." in (*group.parts, *root.parts):  # outside of this process's name space
        return None
    return group.relative_to(root) if group.is_relative_to(root) else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").strip()
    except (OSError, ValueError):
        return ""


def _number(text: str) -> int | None:
    """A number above zero; `max`, -1 and whatever else is there mean that there is no limit."""
    return int(text) if re.fullmatch(r"[0-9]{1,20}", text) and int(text) else None
