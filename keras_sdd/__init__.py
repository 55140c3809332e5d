"""Scale-decoupled knowledge distillation (SDD, CVPR 2024) for Keras 3."""

from keras_sdd import (
    calibration,
    callbacks,
    converters,
    data,
    distribution,
    losses,
    models,
    optimizers,
    schedules,
    teachers,
    terms,
    typing,
)
from keras_sdd.cache import cache_teacher
from keras_sdd.distiller import Distiller
from keras_sdd.folding import fold_batch_norm
from keras_sdd.heads import expose_spatial_logits
from keras_sdd.inspection import inspect_cells
from keras_sdd.networks import Network
from keras_sdd.outputs import cache_outputs
from keras_sdd.pooling import pool_cells
from keras_sdd.sdd import SDDDistiller
from keras_sdd.simkd import reuse_classifier
from keras_sdd.stored_teacher import StoredTeacher

__all__ = [
    "Distiller",
    "Network",
    "SDDDistiller",
    "StoredTeacher",
    "cache_outputs",
    "cache_teacher",
    "calibration",
    "callbacks",
    "converters",
    "data",
    "distribution",
    "expose_spatial_logits",
    "fold_batch_norm",
    "inspect_cells",
    "losses",
    "models",
    "optimizers",
    "pool_cells",
    "reuse_classifier",
    "schedules",
    "teachers",
    "terms",
    "typing",
]
__version__ = "0.1.0"
