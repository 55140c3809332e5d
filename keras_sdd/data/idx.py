"""The IDX files of the MNIST family."""

import gzip
import math
import pathlib
import struct
import zlib

import numpy as np


def find_idx(folder, name):
    """Return the path of the IDX file `name`, gzipped or not, in `folder`, or `None`."""
    for path in (pathlib.Path(folder, name), pathlib.Path(folder, f"{name}.gz")):
        if path.is_file():
            return path
    return None


def read_idx(path):
    """Read an IDX file of unsigned bytes.

    Args:
        path: of the file; `.gz` is unpacked on the way.

    Returns:
        uint8 array, of the shape that the file names.

    Raises:
        ValueError: if the file is none of that kind, or is longer or shorter than it says.

    Source: the format's description beside the MNIST database: two zero bytes, the type (8 for
    unsigned bytes), the number of dimensions, each length as a big-endian uint32, the values.
    """
    path = pathlib.Path(path)
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(
                f"The file is damaged, cut off or not gzipped; download it again. Received: {path}"
            ) from error
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise ValueError(
            "An IDX file of unsigned bytes must begin with the bytes 00 00 08. "
            f"Received: {path}, which begins with {content[:4].hex(' ') or 'nothing'}"
        )
    start = 4 + 4 * content[3]
    try:
        shape = struct.unpack(f">{content[3]}I", content[4:start])
    except struct.error:
        raise ValueError(f"An IDX file ends within its header. Received: {path}") from None
    if len(content) - start != math.prod(shape):
        raise ValueError(
            f"An IDX file of shape {shape} must hold {math.prod(shape)} values. "
            f"Received: {path}, which holds {len(content) - start}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
