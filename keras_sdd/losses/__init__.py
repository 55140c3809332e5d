"""Distillation losses between logits, their scale-decoupled form, and the supervised loss."""

from keras_sdd.losses.base import LogitLoss
from keras_sdd.losses.batch_relation import BatchRelation
from keras_sdd.losses.cell_relation import CellRelation
from keras_sdd.losses.class_averaged import ClassAveraged
from keras_sdd.losses.class_relation import ClassRelation
from keras_sdd.losses.cross_entropy import CrossEntropy
from keras_sdd.losses.dist import DIST
from keras_sdd.losses.dkd import DKD
from keras_sdd.losses.gdkd import GDKD
from keras_sdd.losses.kd import KD
from keras_sdd.losses.mlld import MLLD
from keras_sdd.losses.nkd import NKD
from keras_sdd.losses.normkd import NormKD
from keras_sdd.losses.rld import RLD
from keras_sdd.losses.scale_decoupled import ScaleDecoupled
from keras_sdd.losses.standardized import Standardized
from keras_sdd.losses.sum import Sum
from keras_sdd.losses.swapped import Swapped
from keras_sdd.losses.ttm import TTM
from keras_sdd.losses.wsld import WSLD
from keras_sdd.losses.wttm import WTTM

__all__ = [
    "BatchRelation",
    "CellRelation",
    "ClassAveraged",
    "ClassRelation",
    "CrossEntropy",
    "DIST",
    "DKD",
    "GDKD",
    "KD",
    "LogitLoss",
    "MLLD",
    "NKD",
    "NormKD",
    "RLD",
    "ScaleDecoupled",
    "Standardized",
    "Sum",
    "Swapped",
    "TTM",
    "WSLD",
    "WTTM",
]
