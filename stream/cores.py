"""How many processor cores this process may use: what a container or `taskset` leaves it, not what the machine has."""

import math
import os
from pathlib import Path

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds of processor per period that a container's group may use (cgroup v2); `max` where there is no limit."""


def usable_cores(cpu_max: Path = CPU_MAX) -> int:
    """At least 1. More threads than this wait for each other."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = cpu_max.read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError, ZeroDivisionError):
        return cores
