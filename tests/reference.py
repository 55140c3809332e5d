"""Independent float64 NumPy formulas that the tests compare with, written position by position."""

import numpy as np


def log_softmax(logits):
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def kl(log_p, log_q):
    """Divergence between two distributions given by their log-probabilities."""
    p = np.exp(log_p)
    return np.sum(np.where(p > 0, p * (log_p - log_q), 0.0))


def kd(label, teacher, student, temperature=4.0):
    return temperature**2 * kl(
        log_softmax(teacher / temperature), log_softmax(student / temperature)
    )


def target_and_rest(log_p, label):
    """Log-probabilities of the target and of everything else."""
    rest = np.delete(log_p, label)
    return np.array([log_p[label], rest.max() + np.log(np.exp(rest - rest.max()).sum())])


def dkd(label, teacher, student, alpha=1.0, beta=8.0, temperature=4.0):
    t, s = teacher / temperature, student / temperature
    tckd = kl(target_and_rest(log_softmax(t), label), target_and_rest(log_softmax(s), label))
    nckd = kl(log_softmax(np.delete(t, label)), log_softmax(np.delete(s, label)))
    return temperature**2 * (alpha * tckd + beta * nckd)


def nkd(label, teacher, student, gamma=1.5, temperature=1.0, mask_target=True):
    target = -np.exp(log_softmax(teacher)[label]) * log_softmax(student)[label]
    t, s = teacher / temperature, student / temperature
    if mask_target:
        t, s = np.delete(t, label), np.delete(s, label)
    p = np.exp(log_softmax(t))
    others = -np.sum(np.where(p > 0, p * log_softmax(s), 0.0))
    return target + gamma * temperature**2 * others


def scale_decoupled(
    formula, labels, teacher, student, weights=(1.0, 2.0), consistency="label", reduction="mean"
):
    """One value per image from cells (B, N, K), cell 0 the global one."""
    values = scale_decoupled_cells(formula, labels, teacher, student, weights, consistency)
    return values.mean(-1) if reduction == "mean" else values.sum(-1)


def scale_decoupled_cells(formula, labels, teacher, student, weights, consistency):
    """The weighted values (B, N) of the cells (B, N, K)."""
    values = np.zeros(teacher.shape[:2])
    for i, (label, t_cells, s_cells) in enumerate(zip(labels, teacher, student, strict=True)):
        for j, (t, s) in enumerate(zip(t_cells, s_cells, strict=True)):
            if consistency == "label":
                consistent = (t.argmax() == label) == (t_cells[0].argmax() == label)
            else:
                consistent = t.argmax() == t_cells[0].argmax()
            values[i, j] = (weights[0] if consistent else weights[1]) * formula(label, t, s)
    return values


def differentiate(function, x, step=1e-5):
    """Central differences of a scalar function of an array."""
    gradient = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        up, down = x.copy(), x.copy()
        up[index] += step
        down[index] -= step
        gradient[index] = (function(up) - function(down)) / (2 * step)
    return gradient


def average_cells(maps, scales):
    """Cells (B, N, C) of maps (B, H, W, C), bin by bin."""
    height, width = maps.shape[1:3]
    cells = []
    for m in scales:
        for i in range(m):
            for j in range(m):
                rows = slice(int(np.floor(i * height / m)), int(np.ceil((i + 1) * height / m)))
                columns = slice(int(np.floor(j * width / m)), int(np.ceil((j + 1) * width / m)))
                cells.append(maps[:, rows, columns].mean((1, 2)))
    return np.stack(cells, 1)


class TinyClassifier:
    """1x1 convolution, ReLU, average pooling, Dense, with gradients written out by hand."""

    def __init__(self, weights):
        self.weights = [np.array(w, "float64") for w in weights]
        self.weights[0] = self.weights[0].reshape(self.weights[0].shape[-2:])

    def forward(self, x, scales):
        """Return the map before and after the ReLU, pooled cells and their logits."""
        w1, b1, w2, b2 = self.weights
        before = x @ w1 + b1
        pooled = average_cells(np.maximum(before, 0), scales)
        return before, pooled, pooled @ w2 + b2

    def gradients(self, x, scales, logit_gradient):
        """Gradients of a loss whose gradient with respect to the cells' logits is given."""
        before, pooled, _ = self.forward(x, scales)
        _, height, width, channels = before.shape
        basis = np.eye(height * width).reshape(height * width, height, width, 1)
        matrix = average_cells(basis, scales)[..., 0]  # (H * W, N)
        back = np.einsum("pn,bnk,ck->bpc", matrix, logit_gradient, self.weights[2])
        back = back.reshape(before.shape) * (before > 0)
        return [
            np.einsum("bhwi,bhwc->ic", x, back),
            back.sum((0, 1, 2)),
            np.einsum("bnc,bnk->ck", pooled, logit_gradient),
            logit_gradient.sum((0, 1)),
        ]


def train(teacher, student, batches, scales, formula, rate, momentum, loss_weights):
    """Train a `TinyClassifier` with labels and a teacher's cells; return each step's terms."""
    velocity = [np.zeros_like(w) for w in student.weights]
    terms = []
    for x, labels in batches:
        x = x.astype("float64")
        teacher_cells = teacher.forward(x, scales)[2]
        cells = student.forward(x, scales)[2]

        def distillation(cells, labels=labels, teacher_cells=teacher_cells):
            return scale_decoupled(formula, labels, teacher_cells, cells).mean()

        gradient = loss_weights[1] * differentiate(distillation, cells)
        log_p = np.array([log_softmax(z) for z in cells[:, 0]])
        one_hot = np.eye(cells.shape[-1])[labels]
        gradient[:, 0] += loss_weights[0] * (np.exp(log_p) - one_hot) / len(labels)
        supervised = -loss_weights[0] * np.mean(np.sum(one_hot * log_p, -1))
        terms.append((supervised, loss_weights[1] * distillation(cells)))
        for i, g in enumerate(student.gradients(x, scales, gradient)):
            velocity[i] = momentum * velocity[i] - rate * g
            student.weights[i] = student.weights[i] + velocity[i]
    return np.array(terms)


def sp(teacher_map, student_map):
    """Mean over its row of the squared difference of normalized similarities: (B,)."""

    def similarities(maps):
        flat = maps.reshape(len(maps), -1)
        products = flat @ flat.T
        return products / np.maximum(np.linalg.norm(products, axis=1, keepdims=True), 1e-12)

    return np.mean((similarities(teacher_map) - similarities(student_map)) ** 2, axis=1)


def convolve(maps, kernel, strides=1):
    """Convolve (B, H, W, C) with (h, w, C, K), without padding."""
    height, width = kernel.shape[:2]
    rows = range(0, maps.shape[1] - height + 1, strides)
    columns = range(0, maps.shape[2] - width + 1, strides)
    windows = [[maps[:, i : i + height, j : j + width] for j in columns] for i in rows]
    return np.einsum("ijbhwc,hwck->bijk", np.array(windows), kernel)


def fitnet(teacher_map, student_map, kernel, bias, gamma, beta):
    """Mean squared distance of ReLU(batch norm(convolution)) to the teacher's map: (B,)."""
    (_, height, *_), (_, student_height, *_) = teacher_map.shape, student_map.shape
    if student_height == 2 * height:
        maps = convolve(np.pad(student_map, [(0, 0), (1, 1), (1, 1), (0, 0)]), kernel, 2)
    elif 2 * student_height == height:  # what a convolution of stride 2 is the gradient of
        spread = np.zeros((len(student_map), height + 3, height + 3, student_map.shape[-1]))
        spread[:, 2 : 2 + height : 2, 2 : 2 + height : 2] = student_map
        maps = convolve(spread, kernel[::-1, ::-1].swapaxes(2, 3))
    else:
        maps = convolve(student_map, kernel)
    maps = maps + bias
    normalized = (maps - maps.mean((0, 1, 2))) / np.sqrt(maps.var((0, 1, 2)) + 1e-5)
    return np.mean((np.maximum(normalized * gamma + beta, 0) - teacher_map) ** 2, axis=(1, 2, 3))


def sdd_sp(teacher_map, student_map, scales=(1, 2, 4)):
    """The mean over the cells of `sp` of each: (B,)."""
    teacher, student = (average_cells(x, scales) for x in (teacher_map, student_map))
    return np.mean([sp(teacher[:, i], student[:, i]) for i in range(teacher.shape[1])], axis=0)


def pool_adaptively(maps, height, width):
    """Maps (B, H, W, C) to (B, height, width, C), bin by bin."""
    pooled = np.zeros((len(maps), height, width, maps.shape[-1]))
    for i, j in np.ndindex(height, width):
        top, bottom = i * maps.shape[1] / height, (i + 1) * maps.shape[1] / height
        left, right = j * maps.shape[2] / width, (j + 1) * maps.shape[2] / width
        rows = slice(int(np.floor(top)), int(np.ceil(bottom)))
        columns = slice(int(np.floor(left)), int(np.ceil(right)))
        pooled[:, i, j] = maps[:, rows, columns].mean((1, 2))
    return pooled


def at(teacher_map, student_map, power=2):
    """Mean squared difference of attention maps, of the smaller size: (B,)."""
    size = np.minimum(teacher_map.shape[1:3], student_map.shape[1:3])

    def attend(maps):
        attention = np.mean(np.abs(pool_adaptively(maps, *size)) ** power, -1)
        attention = attention.reshape(len(maps), -1)
        return attention / np.linalg.norm(attention, axis=1, keepdims=True)

    return np.mean((attend(teacher_map) - attend(student_map)) ** 2, axis=1)


def rkd(teacher, student, distance_weight=25.0, angle_weight=50.0):
    """Weighted Huber losses of distances and angles, by their first sample: (B,)."""

    def huber(gap):
        return np.where(np.abs(gap) < 1, gap**2 / 2, np.abs(gap) - 0.5)

    def distances(x):
        values = np.array([np.linalg.norm(x - first, axis=1) for first in x])
        return values / values[values > 0].mean()

    def angles(x):
        values = []
        for first in x:
            lengths = np.linalg.norm(x - first, axis=1, keepdims=True)
            sides = (x - first) / np.where(lengths > 0, lengths, 1)
            values.append(sides @ sides.T)
        return np.array(values)

    distance = huber(distances(teacher) - distances(student)).mean(1)
    angle = huber(angles(teacher) - angles(student)).mean((1, 2))
    return distance_weight * distance + angle_weight * angle


def pkt(teacher, student):
    """Divergence of each sample's neighbourhood over the batch size: (B,)."""

    def neighbours(x):
        units = x / np.linalg.norm(x, axis=1, keepdims=True)
        likeness = (units @ units.T + 1) / 2
        return likeness / likeness.sum(1, keepdims=True)

    p, q = neighbours(teacher), neighbours(student)
    return np.mean(p * np.log((p + 1e-7) / (q + 1e-7)), axis=1)


def mgd(teacher_map, student_map, weights):
    """Squared distance, summed, of two padded convolutions of a map to the teacher's: (B,)."""

    def generate(maps, name):
        padded = np.pad(maps, [(0, 0), (1, 1), (1, 1), (0, 0)])
        return convolve(padded, weights[f"{name}/kernel"]) + weights[f"{name}/bias"]

    generated = generate(np.maximum(generate(student_map, "generate1"), 0), "generate2")
    return np.sum((generated - teacher_map) ** 2, axis=(1, 2, 3))
