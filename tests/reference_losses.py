"""Float64 NumPy formulas of the logit losses, as their papers write them.

Those of one position take (label, teacher (K,), student (K,)); those that relate samples take
(labels (B,), teacher (B, K), student (B, K)) and give one value.
"""

import numpy as np
from reference import kd, kl, log_softmax


def softmax(logits):
    return np.exp(np.apply_along_axis(log_softmax, -1, logits))


def standardize(logits):
    mean, std = logits.mean(-1, keepdims=True), logits.std(-1, ddof=1, keepdims=True)
    return (logits - mean) / (std + 1e-7)


def standardized(formula):
    return lambda label, t, s: formula(label, standardize(t), standardize(s))


def pearson(a, b):
    a, b = a - a.mean(), b - b.mean()
    return np.sum(a * b) / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-8)


def dist(labels, teacher, student, beta=1.0, gamma=1.0, temperature=4.0):
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    inter = 1 - np.mean([pearson(a, b) for a, b in zip(p, q, strict=True)])
    intra = 1 - np.mean([pearson(a, b) for a, b in zip(p.T, q.T, strict=True)])
    return temperature**2 * (beta * inter + gamma * intra)


def ttm(label, teacher, student, power=0.1):
    return kl(log_softmax(power * teacher), log_softmax(student))


def wttm(label, teacher, student, power=0.2):
    weight = np.sum(np.exp(log_softmax(teacher)) ** power)
    return weight * ttm(label, teacher, student, power)


def yes_or_no(log_p, index):
    """Log-probabilities of a class and of all others together."""
    return np.array([log_p[index], log_sum(np.delete(log_p, index))])


def log_sum(log_p):
    return log_p.max() + np.log(np.exp(log_p - log_p.max()).sum())


def rld(label, teacher, student, alpha=1.0, beta=8.0, temperature=4.0, confidence_temperature=1.0):
    t, s = (log_softmax(x / confidence_temperature) for x in (teacher, student))
    confidence = kl(yes_or_no(t, teacher.argmax()), yes_or_no(s, label))
    below = teacher < teacher[label]
    correlation = 0.0
    if below.any():
        correlation = kd(label, teacher[below], student[below], temperature)
    return alpha * confidence_temperature**2 * confidence + beta * correlation


def gdkd(
    label, teacher, student, num_top=5, weights=(1.0, 2.0, 8.0), temperature=4.0, three_parts=False
):
    order = np.argsort(-teacher, kind="stable")
    top, rest = order[:num_top], order[num_top:]
    parts = [top[:1], top[1:], rest] if three_parts else [top, rest]
    t, s = teacher / temperature, student / temperature
    totals = [np.array([log_sum(log_softmax(z)[part]) for part in parts]) for z in (t, s)]
    inside = [kl(log_softmax(t[i]), log_softmax(s[i])) for i in parts[-2:]]
    among, of_top, of_rest = weights
    loss = among * kl(*totals) + of_top * inside[0] + of_rest * inside[1]
    return temperature**2 * loss


def wsld(label, teacher, student, temperature=4.0, held=None):
    """`held`: the student's logits in the weight, which has no gradient; the same if None."""
    of_teacher = -log_softmax(teacher)[label]
    of_student = -log_softmax(student if held is None else held)[label]
    weight = 1 - np.exp(-of_student / (of_teacher + 1e-7))
    p, log_q = softmax(teacher / temperature), log_softmax(student / temperature)
    return -(temperature**2) * weight * np.sum(np.where(p > 0, p * log_q, 0.0))


def swap(label, teacher):
    """The logits of a teacher that is right: the label's and the largest change places."""
    swapped, top = teacher.copy(), teacher.argmax()
    swapped[[label, top]] = teacher[[top, label]]
    return swapped


def normkd(label, teacher, student, factor=2.0):
    t, s = factor * teacher.std(ddof=1), factor * student.std(ddof=1)
    return t**2 * kl(log_softmax(teacher / t), log_softmax(student / s))


def batch_relation(labels, teacher, student, temperature=4.0):
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    return np.sum((p @ p.T - q @ q.T) ** 2) / len(p)


def class_relation(labels, teacher, student, temperature=4.0):
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    return np.sum((p.T @ p - q.T @ q) ** 2) / p.shape[1]


def per_sample(formula):
    """The values (B,) of a formula of one position."""
    return lambda labels, t, s: np.array([formula(*x) for x in zip(labels, t, s, strict=True)])


def mlld(labels, teacher, student, temperatures=(4.0, 3.0, 5.0, 2.0, 6.0)):
    values = 0.0
    for temperature in temperatures:
        args = labels, teacher, student
        values = values + per_sample(lambda *a, t=temperature: kd(*a, t))(*args)
        values = values + batch_relation(*args, temperature) + class_relation(*args, temperature)
    return values


def cell_relation(teacher, student, scales=(1, 2, 4), temperature=2.0):
    """iCD's relation between the cells (N, K) of one image, in the scales' own weights."""
    weights, start, total = [1 + np.log2(m) for m in scales], 1, 0.0
    for m, weight in zip(scales, weights, strict=True):
        own = slice(0, 1) if m == 1 else slice(start, start + m * m)
        start += 0 if m == 1 else m * m
        grams = []
        for cells in (teacher[own], student[own]):
            unit = cells / np.maximum(np.linalg.norm(cells, axis=1, keepdims=True), 1e-12)
            grams.append(unit @ unit.T / temperature)
        pairs = zip(*grams, strict=True)
        total += weight / sum(weights) * sum(kl(log_softmax(a), log_softmax(b)) for a, b in pairs)
    return total


def class_averaged(label, teacher, student, formula=kd, merge=True):
    """Cells (N, K) of one image, the first the global one, averaged class by class."""
    groups = {}
    for t, s in zip(teacher[1:], student[1:], strict=True):
        groups.setdefault(int(t.argmax()), []).append((t, s))
    averages = [np.mean(group, axis=0) for group in groups.values()]
    if merge:
        return formula(label, *np.mean(averages, axis=0))
    return np.mean([formula(label, *pair) for pair in averages])
