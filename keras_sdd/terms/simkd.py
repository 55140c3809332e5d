"""SimKD: the student's projected last map is to be the teacher's."""

import keras
from keras import ops

from keras_sdd.networks import Network
from keras_sdd.pooling import average_to, check_size
from keras_sdd.terms.features import FeatureTerm
from keras_sdd.typing import LayerPairs, Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_sdd")
class SimKD(FeatureTerm):
    """Squared distance between the teacher's last map and what the student's projector makes.

    It is for a student of `keras_sdd.reuse_classifier`, which predicts from that map through the
    teacher's classifier. The authors train with it alone: `Distiller(teacher, student, [SimKD()],
    student_loss_weight=0.0)`. A teacher's map that is larger is averaged to the student's size. A
    sample's value is the mean over its map.

    Args:
        layers: pairs (teacher's, student's); by default the teacher's last map and the projector.
        weight: as for `FeatureTerm`.
        warmup_steps: as for `FeatureTerm`.
        name: as for `FeatureTerm`.

    Raises:
        ValueError: where the student has no projector and no layers are named; when it is built,
            for maps that differ in channels.

    Source: Chen et al., "Knowledge Distillation with the Reused Teacher Classifier" (CVPR 2022).

    Examples:
        >>> term = keras_sdd.terms.SimKD()
        >>> teacher, student = np.full((1, 8, 8, 16), 3.0), np.ones((1, 4, 4, 16))
        >>> float(term.compare(teacher, student)[0])
        4.0
    """

    def __init__(
        self,
        layers: LayerPairs | None = None,
        weight: float = 1.0,
        warmup_steps: int = 0,
        name: str = "simkd_loss",
    ) -> None:
        super().__init__(layers, weight, warmup_steps, name)

    def choose_pairs(self, teacher: Network, student: Network) -> LayerPairs:
        return [(teacher.last_map, "projector")]

    def read_student(self, network: Network) -> dict[str, Tensor]:
        network.check_places("maps")
        try:
            return super().read_student(network)
        except ValueError as error:
            if self.layers is not None:
                raise
            raise ValueError(
                "SimKD reads the projector of a student that keras_sdd.reuse_classifier(teacher, "
                f"student) made; make one, or name layers. Received: {network.source.name!r}"
            ) from error

    def build(self, teacher_shapes: dict[str, Shape], student_shapes: dict[str, Shape]) -> None:
        for name, shape in teacher_shapes.items():
            sizes = [check_size(x) for x in (shape, student_shapes[name])]
            if sizes[0][-1] != sizes[1][-1]:
                raise ValueError(
                    "SimKD compares maps of as many channels; build the student with "
                    f"keras_sdd.reuse_classifier(teacher, student). Received: teacher's {shape}, "
                    f"student's {student_shapes[name]}"
                )

    def compare(self, teacher_map: Tensor, student_map: Tensor) -> Tensor:
        teacher_map, student_map = (ops.cast(x, "float32") for x in (teacher_map, student_map))
        gap = student_map - average_to(teacher_map, student_map.shape[1:3])
        return ops.mean(gap**2, axis=(1, 2, 3))
