"""The table of terms, each with its float64 formula; a new term is one row here."""

import functools

import keras
import numpy as np
import reference
import reference_losses
import reference_terms
from keras import ops
from terms_of_users import Remembering, remember

from keras_sdd import terms
from keras_sdd.losses import DKD, CellRelation
from terms.harness import Case


def fitnet(weights, teacher, student, labels):
    return reference.fitnet(
        teacher["map0"], student["map0"], weights["conv/kernel"], weights["conv/bias"],
        weights["bn/gamma"], weights["bn/beta"],
    )  # fmt: skip


def sdd(weights, teacher, student, labels):
    return reference.scale_decoupled(reference.dkd, labels, teacher["cells"], student["cells"])


def cell_relation(weights, teacher, student, labels):
    cells = zip(teacher["cells"], student["cells"], strict=True)
    return np.array([reference_losses.cell_relation(t, s) for t, s in cells])


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


def crd(weights, teacher, student, labels):
    """What both sides add, for the samples 0, 1, ... of a data set and negatives of `FixedCRD`."""
    ids = np.arange(len(labels))
    others = (3 * labels[:, None] + np.arange(10)) % len(labels)
    total = 0.0
    for own, other, reading in (("teacher", "student", teacher), ("student", "teacher", student)):
        v = reading["embedding"] @ weights[f"embed_{own}/kernel"] + weights[f"embed_{own}/bias"]
        v = v / np.linalg.norm(v, axis=1, keepdims=True)
        scores = np.exp(v @ weights[f"{other}_memory"].T / 0.07)
        positive = scores[ids, ids]
        negative = scores[ids[:, None], others]
        z = weights[f"{own}_normalizer"]
        if z < 0:
            z = np.concatenate([positive[:, None], negative], axis=1).mean() * len(labels)
        noise = 10 / len(labels)
        total = total - np.log(positive / (positive + noise * z))
        total = total - np.sum(np.log(noise * z / (negative + noise * z)), axis=1)
    return total


@keras.saving.register_keras_serializable(package="tests")
class FixedCRD(terms.CRD):
    """Takes the same negatives every time, so that two devices take those of one."""

    def draw_negatives(self, labels):
        return (3 * labels[:, None] + ops.arange(10, dtype="int32")) % self.num_samples


def reviewkd(weights, teacher, student, labels):
    maps = ([x["map0"], x["embedding"]] for x in (teacher, student))
    return reference_terms.reviewkd(weights, *maps)


def semckd(weights, teacher, student, labels):
    return reference_terms.semckd(weights, [teacher["map0"], teacher["map1"]], [student["map0"]])


TERMS = {
    "CRD": Case(lambda: FixedCRD(24, num_negatives=10, num_features=8), crd, "embedding"),
    "SDD": Case(lambda: terms.SDD(DKD(), weight=0.7), sdd, "cells"),
    "SDD of related cells": Case(
        lambda: terms.SDD(CellRelation(), weight=2.0, name="cell_relation_loss"),
        cell_relation,
        "cells",
    ),
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
    "ReviewKD": Case(lambda: terms.ReviewKD(weight=0.6), reviewkd),
    "SemCKD": Case(
        lambda: terms.SemCKD(24, [("conv1", "conv2"), ("conv2", "conv2")], weight=1.0), semckd
    ),
    "of one value": Case(Remembering, remember, "embedding"),
}
