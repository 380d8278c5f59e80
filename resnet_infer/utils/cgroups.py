"""Read the limits that Linux's control groups set for this process: CPU time and memory.

Containers (docker --cpus, limits of Kubernetes) and systemd (CPUQuota, MemoryMax) set them. A limit applies to a group
and all groups below it, so the effective limit is the least of the process's own group and of its ancestors, as far as
they are visible. Version 2 has one tree of groups; version 1 has one for each controller; some systems have both.

A limit that cannot be read counts as no limit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

_SELF = Path("/proc/self")
"""Folder of the current process in /proc."""
_PERIOD = 100_000
"""Default CPU period of the kernel, in microseconds."""
_NO_LIMIT = 1 << 60
"""Bytes from which a limit of version 1 means no limit: the kernel then reports its largest number of pages."""


def cpu_quota(process: Path = _SELF) -> float | None:
    """Return how many processors' time the process may use (0.5 is half of one); None without a limit.

    `process` is its folder in /proc.
    """
    found = [_quota_2(group) for group in _groups(process, None)]
    found += [_quota_1(group) for group in _groups(process, "cpu")]
    return min((quota for quota in found if quota is not None), default=None)


def memory_limit(process: Path = _SELF) -> int | None:
    """Return the most bytes of memory that the process and its group may have; None without a limit."""
    return min((limit for limit, _ in _memory(process)), default=None)


def memory_left(process: Path = _SELF) -> int | None:
    """Return how many bytes of `memory_limit` are free; None without a limit.

    Inactive file cache, which the kernel can drop, counts as free.
    """
    return min((max(limit - used, 0) for limit, used in _memory(process)), default=None)


def _memory(process: Path) -> Iterator[tuple[int, int]]:
    """Yield limit and use of every group with a limit, in bytes."""
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
    """Return the quota of a group of version 2, in processors."""
    words = _read(group / "cpu.max").split()
    return _share(_number(words[0]), _number(words[1]) if len(words) > 1 else _PERIOD) if words else None


def _quota_1(group: Path) -> float | None:
    """Return the quota of a group of version 1, in processors."""
    period = _read(group / "cpu.cfs_period_us")
    return _share(_number(_read(group / "cpu.cfs_quota_us")), _number(period) if period else _PERIOD)


def _share(quota: int | None, period: int | None) -> float | None:
    """Return quota by period, or None without a limit."""
    return quota / period if quota and period else None


def _groups(process: Path, controller: str | None) -> Iterator[Path]:
    """Yield the folders of the process's group and of its ancestors.

    `controller` is one of version 1; None means version 2.
    """
    own = _membership(_read(process / "cgroup").splitlines(), controller)
    if own is None:
        return
    mounts = list(_mounts(_read(process / "mountinfo").splitlines(), controller))
    below = [(place, _below(own, root)) for root, place in mounts]
    if not any(path is not None for _, path in below) and ".." not in own.parts:
        # A container that sees its own tree under the host's names: the root is the nearest visible group.
        below = [(place, PurePosixPath()) for _, place in mounts]
    for place, path in below:
        if path is not None:
            yield from (place / part for part in (path, *path.parents))


def _membership(lines: Iterable[str], controller: str | None) -> PurePosixPath | None:
    """Return the process's group from the lines of /proc/self/cgroup.

    They look like `4:cpu,cpuacct:/group`, and like `0::/group` for version 2.
    """
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if path.startswith("/") and (
            (number, controllers) == ("0", "") if controller is None else controller in controllers.split(",")
        ):
            return PurePosixPath(path.removesuffix(" (deleted)"))
    return None


def _mounts(lines: Iterable[str], controller: str | None) -> Iterator[tuple[PurePosixPath, Path]]:
    """Yield the root group of every mounted tree and its mount point, from the lines of /proc/self/mountinfo."""
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, (kind, *more) = before.split(" "), after.split(" ") or [""]
        if len(fields) < 5 or kind != ("cgroup2" if controller is None else "cgroup"):
            continue
        if controller is None or (more and controller in more[-1].split(",")):
            root, place = (re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), path) for path in fields[3:5])
            yield PurePosixPath(root), Path(place)


def _below(group: PurePosixPath, root: PurePosixPath) -> PurePosixPath | None:
    """Return the path from the root group of a mount to another group; None if that is not below the root."""
    if ".." in (*group.parts, *root.parts):  # outside of this process's cgroup namespace
        return None
    return group.relative_to(root) if group.is_relative_to(root) else None


def _read(path: Path) -> str:
    """Return the text of a file, empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").strip()
    except (OSError, ValueError):
        return ""


def _number(text: str) -> int | None:
    """Return a number above zero. Other text, such as `max` or -1, means that there is no limit."""
    return int(text) if re.fullmatch(r"[0-9]{1,20}", text) and int(text) else None
