"""A term of the loss: what it reads of both networks, and what it makes of that."""

import re
from typing import Any

import keras
from keras import layers, ops

from keras_sdd import _backend
from keras_sdd._checks import check_number
from keras_sdd.losses.base import Configurable, average, check_saving
from keras_sdd.networks import Network
from keras_sdd.typing import Config, Shape, Tensor


class Term(Configurable, layers.Layer):
    """One part of a distillation loss.

    A term of your own is a subclass with two methods, `read` and `call`.

    What it learns (layers, trainable variables) it makes in `build`: the distiller trains that with
    the student, saves it, and leaves it out of `distiller.student`. What it remembers is a
    non-trainable variable of its own (`add_weight`). With several devices the moving statistics of
    its batch norms are averaged, and what it remembers is not.

    Arguments of `__init__` are kept as attributes of the same name; saving relies on it.

    Args:
        weight: factor of the term in the loss, 0 or greater.
        warmup_steps: number of training steps over which the weight grows linearly: step k, counted
            from 1, has min(k / warmup_steps, 1) of it. 0 for none.
        name: its key in the logs; None for the name of the class.

    Attributes:
        weight: a scalar variable; what is assigned to it holds from the next step on.
        relates_samples: whether the value of a sample depends on the others of its batch. With
            several devices such a term sees a device's part of the batch, except on JAX.
        storable: whether what it reads of the teacher may be kept on disk by
            `keras_sdd.cache_teacher`, as it depends on the image alone.
        needs_ids: whether it tells the samples of the data set from each other: targets have
            `"ids"` then. `fit` with arrays numbers the rows itself.

    Raises:
        ValueError: if `weight` or `warmup_steps` is negative or not finite.

    Examples:
        >>> @keras.saving.register_keras_serializable()
        ... class EmbeddingDistance(keras_sdd.terms.Term):
        ...     def read(self, network):
        ...         return {"embedding": network.embedding}
        ...
        ...     def call(self, teacher, student, targets):
        ...         gap = teacher["embedding"] - student["embedding"]
        ...         return keras.ops.mean(gap**2, axis=-1)
        >>> term = EmbeddingDistance(weight=10.0, warmup_steps=100)
        >>> term.name, float(term.weight)
        ('embedding_distance_loss', 10.0)
        >>> value = term.call({"embedding": np.ones((1, 8))}, {"embedding": np.zeros((1, 8))}, {})
        >>> float(value[0])  # unweighted
        1.0
    """

    relates_samples = False
    storable = True
    needs_ids = False

    def __init__(self, weight: float = 1.0, warmup_steps: int = 0, name: str | None = None) -> None:
        super().__init__(name=name or _name_after(type(self)), dtype="float32")
        self._weight = add_scalar(self, "weight", check_number("weight", weight))
        self._warmup_steps = check_number("warmup_steps", warmup_steps)
        self._warmup_step = add_scalar(self, "warmup_step", 0.0)
        self._tracker_of_loss = keras.metrics.Mean(name=self.name)

    @property
    def weight(self) -> keras.Variable:
        """The factor of the term in the loss, a scalar variable."""
        return self._weight

    @weight.setter
    def weight(self, value: float) -> None:
        self._weight.assign(check_number("weight", value))

    @property
    def warmup_steps(self) -> float:
        """Number of steps over which the weight grows; fixed, as it is part of the program."""
        return self._warmup_steps

    def choose(self, teacher: Network, student: Network) -> None:
        """Look at both networks, before either is read.

        Args:
            teacher: `keras_sdd.Network`.
            student: `keras_sdd.Network`.
        """

    def read(self, network: Network) -> dict[str, Tensor]:
        """Choose what the term reads of a network, both alike; or write the two methods below.

        Args:
            network: `keras_sdd.Network`.

        Returns:
            dict of name to symbolic tensor.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `read(network)`, or `read_teacher(network)` and "
            "`read_student(network)`."
        )

    def read_teacher(self, network: Network) -> dict[str, Tensor]:
        """Choose what the term reads of the teacher.

        Args:
            network: `keras_sdd.Network`.

        Returns:
            dict of name to symbolic tensor.
        """
        return self.read(network)

    def read_student(self, network: Network) -> dict[str, Tensor]:
        """Choose what the term reads of the student.

        Args:
            network: `keras_sdd.Network`.

        Returns:
            dict of name to symbolic tensor.
        """
        return self.read(network)

    def build(self, teacher_shapes: dict[str, Shape], student_shapes: dict[str, Shape]) -> None:
        """Make what the term learns or remembers, from dicts of name to shape.

        Args:
            teacher_shapes: of what was read, with None for the batch.
            student_shapes: of what was read, with None for the batch.
        """

    def call(
        self, teacher: dict[str, Tensor], student: dict[str, Tensor], targets: dict[str, Any]
    ) -> Tensor:
        """Compute the term, unweighted.

        Args:
            teacher: dict of what was read of it, float32 tensors.
            student: the same of the student.
            targets: dict of what the data set gives: `"labels"` and others, as `"ids"`.

        Returns:
            A value for each sample (B,), or () where no sample owns it.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `call(teacher, student, targets)`."
        )

    def check_targets(self, targets: dict[str, Any]) -> None:
        """Raise a ValueError if the targets of a first batch, a dict of arrays, will not do.

        Args:
            targets: as for `call`.
        """
        if self.needs_ids and "ids" not in targets:
            raise ValueError(
                f"{self.name!r} needs the number of every sample in the data set: give arrays to "
                'fit, or targets {"labels": ..., "ids": ...}, as keras_sdd.data.load has them '
                f"with_ids=True. Received: targets {sorted(targets)}"
            )

    def find_teacher_logits(self, teacher: dict[str, Tensor]) -> Tensor:
        """The teacher's logits (B, K) of the whole image, if they are in what the term reads.

        They stand in for labels that are missing.

        Args:
            teacher: what was read of it, as for `call`.

        Returns:
            Tensor (B, K), or None.
        """

    def identify_reading(self) -> dict[str, Any]:
        """What tells the teacher's part from that of another term like it, for a cache on disk."""
        return {}

    def compute(
        self,
        teacher: dict[str, Tensor],
        student: dict[str, Tensor],
        targets: dict[str, Any],
        sample_weight: Tensor,
        batch_size: Tensor,
    ) -> Tensor:
        """The weighted term of a training step, averaged over the batch and logged: ().

        Args:
            teacher: as for `call`.
            student: as for `call`.
            targets: as for `call`.
            sample_weight: (B,), or None.
            batch_size: scalar.

        Returns:
            Scalar tensor.
        """
        values = ops.cast(self(teacher, student, targets, training=True), "float32")
        if len(values.shape) > 1:
            raise ValueError(
                f"A term must give a value for each sample (B,), or one (). Received: {self.name!r}"
                f" gives {tuple(values.shape)}"
            )
        # Keras sums losses over replicas: each has its part, and what is logged is the whole.
        replicas = _backend.count_replicas()
        mean = average(values, sample_weight) if len(values.shape) else values / replicas
        loss = self._weight * self._advance() * mean
        self._tracker_of_loss.update_state(replicas * loss, batch_size)
        return loss

    def _advance(self) -> Tensor:
        """Count a step and return its part of the weight."""
        if not self._warmup_steps:
            return 1.0
        step = ops.minimum(self._warmup_step + 1.0, self._warmup_steps)
        self._warmup_step.assign(step)
        return step / self._warmup_steps

    def get_config(self) -> Config:
        config = super().get_config()
        return config | ({"weight": to_number(self._weight)} if "weight" in config else {})

    def get_build_config(self) -> None:
        return None  # the distiller builds its terms, from its two models


def check_terms(terms: Any) -> tuple[Term, ...]:
    """The terms as a tuple, if they can stand side by side in a new distiller."""
    terms = tuple(terms) if isinstance(terms, (list, tuple)) else (terms,)
    if not terms or not all(isinstance(term, Term) for term in terms):
        raise ValueError(f"`terms` must be keras_sdd.terms, one or more. Received: terms={terms!r}")
    names = ["loss", "student_loss", "logits"]
    for term in terms:
        if term.built:
            raise ValueError(
                "A term belongs to one distiller: make a new one, for example with "
                f"type(term).from_config(term.get_config()). Received: {term.name!r}, built before"
            )
        if term.name in names:
            raise ValueError(
                "Terms are logged by name: give each one of its own, name=..., that is none of "
                f"loss, student_loss and logits. Received: {term.name!r} twice"
            )
        names.append(term.name)
        check_saving(term)
    return terms


def check_reading(term: Term, read: Any) -> dict[str, Tensor]:
    """Return what a term reads, if it is a dict of symbolic tensors."""
    if not isinstance(read, dict) or not all(map(keras.utils.is_keras_tensor, read.values())):
        raise ValueError(
            "A term reads a dict of name to tensor of its network, for example "
            f'{{"embedding": network.embedding}}. Received: {read!r} from {term.name!r}'
        )
    return read


def add_scalar(layer: keras.layers.Layer, name: str, value: float) -> keras.Variable:
    """Give a layer a number that callbacks may change: part of a step's state, not its program."""
    return layer.add_weight(
        name=name, initializer=keras.initializers.Constant(value), trainable=False,
        autocast=False, dtype="float32", aggregation="only_first_replica",
    )  # fmt: skip


def to_number(variable: keras.Variable) -> float:
    """The shortest number that a float32 variable rounds to: 0.9, not 0.8999999761581421."""
    return float(str(ops.convert_to_numpy(variable)))


def _name_after(cls: type) -> str:
    """`EmbeddingDistance` to `embedding_distance_loss`: the same in every process."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__)
    return f"{words.lower().strip('_')}_loss"
