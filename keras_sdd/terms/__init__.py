"""The terms of a distillation loss, and the bases for terms of your own."""

from keras_sdd.terms.base import Term
from keras_sdd.terms.crd import CRD
from keras_sdd.terms.features import EmbeddingTerm, FeatureTerm
from keras_sdd.terms.fitnet import FitNet
from keras_sdd.terms.sdd import SDD
from keras_sdd.terms.sp import SP

__all__ = ["CRD", "SDD", "SP", "EmbeddingTerm", "FeatureTerm", "FitNet", "Term"]
