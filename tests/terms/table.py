"""The table of terms, each with its float64 formula; a new term is one row here."""

import reference
import reference_terms
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


def sp(weights, teacher, student, labels):
    return reference.sp(teacher["map0"], student["map0"])


def reviewkd(weights, teacher, student, labels):
    maps = ([x["map0"], x["embedding"]] for x in (teacher, student))
    return reference_terms.reviewkd(weights, *maps)


def semckd(weights, teacher, student, labels):
    return reference_terms.semckd(weights, [teacher["map0"], teacher["map1"]], [student["map0"]])


TERMS = {
    "SDD": Case(lambda: terms.SDD(DKD(), weight=0.7), sdd, "cells"),
    "FitNet": Case(lambda: terms.FitNet([("conv2", "conv1")], weight=10.0), fitnet),
    "FitNet by itself": Case(lambda: terms.FitNet([("conv2", "conv2")], name="hint_loss"), fitnet),
    "SP": Case(terms.SP, sp),
    "SP of two pairs": Case(
        lambda: terms.SP([("conv1", "conv1"), ("conv2", "conv2")], name="sp_pairs_loss"),
        lambda _, t, s, labels: sum(reference.sp(t[name], s[name]) for name in t),
    ),
    "ReviewKD": Case(lambda: terms.ReviewKD(weight=0.6), reviewkd),
    "SemCKD": Case(
        lambda: terms.SemCKD(24, [("conv1", "conv2"), ("conv2", "conv2")], weight=1.0), semckd
    ),
    "of one value": Case(Remembering, remember, "embedding"),
}
