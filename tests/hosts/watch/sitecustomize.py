"""Write down how every process that a host has started ended: $HOST_CHILDREN gets a line of process id and exit code.

Hosts restart workers that crashed and say nothing of some of them.
"""

import os

_real = os.waitpid


def waitpid(pid: int, options: int) -> tuple[int, int]:
    found = _real(pid, options)
    if found[0]:
        with open(os.environ["HOST_CHILDREN"], "a", encoding="utf-8") as file:
            file.write(f"{found[0]} {os.waitstatus_to_exitcode(found[1])}\n")
    return found


os.waitpid = waitpid
