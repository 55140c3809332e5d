"""The terms of a distillation loss, and the bases for terms of your own."""

from keras_sdd.terms.at import AT
from keras_sdd.terms.base import Term
from keras_sdd.terms.crd import CRD
from keras_sdd.terms.ctkd import CTKD
from keras_sdd.terms.features import EmbeddingTerm, FeatureTerm
from keras_sdd.terms.fitnet import FitNet
from keras_sdd.terms.mgd import MGD
from keras_sdd.terms.pkt import PKT
from keras_sdd.terms.reviewkd import ReviewKD
from keras_sdd.terms.rkd import RKD
from keras_sdd.terms.sdd import SDD
from keras_sdd.terms.sdd_sp import SDDSP
from keras_sdd.terms.semckd import SemCKD
from keras_sdd.terms.simkd import SimKD
from keras_sdd.terms.sp import SP

__all__ = [
    "AT", "CRD", "CTKD", "MGD", "PKT", "RKD", "SDD", "SDDSP", "SP", "EmbeddingTerm", "FeatureTerm",
    "FitNet", "ReviewKD", "SemCKD", "SimKD", "Term",
]  # fmt: skip
