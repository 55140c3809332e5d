"""The table of logit losses, each with its float64 formula; a new loss is one row here."""

import reference
import reference_losses as formulas

from keras_sdd.losses import (
    DIST,
    DKD,
    GDKD,
    KD,
    MLLD,
    NKD,
    RLD,
    TTM,
    WSLD,
    WTTM,
    BatchRelation,
    ClassRelation,
    NormKD,
    Standardized,
    Sum,
    Swapped,
)
from losses.harness import Case

standardized = formulas.standardized
# The correlations of DIST are a little less than 1 where all is alike: 1e-8 stands in the divisor.
# Relations are numbers of another size than divergences, and float32 rounds them finer.
LOSSES = {
    "KD": Case(KD(), reference.kd),
    "KD without temperature": Case(KD(1.0), lambda *a: reference.kd(*a, 1.0)),
    "DKD": Case(DKD(), reference.dkd, reads_labels=True),
    "DKD otherwise": Case(
        DKD(0.7, 2.0, 1.5), lambda *a: reference.dkd(*a, 0.7, 2.0, 1.5), reads_labels=True
    ),
    "NKD": Case(NKD(), reference.nkd, reads_labels=True, vanishes=False),
    "NKD otherwise": Case(
        NKD(0.5, 3.0), lambda *a: reference.nkd(*a, 0.5, 3.0), reads_labels=True, vanishes=False
    ),
    "NKD with target": Case(
        NKD(mask_target=False),
        lambda *a: reference.nkd(*a, mask_target=False),
        reads_labels=True,
        vanishes=False,
    ),
    "Standardized KD": Case(Standardized(KD(2.0)), standardized(lambda *a: reference.kd(*a, 2.0))),
    "Standardized DKD": Case(Standardized(DKD()), standardized(reference.dkd), reads_labels=True),
    "Standardized RLD": Case(
        Standardized(RLD(1.0, 8.0, 2.0, 2.0)),
        standardized(lambda *a: formulas.rld(*a, 1.0, 8.0, 2.0, 2.0)),
        reads_labels=True,
        vanishes=False,
    ),
    "Standardized NKD": Case(
        Standardized(NKD()), standardized(reference.nkd), reads_labels=True, vanishes=False
    ),
    "Standardized DIST": Case(Standardized(DIST()), standardized(formulas.dist), vanishes=False),
    "DIST": Case(DIST(), formulas.dist, vanishes=False),
    "DIST otherwise": Case(
        DIST(0.5, 3.0, 1.0), lambda *a: formulas.dist(*a, 0.5, 3.0, 1.0), vanishes=False
    ),
    "TTM": Case(TTM(), formulas.ttm, vanishes=False),
    "WTTM": Case(WTTM(), formulas.wttm, vanishes=False),
    "RLD": Case(RLD(), formulas.rld, reads_labels=True, vanishes=False),
    "GDKD": Case(GDKD(), formulas.gdkd, least=6),
    "GDKD of one": Case(
        GDKD(1, (0.5, 1.0, 3.0), 2.0), lambda *a: formulas.gdkd(*a, 1, (0.5, 1.0, 3.0), 2.0)
    ),
    "GDKD in three parts": Case(
        GDKD(4, (1.0, 1.0, 8.0), three_parts=True),
        lambda *a: formulas.gdkd(*a, 4, (1.0, 1.0, 8.0), three_parts=True),
        least=5,
    ),
    "WSLD": Case(WSLD(), formulas.wsld, reads_labels=True, vanishes=False, holds=True),
    "NormKD": Case(NormKD(), formulas.normkd),
    "BatchRelation": Case(BatchRelation(), formulas.batch_relation, rounding=1e-7),
    "ClassRelation": Case(ClassRelation(), formulas.class_relation, rounding=1e-7),
    "MLLD": Case(MLLD(), formulas.mlld),
    "Swapped KD": Case(
        Swapped(KD()),
        lambda label, t, s: reference.kd(label, formulas.swap(label, t), s),
        reads_labels=True,
        vanishes=False,
    ),
    "Sum": Case(
        Sum([KD(), DKD()], [0.5, 3.0]),
        lambda *a: 0.5 * reference.kd(*a) + 3.0 * reference.dkd(*a),
        reads_labels=True,
    ),
    "Sum of both kinds": Case(
        Sum([KD(), DIST()]),
        lambda *a: formulas.per_sample(reference.kd)(*a) + formulas.dist(*a),
        vanishes=False,
    ),
}
