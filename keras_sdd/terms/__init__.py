"""The terms of a distillation loss, and the bases for terms of your own."""

from keras_sdd.terms.base import Term
from keras_sdd.terms.features import EmbeddingTerm, FeatureTerm
from keras_sdd.terms.fitnet import FitNet
from keras_sdd.terms.reviewkd import ReviewKD
from keras_sdd.terms.sdd import SDD
from keras_sdd.terms.semckd import SemCKD
from keras_sdd.terms.simkd import SimKD
from keras_sdd.terms.sp import SP

__all__ = [
    "SDD",
    "SP",
    "EmbeddingTerm",
    "FeatureTerm",
    "FitNet",
    "ReviewKD",
    "SemCKD",
    "SimKD",
    "Term",
]
