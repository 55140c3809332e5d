"""Scale-decoupled knowledge distillation (SDD, CVPR 2024) for Keras 3."""

from keras_sdd import converters, data, distribution, losses, models, optimizers, schedules
from keras_sdd.distiller import SDDDistiller
from keras_sdd.heads import expose_spatial_logits
from keras_sdd.pooling import pool_cells

__all__ = [
    "SDDDistiller",
    "converters",
    "data",
    "distribution",
    "expose_spatial_logits",
    "losses",
    "models",
    "optimizers",
    "pool_cells",
    "schedules",
]
__version__ = "0.1.0"
