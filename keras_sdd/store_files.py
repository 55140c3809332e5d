"""Files of a store: written whole or not at all, and `cache.json`, which says what it holds."""

import io
import json
import os
import pathlib
import uuid

import numpy as np

MANIFEST = "cache.json"


def read_manifest(folder):
    """What the outputs in a folder are: a dict.

    Raises:
        ValueError: if the file that says so is damaged.
    """
    try:
        manifest = json.loads((pathlib.Path(folder) / MANIFEST).read_bytes())
    except (ValueError, RecursionError):
        manifest = None
    if not isinstance(manifest, dict):
        raise tell_damaged(folder)
    return manifest


def tell_damaged(folder):
    """The error for a folder whose `cache.json` is none."""
    return ValueError(
        f"{pathlib.Path(folder) / MANIFEST} is damaged or cut off, and nothing else says whose "
        "cells the folder holds. Remove the folder to make them again, or give another one."
    )


def encode(array):
    """An array in NumPy's format, as bytes."""
    # Into a file, NumPy writes past Python's own object, and keeps quiet of what does not fit.
    content = io.BytesIO()
    np.save(content, array)
    return content.getbuffer()


def replace_whole(path, content):
    """Put a file in place in one piece, whoever writes it at the same time.

    Raises:
        OSError: if it cannot be written whole.
    """
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}.unfinished")
    try:
        write_whole(unfinished, content, path)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_whole(path, content, meant=None):
    """Write a file, until it is on the disk.

    Args:
        path: of the file.
        content: bytes.
        meant: the path that it stands for, for messages.

    Raises:
        OSError: if it cannot be written whole.
    """
    try:
        with open(path, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # some disks say only then that they are full
    except OSError as error:
        raise explain_failure(error, meant or path) from error


def explain_failure(error, path):
    """The error of a file that could not be written, with what to do."""
    return OSError(
        error.errno,
        f"{error.strerror}: {path} cannot be written. What was written before is kept: make room "
        "on the disk, or raise the quota or limit, and a new run goes on from it",
    )
