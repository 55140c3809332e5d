"""A folder of images, one folder a class: what is there, what is left out and why, how it is split.

    FOLDER/cat/*.jpg  FOLDER/dog/*.jpg   a folder a class, whatever they are called
    FOLDER/test/cat/  FOLDER/test/dog/   images to test on; without, some of the others are taken
    FOLDER/unlabeled/                    images of which nobody says what they show, if any

A file that is no image is left out and named; what makes the folder useless is a `SetupError`.
"""

import collections
import dataclasses
import os
import pathlib

import numpy as np
from training.command_line import SetupError

TEST, UNLABELLED = "test", ("unlabeled", "unlabelled")
TRAIN_PART, TEST_PART, UNLABELLED_PART = "train", "test", "unlabelled"
_HELD_OUT = 0.15  # of a class, for validation, and as many for the test if it has no folder
_SEED = 0
_SHOWN = 10  # names in a message
_IMBALANCE = 3  # from this ratio of the largest class to the smallest on, it is told


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file of the folder.

    Attributes:
        path: within the folder.
        part: `TRAIN_PART`, `TEST_PART` or `UNLABELLED_PART`.
        label: index of its class, -1 for none.
    """

    path: str
    part: str
    label: int


@dataclasses.dataclass
class Listing:
    """What a folder holds.

    Attributes:
        classes: names, sorted; the index is the label.
        entries: of all files.
        left_out: path -> why it is not used.
        notes: what a person should know, sentences.
    """

    classes: list
    entries: list
    left_out: dict
    notes: list

    @property
    def has_test(self):
        return any(entry.part == TEST_PART for entry in self.entries)

    def keep(self, left_out):
        """Leave further files out, path -> why."""
        self.left_out |= left_out
        self.entries = [x for x in self.entries if x.path not in left_out]


def list_folder(folder):
    """List the files of a folder by class; nothing is opened.

    Raises:
        SetupError: if it is no folder of class folders.
    """
    folder = pathlib.Path(folder)
    folders, loose = _list_names(folder)
    names = sorted(set(folders) - {TEST, *UNLABELLED})
    if len(names) < 2:
        raise SetupError(
            "A classifier needs two classes or more, each a folder of images directly in --images, "
            f"as {folder}/cat and {folder}/dog. Received: {', '.join(names) or 'no such folder'}"
        )
    listing = Listing(names, [], {}, [])
    for label, name in enumerate(names):
        _add(listing, folder, name, TRAIN_PART, label)
    for name in (x for x in folders if x in UNLABELLED):
        _add(listing, folder, name, UNLABELLED_PART, -1)
    if TEST in folders:
        _add_test(listing, folder)
    if loose:
        listing.notes.append(f"{len(loose)} files lie beside the class folders and are not used.")
    _note_names(listing)
    check_amounts(listing)
    return listing


def _list_names(folder):
    """Names of the folders and of the files of a folder, hidden ones aside, sorted."""
    try:
        with os.scandir(folder) as found:
            visible = [x for x in found if not x.name.startswith((".", "__MACOSX"))]
            folders = sorted(x.name for x in visible if x.is_dir())
            return folders, sorted(x.name for x in visible if not x.is_dir())
    except FileNotFoundError as error:
        raise SetupError(f"There is no such folder. Received: {str(folder)!r}") from error
    except NotADirectoryError as error:
        raise SetupError(f"Expected a folder of images. Received: {str(folder)!r}") from error
    except OSError as error:
        raise SetupError(
            f"The folder cannot be read; give yourself the permission (chmod u+rx {folder}), or "
            f"remove it. Received: {error}"
        ) from error


def _add(listing, folder, name, part, label):
    folders, files = _list_names(folder / name)
    if folders and not files and part == TRAIN_PART:
        raise SetupError(
            f"{folder / name} has folders in it and no images. Class folders lie directly in "
            f"--images: pass --images={folder / name} if its folders are the classes. Received: "
            f"{', '.join(folders[:_SHOWN])}"
        )
    listing.entries += [Entry(f"{name}/{file}", part, label) for file in files]
    if folders:
        listing.notes.append(f"{len(folders)} folders within {name}/ are not read.")


def _add_test(listing, folder):
    folders, _ = _list_names(folder / TEST)
    unknown = sorted(set(folders) - set(listing.classes))
    if unknown or not folders:
        raise SetupError(
            f"{folder / TEST} must hold folders with the names of the classes, "
            f"{', '.join(listing.classes[:_SHOWN])}. Received: {', '.join(unknown) or 'none'}"
        )
    for name in folders:
        _add(listing, folder, f"{TEST}/{name}", TEST_PART, listing.classes.index(name))
    check_test(listing, folder)


def check_test(listing, folder):
    """Raise a SetupError if a folder with a test folder has no image in it that can be used."""
    if (pathlib.Path(folder) / TEST).is_dir() and not listing.has_test:
        raise SetupError(
            f"No image of {TEST}/ can be used. Put images into its class folders, or remove "
            f"{TEST}/: then some of the others are held out. Received: {pathlib.Path(folder, TEST)}"
        )


def _note_names(listing):
    alike = collections.Counter(name.lower() for name in listing.classes)
    twice = [x for x in listing.classes if alike[x.lower()] > 1]
    if twice:
        listing.notes.append(f"Classes whose names differ in case alone: {', '.join(twice)}.")


def count(listing, part):
    """Return the number of images (K,) of each class in a part."""
    labels = [x.label for x in listing.entries if x.part == part]
    return np.bincount(np.array(labels, int), minlength=len(listing.classes))


def check_amounts(listing):
    """Raise a SetupError if a class has too few images to train, to choose and to test."""
    needed = 2 if listing.has_test else 3
    small = [
        f"{name} {number}"
        for name, number in zip(listing.classes, count(listing, TRAIN_PART), strict=True)
        if number < needed
    ]
    if not small:
        return
    reasons = [f"\n  {path}: {why}" for path, why in listing.left_out.items()][:_SHOWN]
    raise SetupError(
        f"A class needs {needed} images or more, for training and validation"
        f"{'' if listing.has_test else ' and the test'}. Put images into these folders, or remove "
        f"them. Received: {', '.join(small[:_SHOWN])}"
        + (f"\nLeft out:{''.join(reasons)}" if reasons else "")
    )


def note_amounts(listing):
    """Add what the numbers of images ask to be said."""
    counts = count(listing, TRAIN_PART)
    large, small = listing.classes[counts.argmax()], listing.classes[counts.argmin()]
    if counts.max() >= _IMBALANCE * counts.min():
        listing.notes.append(
            f"The classes are unlike in size: {large} has {counts.max()} images, {small} "
            f"{counts.min()}. Networks prefer what they see often; look at the accuracy of each "
            "class."
        )
    if listing.has_test:
        missing = [
            x for x, n in zip(listing.classes, count(listing, TEST_PART), strict=True) if not n
        ]
        if missing:
            listing.notes.append(
                f"{TEST}/ has no image of {', '.join(missing)}: nothing is known of how well these "
                "are recognized."
            )


def find_copies(entries, digests):
    """Return which images to leave out as they are there more than once, path -> why.

    Of copies in one class, that in `test` stays, or else the first with a label. Copies in several
    classes all go, as nobody knows which label is right.

    Args:
        entries: list of `Entry`.
        digests: of their pixels, one for each.
    """
    groups = collections.defaultdict(list)
    for entry, digest in zip(entries, digests, strict=True):
        groups[digest].append(entry)
    left_out = {}
    order = (TEST_PART, TRAIN_PART, UNLABELLED_PART)
    for group in groups.values():
        labels = {x.label for x in group if x.part != UNLABELLED_PART}
        kept, *copies = sorted(group, key=lambda x: order.index(x.part))
        if len(labels) > 1:
            for entry in group:
                other = next(x for x in group if x.path != entry.path and x.label != entry.label)
                left_out[entry.path] = f"the same picture as {other.path}, of another class"
        else:
            left_out |= {x.path: f"the same picture as {kept.path}" for x in copies}
    return left_out


def split_entries(listing):
    """Return which entries are for what: dict of `train`, `validation`, `test`, `unlabelled`.

    Each class gives the same part of its images, one at least. The same folder is split alike.

    Returns:
        Indices into `listing.entries`.
    """
    random = np.random.default_rng(_SEED)
    parts = np.array([x.part for x in listing.entries])
    labels = np.array([x.label for x in listing.entries])
    indices: dict = {
        "train": [],
        "validation": [],
        "test": list(np.flatnonzero(parts == TEST_PART)),
    }
    for label in range(len(listing.classes)):
        own = random.permutation(np.flatnonzero((parts == TRAIN_PART) & (labels == label)))
        held = max(1, round(_HELD_OUT * len(own)))
        cuts = [held, held if listing.has_test else 2 * held]
        validation, test, train = np.split(own, cuts)
        for name, some in (("validation", validation), ("test", test), ("train", train)):
            indices[name] += list(some)
    indices["unlabelled"] = np.flatnonzero(parts == UNLABELLED_PART)
    return {name: np.sort(np.array(x, int)) for name, x in indices.items()}
