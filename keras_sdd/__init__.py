"""Scale-decoupled knowledge distillation (SDD, CVPR 2024) for Keras 3."""

from keras_sdd import converters, data, distribution, losses, models, optimizers, schedules
from keras_sdd.cache import cache_teacher
from keras_sdd.distiller import SDDDistiller
from keras_sdd.heads import expose_spatial_logits
from keras_sdd.pooling import pool_cells
from keras_sdd.teachers import fold_batch_norm

__all__ = [
    "SDDDistiller",
    "cache_teacher",
    "converters",
    "data",
    "distribution",
    "expose_spatial_logits",
    "fold_batch_norm",
    "losses",
    "models",
    "optimizers",
    "pool_cells",
    "schedules",
]
__version__ = "0.1.0"
