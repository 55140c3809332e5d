"""Distillation losses between logits, their scale-decoupled form, and the supervised loss."""

from keras_sdd.losses.base import LogitLoss
from keras_sdd.losses.cross_entropy import CrossEntropy
from keras_sdd.losses.dkd import DKD
from keras_sdd.losses.kd import KD
from keras_sdd.losses.nkd import NKD
from keras_sdd.losses.scale_decoupled import ScaleDecoupled

__all__ = ["DKD", "KD", "NKD", "CrossEntropy", "LogitLoss", "ScaleDecoupled"]
