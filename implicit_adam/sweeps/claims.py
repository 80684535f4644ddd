"""A claim on a piece of work: a lock on a file, which the system releases when its process ends.

No clock is involved and no lock goes stale, however the process ends (on NFS 4 or Lustre even if its machine
is gone). Where files cannot be locked, every process gets every claim: work may then be done twice, which
costs time but changes no result.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:
    # Not on Windows.
    fcntl = None


@contextlib.contextmanager
def claimed(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the claim named by a file. If another process has it: False, or wait until that process ends."""
    with path.open("a") as file:
        mine = _locked(file, wait=wait)
        try:
            yield mine
        finally:
            if mine:
                path.unlink(missing_ok=True)


def _locked(file: Any, *, wait: bool) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # This file system has no locks.
        return True
    return True
