"""What the tests use of heads and networks beside the public `expose_spatial_logits`.

The one place that imports it, so that the tests do not hang on where the library keeps it.
"""

from keras_sdd import Network
from keras_sdd.heads import check_classifier, class_logits

__all__ = ["check_classifier", "class_logits", "expose_cells"]


def expose_cells(model, scales, pooling="direct"):
    """A model of the logits and the cells, as a distiller reads both of its student."""
    network = Network(model)
    cells = network.cells(scales, pooling)
    return network.select({"logits": network.logits, "cells": cells})
