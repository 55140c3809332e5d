"""One run at a time in a folder."""

import contextlib
import os
import platform
import time

try:
    import fcntl
except ImportError:  # on Windows, where nobody notices two runs in one folder
    fcntl = None  # type: ignore[assignment]


class FolderError(ValueError):
    """A folder that a run cannot use."""


@contextlib.contextmanager
def lock_workdir(workdir, flag="workdir"):
    """Make the folder of a run, and hold it as long as the block lasts, or this process.

    Args:
        workdir: the folder.
        flag: of the command line, which names it.

    Raises:
        FolderError: if another process holds it, naming that; or if it cannot be made.
    """
    try:
        file = _open_locked(workdir, flag)
    except OSError as error:
        raise FolderError(
            f"The folder of the run cannot be written; give another --{flag}. Received: {error}"
        ) from error
    with file:
        file.truncate(0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"process {os.getpid()} on {platform.node()}, started {since}")
        file.flush()
        try:
            yield
        finally:
            if [path.name for path in workdir.iterdir()] == ["lock"]:  # nothing came of it
                (workdir / "lock").unlink()
                workdir.rmdir()


def _open_locked(workdir, flag):
    """Return the lock's file, locked but not changed yet."""
    path = workdir / "lock"
    while True:
        workdir.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+")  # not emptied before it is held
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            with file:
                raise FolderError(
                    "Another run is in this folder; wait for it, end it, or give another "
                    f"--{flag}. Received: {flag}={str(workdir)!r}, in use by "
                    f"{file.read() or 'a process'}"
                ) from error
        except OSError:  # a file system without locks
            pass
        # Between opening and locking, a run of which nothing came may have removed the file.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        file.close()
