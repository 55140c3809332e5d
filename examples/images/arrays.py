"""The images of a folder, read once and kept as arrays that trainers take.

images.npz    x_train, y_train, x_validation, ... as `keras_sdd.data.load` takes them; images
              without a label come last in x_train, with label 0
images.json   written after it: what it was made of, what was left out, how many there are
"""

import contextlib
import hashlib
import json
import os
import pathlib

import numpy as np
from training import records
from training.command_line import SetupError

from images import decoding
from images import folder as image_folder

_COPIES = 3  # of all pixels, that lie in memory at once
_CHANNELS = 3
_SHOWN = 5


def prepare_images(folder, output, size):
    """Read a folder's images, or take what was read of the same files before.

    Args:
        folder: as in `folder.list_folder`.
        output: folder of images.npz and images.json.
        size: height and width of the images.

    Returns:
        dict: `classes`, `counts` (dict of `train`, `validation`, `test` to lists (K,), and
        `unlabelled` to a number), `left_out`, `notes`, `made_of`.

    Raises:
        SetupError: if the folder is useless, or another than before; if memory or disk is short.
    """
    listing = image_folder.list_folder(folder)
    made_of = {"image_size": size, "files": _describe_files(folder, listing)}
    written = output / "images.json"
    if written.exists():
        found = records.read_json(written)
        _check_unchanged(found["made_of"], made_of, output)
        return found
    check_memory(len(listing.entries), size)
    print(
        f"Reading {len(listing.entries)} images of {len(listing.classes)} classes ...", flush=True
    )
    pixels = _read_pixels(folder, listing, size)
    split = image_folder.split_entries(listing)
    _write_arrays(output / "images.npz", listing, pixels, split)
    found = {
        "classes": listing.classes,
        "counts": _count(listing, split),
        "left_out": listing.left_out,
        "notes": listing.notes,
        "made_of": made_of,
    }
    records.write_text(written, json.dumps(found) + "\n")
    return found


def _describe_files(folder, listing):
    """path -> size and time, which tell whether a file has changed."""
    described = {}
    for entry in listing.entries:
        try:
            status = os.stat(pathlib.Path(folder, entry.path))
            described[entry.path] = [status.st_size, status.st_mtime_ns]
        except OSError:  # a link to nowhere; reading it says so
            described[entry.path] = None
    return described


def _check_unchanged(old, new, output):
    if old["image_size"] != new["image_size"]:
        raise SetupError(
            f"{output} was begun with --image_size={old['image_size']}; pass that, or give another "
            f"--output. Received: --image_size={new['image_size']}"
        )
    names = old["files"].keys() | new["files"].keys()
    changed = sorted(x for x in names if old["files"].get(x) != new["files"].get(x))
    if changed:
        raise SetupError(
            f"The images have changed since {output} was begun, and networks must be compared on "
            f"the same. Give another --output, or remove {output} to begin anew. Changed: "
            f"{len(changed)} files, as {', '.join(changed[:_SHOWN])}"
        )


def check_memory(number, size):
    """Raise a SetupError if so many images of `size` pixels need more memory than there is."""
    needed = _COPIES * number * size * size * _CHANNELS
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        largest = int((there / (_COPIES * number * _CHANNELS)) ** 0.5)
        raise SetupError(
            f"{number} images of {size} x {size} pixels are held in memory, which takes "
            f"{needed / 2**30:.1f} GiB; this machine has {there / 2**30:.1f}. Take fewer images, "
            f"or --image_size={largest} or less."
        )


def _read_pixels(folder, listing, size):
    """Decode all images; what cannot be read, and copies, go out of the listing.

    Returns:
        dict of paths to uint8 (size, size, 3).
    """
    paths = [pathlib.Path(folder, entry.path) for entry in listing.entries]
    found = dict(
        zip(
            (entry.path for entry in listing.entries),
            decoding.decode_images(paths, size),
            strict=True,
        )
    )
    listing.keep({path: why for path, why in found.items() if isinstance(why, str)})
    digests = [hashlib.sha256(found[x.path].tobytes()).digest() for x in listing.entries]
    listing.keep(image_folder.find_copies(listing.entries, digests))
    image_folder.check_amounts(listing)
    image_folder.check_test(listing, folder)
    image_folder.note_amounts(listing)
    return found


def _count(listing, split):
    labels = np.array([x.label for x in listing.entries])
    counts = {
        name: np.bincount(labels[split[name]], minlength=len(listing.classes)).tolist()
        for name in ("train", "validation", "test")
    }
    return counts | {"unlabelled": len(split["unlabelled"])}


def _write_arrays(path, listing, pixels, split):
    """Write the arrays in one piece.

    Raises:
        SetupError: if the disk is full; nothing is left behind.
    """
    rows = {
        "train": [*split["train"], *split["unlabelled"]],
        "validation": split["validation"],
        "test": split["test"],
    }
    arrays = {}
    for name, own in rows.items():
        entries = [listing.entries[i] for i in own]
        arrays[f"x_{name}"] = np.stack([pixels.pop(x.path) for x in entries])
        arrays[f"y_{name}"] = np.array([max(x.label, 0) for x in entries])
    unfinished = path.with_suffix(".unfinished.npz")
    try:
        np.savez(unfinished, **arrays)
        os.replace(unfinished, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        needed = sum(x.nbytes for x in arrays.values()) / 2**20
        raise SetupError(
            f"The images cannot be written; they need {needed:.1f} MiB. Make room, or give another "
            f"--output, and run the same command again. Received: {error}"
        ) from error
