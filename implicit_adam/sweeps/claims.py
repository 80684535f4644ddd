"""A claim on a piece of work: the lock on a file, which dies with the process that holds it.

No clock is asked and nothing goes stale: the system gives the lock up when its holder ends, however it ends
(on NFS 4 or Lustre also when its machine is gone). Where files cannot be locked everybody has every claim:
then work may be done twice, which costs time and changes nothing.
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
    """Hold the claim named by a file: False where another has it, or wait until that one is done or dead."""
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
