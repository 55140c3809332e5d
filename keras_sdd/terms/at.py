"""AT: attention transfer, where in the image the stages of both networks answer."""

import keras
from keras import ops

from keras_sdd._checks import check_number
from keras_sdd.networks import Network
from keras_sdd.pooling import average_to, check_size
from keras_sdd.terms.features import FeatureTerm, match_stages
from keras_sdd.terms.lengths import to_unit_length
from keras_sdd.typing import LayerPairs, Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_sdd")
class AT(FeatureTerm):
    """Squared distance between the attention maps of both networks.

    An attention map is the mean over the channels of |f|^power, (B, H * W), divided by its length.
    A sample's value is the mean over the positions, summed over the pairs of layers. The larger of
    two maps is averaged to the size of the smaller one before, over adaptive bins; channels may
    differ.

    Args:
        power: of the features, 1 or greater.
        layers: pairs of names; by default the ends of the stages, without the stem.
        weight: factor in the loss; that of the public programs.
        warmup_steps: as for `FeatureTerm`.
        name: as for `FeatureTerm`.

    Raises:
        ValueError: for a smaller `power`; when it is built, for what are no maps of known size.

    Source: Zagoruyko and Komodakis, "Paying More Attention to Attention" (ICLR 2017), eq. 2, with
    squares and means as the public programs have them.

    Examples:
        >>> term = keras_sdd.terms.AT(power=1)
        >>> teacher = np.array([3.0, 4.0]).reshape(1, 1, 2, 1)  # two positions: 0.6 and 0.8
        >>> student = np.ones((1, 1, 2, 8))  # alike: 1 / sqrt(2) both
        >>> value = term.compare(teacher, student)
        >>> round(float(value[0]), 4)
        0.0101
    """

    def __init__(
        self,
        power: float = 2,
        layers: LayerPairs | None = None,
        weight: float = 1000.0,
        warmup_steps: int = 0,
        name: str = "at_loss",
    ) -> None:
        super().__init__(layers, weight, warmup_steps, name)
        self.power = check_number("power", power)
        if self.power < 1:
            raise ValueError(f"`power` must be 1 or greater. Received: power={power!r}")

    def choose_pairs(self, teacher: Network, student: Network) -> LayerPairs:
        return match_stages(teacher, student)

    def read_student(self, network: Network) -> dict[str, Tensor]:
        network.check_places("maps")
        return super().read_student(network)

    def build(self, teacher_shapes: dict[str, Shape], student_shapes: dict[str, Shape]) -> None:
        for shape in (*teacher_shapes.values(), *student_shapes.values()):
            check_size(shape)

    def compare(self, teacher_map: Tensor, student_map: Tensor) -> Tensor:
        sizes = zip(teacher_map.shape[1:3], student_map.shape[1:3], strict=True)
        size = [min(sides) for sides in sizes]
        maps = [average_to(x, size) for x in (teacher_map, student_map)]
        teacher, student = (self.attend(x) for x in maps)
        return ops.mean((teacher - student) ** 2, axis=-1)

    def attend(self, maps: Tensor) -> Tensor:
        """The attention maps (B, H * W), of length 1, of float32 maps (B, H, W, C)."""
        # A factor of a sample changes none of them: without it powers overflow.
        largest = ops.stop_gradient(ops.max(ops.abs(maps), axis=(1, 2, 3), keepdims=True))
        maps = ops.abs(maps) / ops.where(largest > 0, largest, 1.0)
        attention = ops.mean(maps**self.power, axis=-1)
        return to_unit_length(ops.reshape(attention, (-1, maps.shape[1] * maps.shape[2])))
