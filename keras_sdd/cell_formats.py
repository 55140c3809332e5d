"""How cells are kept on disk: all logits, or the largest and the mass of the others."""

import numpy as np

from keras_sdd._checks import check_integers


def choose_format(num_cells, num_classes, dtype, top_k=None):
    """The way to keep cells (N, K) of a sample: `AllClasses`, or `TopClasses` of the k largest."""
    if top_k is None:
        return AllClasses(num_cells, num_classes, dtype)
    check_integers(1, top_k=top_k)
    return TopClasses(num_cells, num_classes, dtype, top_k)


class AllClasses:
    """Keeps all logits.

    Args:
        num_cells, num_classes: N and K.
        dtype: `"float32"` or `"float16"`.

    Attributes:
        shapes, dtypes: of the arrays that a store keeps of a sample.
    """

    def __init__(self, num_cells, num_classes, dtype):
        self.shapes, self.dtypes = {"cells": (num_cells, num_classes)}, dtype

    def shrink(self, cells):
        """Make what is kept of cells (B, N, K)."""
        return {"cells": cells}

    def expand(self, parts):
        """Make cells (B, N, K) of what is kept."""
        return parts["cells"]

    def pick(self, cells):
        """What of cells comes back as it was."""
        return cells


class TopClasses:
    """Keeps the k largest logits of a cell and one number for all others.

    That number is the logit which, given to each of the others, leaves them their probability
    together. So the probabilities of the k classes are kept, and what is lost is how the others
    share the rest; at a higher temperature it is a larger one.

    Args:
        num_cells, num_classes: N and K.
        dtype: `"float32"` or `"float16"`, of logits.
        count: k.

    Attributes:
        shapes, dtypes: of the arrays that a store keeps of a sample.

    Raises:
        ValueError: if what is kept is no smaller than all logits.
    """

    def __init__(self, num_cells, num_classes, dtype, count):
        self._count, self._num_classes = count, num_classes
        self.shapes = {"cells": (num_cells, count + 1), "classes": (num_cells, count)}
        self.dtypes = {"cells": dtype, "classes": "uint16" if num_classes <= 2**16 else "uint32"}
        logit, label = (np.dtype(x).itemsize for x in self.dtypes.values())
        kept = (count + 1) * logit + count * label
        if kept >= num_classes * logit:
            raise ValueError(
                f"The {count} largest of {num_classes} logits take {kept} bytes with their classes,"
                f" all logits {num_classes * logit}: leave `top_k` out. Received: top_k={count}"
            )

    def shrink(self, cells):
        """Make what is kept of cells (B, N, K)."""
        cells = np.asarray(cells, "float64")
        classes = np.argpartition(-cells, self._count - 1, axis=-1)[..., : self._count]
        largest = np.take_along_axis(cells, classes, axis=-1)
        others = cells.copy()
        np.put_along_axis(others, classes, -np.inf, axis=-1)
        highest = others.max(-1, keepdims=True)
        mass = highest + np.log(np.exp(others - highest).sum(-1, keepdims=True))
        each = mass - np.log(self._num_classes - self._count)
        return {"cells": np.concatenate([largest, each], axis=-1), "classes": classes}

    def expand(self, parts):
        """Make cells (B, N, K) of what is kept."""
        kept, classes = parts["cells"], parts["classes"].astype("int64")
        cells = np.repeat(kept[..., -1:], self._num_classes, axis=-1)
        np.put_along_axis(cells, classes, kept[..., :-1], axis=-1)
        return cells

    def pick(self, cells):
        """What of cells comes back as it was: of nearly equal logits another may be kept."""
        return cells.max(-1)


class CellReader:
    """Reads cells from a store that keeps them in some format.

    Args:
        store: a `keras_sdd.cell_store.CellStore`.
        kept: the format, one of those above.
        num_cells, num_classes: N and K.

    Attributes:
        shapes, dtypes: by name, of what is read: `"teacher_cells"` (N, K).
    """

    def __init__(self, store, kept, num_cells, num_classes):
        self._store, self._kept = store, kept
        self.shapes = {"teacher_cells": (num_cells, num_classes)}
        self.dtypes = {"teacher_cells": store.dtypes["cells"]}

    def read(self, samples, images):
        """A dict of the cells of samples, as `CellStore.read` gives them."""
        return {"teacher_cells": self._kept.expand(self._store.read(samples, images))}
