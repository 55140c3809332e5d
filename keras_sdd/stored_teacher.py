"""A teacher of which nothing is there but the cells that it once gave."""

import os
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import keras
import numpy as np
from keras import ops

from keras_sdd._checks import check_scales
from keras_sdd.cell_formats import CellReader, choose_format
from keras_sdd.cell_store import CellStore
from keras_sdd.data.batches import StoredOutputs, open_batches
from keras_sdd.heads import check_classifier, class_logits
from keras_sdd.store_files import MANIFEST, read_manifest, tell_damaged
from keras_sdd.typing import Config, Dataset, Tensor


@keras.saving.register_keras_serializable(package="keras_sdd")
class StoredTeacher(keras.layers.Layer):
    """Stands in a distiller for the teacher whose cells are in a folder.

    Terms read its logits and cells; those that compare features need the teacher itself. It has
    no weights and computes nothing: the data set of `fit` has to carry the cells.

    Args:
        folder: what `keras_sdd.cache_outputs` filled, or `keras_sdd.cache_teacher` for an
            `SDDDistiller` without further terms.
        held: what the folder holds, as a saved distiller has it, which can be loaded where there
            is no such folder; None to read it there.
        **kwargs: of `keras.layers.Layer`.

    Attributes:
        scales: the scales of the cells, the first 1.
        pooling: how maps were averaged to them.
        num_classes: K.

    Raises:
        FileNotFoundError: if the folder holds nothing.
        ValueError: if it holds something else, or is damaged.

    Examples:
        >>> images, labels = np.ones((6, 32, 32, 3), "float32"), np.arange(6)
        >>> def teach(images):  # any program
        ...     return np.ones((len(images), 4, 4, 10), "float32")
        >>> cells = keras_sdd.cache_outputs(teach, (images, labels), "cells", (1, 2), verbose=0)
        >>> teacher = keras_sdd.StoredTeacher("cells")
        >>> teacher.scales, teacher.num_classes
        ((1, 2), 10)
        >>> student = keras_sdd.models.build("small/cnn_8_16_32")
        >>> distiller = keras_sdd.SDDDistiller(teacher, student, scales=(1, 2))
        >>> train = teacher.attach((images, labels), batch_size=3)  # for distiller.fit
        >>> train[0][1]["teacher_cells"].shape
        (3, 5, 10)
    """

    def __init__(
        self, folder: str | os.PathLike[str], held: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**{"name": "stored_teacher"} | kwargs)
        self.folder = os.fspath(folder)
        held = _find_cells(self.folder) if held is None else held
        self.scales, self.pooling = check_scales(held["scales"]), held["pooling"]
        self.num_classes = held["num_classes"]

    def attach(
        self,
        dataset: Dataset,
        batch_size: int = 32,
        augment: Callable[[np.ndarray, int], np.ndarray] | None = None,
    ) -> Dataset:
        """Give a data set the stored cells of its images.

        Args:
            dataset: as for `keras_sdd.cache_outputs`.
            batch_size: as for `keras_sdd.cache_outputs`.
            augment: as there, where the folder holds several views.

        Returns:
            The data set of (images, `{"labels", "ids", "teacher_cells"}`), as there.

        Raises:
            ValueError: if the folder is damaged, or holds several views and none are shown.
        """
        held, store = _find_cells(self.folder), CellStore.open(self.folder)
        if (held["views"] > 1) != (augment is not None):
            raise ValueError(
                f"{self.folder} holds {held['views']} views of each image; `augment` is the "
                f"function that shows them, where there are several. Received: augment={augment!r}"
            )
        size = (sum(m * m for m in self.scales), self.num_classes)
        kept = choose_format(*size, str(store.dtypes["cells"]), held["top_k"])
        outputs = StoredOutputs(CellReader(store, kept, *size), dict, held["views"], augment)
        return open_batches(dataset, batch_size).attach(outputs)

    def check_student(self, student: keras.Model) -> None:
        """Raise a ValueError if a model cannot be its student.

        Args:
            student: a classifier.
        """
        check_classifier(student)
        classes = class_logits(student).shape[-1]
        if classes != self.num_classes:
            raise ValueError(
                "Teacher and student must have the same number of classes. Received: teacher "
                f"{self.num_classes} in {self.folder}, student {classes}"
            )

    def open_network(self) -> "StoredNetwork":
        """What terms can read of it."""
        return StoredNetwork(self)

    def get_config(self) -> Config:
        held = {name: getattr(self, name) for name in ("scales", "pooling", "num_classes")}
        return super().get_config() | {"folder": self.folder, "held": held}


class StoredNetwork:
    """A `keras_sdd.Network` of stored cells: it has logits and cells, and no features.

    Args:
        teacher: the `StoredTeacher`.
    """

    def __init__(self, teacher: StoredTeacher) -> None:
        self.source = teacher
        self.num_classes = teacher.num_classes
        count = sum(m * m for m in teacher.scales)
        self._cells = keras.Input((count, self.num_classes), dtype="float32", name="teacher_cells")

    @property
    def logits(self) -> Tensor:
        """(B, K): the global cell."""
        return self._cells[:, 0]

    def cells(self, scales: Sequence[int], pooling: str = "direct") -> Tensor:
        """(B, N, K): the cells of scales that are stored."""
        stored, scales = self.source.scales, check_scales(scales)
        missing = [m for m in scales if m not in stored]
        if missing:
            raise ValueError(
                f"The stored teacher has the scales {stored}: use some of these, or store others "
                f"in another folder. Received: scales={scales}, of which {missing} are missing"
            )
        # A nested pooling averages the cells of the finest scale that there is.
        same = pooling == self.source.pooling and (
            pooling == "direct" or max(scales) == max(stored)
        )
        if not same and scales != (1,):
            raise ValueError(
                f"The stored cells were pooled {self.source.pooling!r} from scale {max(stored)}. "
                f"Received: pooling={pooling!r}, scales={scales}"
            )
        if scales == stored:
            return self._cells
        starts = [sum(m * m for m in stored[:i]) for i in range(len(stored))]
        first = dict(zip(stored, starts, strict=True))
        parts = [self._cells[:, first[m] : first[m] + m * m] for m in scales]
        return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=1)

    def check_places(self, what: str) -> None:
        """Nothing: what was computed cannot move."""

    def _refuse(self, *_: Any) -> NoReturn:
        raise ValueError(
            "A stored teacher has the logits of cells and no features: leave out the terms that "
            "compare features or embeddings, or give the teacher itself. Received: the stored "
            f"teacher of {self.source.folder!r}"
        )

    embedding = stages = preactivations = last_map = property(_refuse)
    feature = _refuse

    def freeze(
        self, read: dict[str, Any], fold: Any = True, dtype: str | None = None
    ) -> "StoredReading":
        """What a step reads."""
        if dtype is not None:
            raise ValueError(
                "A stored teacher computes nothing: `teacher_dtype` is for teachers that run. "
                f"Received: teacher_dtype={dtype!r}"
            )
        return StoredReading(self._cells, read, self.source.folder)


class StoredReading:
    """Takes in a step, from the targets, what a `FrozenTeacher` would compute of the images.

    Args:
        cells: symbolic, what the data set carries.
        read: nested dict of symbolic tensors made of it.
        folder: for messages.
    """

    takes_cells = True
    copy = None

    def __init__(self, cells: Tensor, read: dict[str, Any], folder: str | os.PathLike[str]) -> None:
        self.outputs, self._folder = read, folder
        self.variables: list[keras.Variable] = []
        self.model = keras.Model(cells, read)
        self._shape = tuple(cells.shape[1:])

    def follow(self, anyway: bool = False) -> None:
        """Nothing."""

    def check(self, x: Tensor, targets: Any = None) -> bool:
        """Raise a ValueError if the targets of a batch lack the cells, or have others."""
        cells = targets.get("teacher_cells") if isinstance(targets, dict) else None
        shape = None if cells is None else tuple(cells.shape[1:])
        if shape != self._shape:
            raise ValueError(
                "The data set has to carry the cells of the stored teacher, one array "
                f'"teacher_cells" (B, {self._shape[0]}, {self._shape[1]}) among its targets: train '
                "with distiller.teacher.attach(dataset), or what keras_sdd.cache_outputs gives. "
                f"Received: {'none' if shape is None else f'cells (B, *{shape})'} for "
                f"{self._folder!r}"
            )
        return False

    def complete(
        self, distiller: keras.Model, state: Any, x: Tensor, targets: dict[str, Any]
    ) -> dict[str, Any]:
        """Targets with what the terms read of the teacher, as `"teacher"`."""
        self.check(x, targets)
        others = {name: value for name, value in targets.items() if name != "teacher_cells"}
        cells = ops.cast(ops.convert_to_tensor(targets["teacher_cells"]), "float32")
        return others | {"teacher": self.model(cells)}

    def predict(self, x: Tensor) -> NoReturn:
        """Nothing is known of images."""
        raise ValueError(
            "A stored teacher computes nothing of images: distiller.teacher.attach(dataset) gives "
            f"what it has. Received: a distiller with the stored teacher of {self._folder!r}"
        )


def _find_cells(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What is known of the cells in a folder: scales, pooling, num_classes, views, top_k."""
    if not os.path.exists(os.path.join(folder, MANIFEST)):
        CellStore.open(folder)  # says so
    held = {"views": 1, "top_k": None} | read_manifest(folder)
    shape = held.get("shape")
    if isinstance(shape, dict) and "classes" not in shape:
        raise ValueError(
            f"{folder} holds what some terms read of a teacher, and a stored teacher needs cells: "
            "fill a folder with keras_sdd.cache_outputs, or with keras_sdd.cache_teacher for an "
            f"SDDDistiller without feature_losses. Received: {', '.join(shape)}"
        )
    try:
        scales = check_scales(held["scales"])
        count, classes = (shape["cells"][0], held["num_classes"]) if "classes" in shape else shape
        held |= {"scales": (1, *(m for m in scales if m != 1)), "num_classes": classes}
        if count != sum(m * m for m in held["scales"]):
            raise ValueError
    except (KeyError, TypeError, ValueError) as error:
        raise tell_damaged(folder) from error
    return held
