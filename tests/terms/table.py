"""The table of terms, each with its float64 formula; a new term is one row here."""

import functools

import numpy as np
import reference
from terms_of_users import Remembering, remember

from keras_sdd import terms
from keras_sdd.losses import DKD
from terms.harness import Case


def fitnet(weights, teacher, student, labels):
    return reference.fitnet(
        teacher["map0"], student["map0"], weights["conv/kernel"], weights["conv/bias"],
        weights["bn/gamma"], weights["bn/beta"],
    )  # fmt: skip


def sdd(weights, teacher, student, labels):
    return reference.scale_decoupled(reference.dkd, labels, teacher["cells"], student["cells"])


def mgd(weights, teacher, student, labels):
    return reference.mgd(teacher["map0"], student["map0"], weights)


def ctkd(weights, teacher, student, labels):
    temperature = 1 + 20 / (1 + np.exp(-weights["theta"]))
    formula = functools.partial(reference.kd, temperature=temperature)
    return reference.scale_decoupled(formula, labels, teacher["cells"], student["cells"])


def of_embeddings(formula):
    return lambda weights, t, s, labels: formula(t["embedding"], s["embedding"])


def of_maps(formula):
    return lambda weights, t, s, labels: formula(t["map0"], s["map0"])


TERMS = {
    "SDD": Case(lambda: terms.SDD(DKD(), weight=0.7), sdd, "cells"),
    "FitNet": Case(lambda: terms.FitNet([("conv2", "conv1")], weight=10.0), fitnet),
    "FitNet by itself": Case(lambda: terms.FitNet([("conv2", "conv2")], name="hint_loss"), fitnet),
    "SP": Case(terms.SP, of_maps(reference.sp)),
    "SP of two pairs": Case(
        lambda: terms.SP([("conv1", "conv1"), ("conv2", "conv2")], name="sp_pairs_loss"),
        lambda _, t, s, labels: sum(reference.sp(t[name], s[name]) for name in t),
    ),
    "SDD-SP": Case(terms.SDDSP, of_maps(reference.sdd_sp)),
    "AT": Case(terms.AT, of_maps(reference.at)),
    "RKD": Case(terms.RKD, of_embeddings(reference.rkd), "embedding"),
    "PKT": Case(terms.PKT, of_embeddings(reference.pkt), "embedding"),
    # Without a mask, which no formula knows.
    "MGD": Case(lambda: terms.MGD(0.0, layers=[("conv1", "conv2")]), mgd),
    "CTKD": Case(lambda: terms.CTKD(scales=(1, 2), start=-2.0, ramp_steps=2), ctkd, "cells"),
    "of one value": Case(Remembering, remember, "embedding"),
}
