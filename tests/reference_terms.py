"""Independent float64 NumPy formulas of the terms with trained modules."""

import numpy as np
from reference import average_cells, convolve


def batch_norm(maps, gamma, beta):
    """Of the statistics of the batch."""
    deviation = np.sqrt(maps.var((0, 1, 2)) + 1e-5)
    return (maps - maps.mean((0, 1, 2))) / deviation * gamma + beta


def convolve_same(maps, kernel):
    margin = kernel.shape[0] // 2
    return convolve(np.pad(maps, [(0, 0), (margin, margin), (margin, margin), (0, 0)]), kernel)


def resize(maps, height, width):
    """To the nearest position, PyTorch's way."""
    rows = [int(np.floor(i * maps.shape[1] / height)) for i in range(height)]
    columns = [int(np.floor(j * maps.shape[2] / width)) for j in range(width)]
    return maps[:, rows][:, :, columns]


def average_bins(maps, height, width):
    """Adaptive average pooling, bin by bin."""
    out = np.zeros((len(maps), height, width, maps.shape[-1]))
    for i in range(height):
        for j in range(width):
            (top, bottom), (left, right) = (
                (int(np.floor(k * size / count)), int(np.ceil((k + 1) * size / count)))
                for k, size, count in ((i, maps.shape[1], height), (j, maps.shape[2], width))
            )
            out[:, i, j] = maps[:, top:bottom, left:right].mean((1, 2))
    return out


def hierarchical_distance(teacher_map, student_map):
    """ReviewKD's distance of two maps on several levels: (B,)."""
    value, weight, total = np.mean((teacher_map - student_map) ** 2, axis=(1, 2, 3)), 1.0, 1.0
    for m in (4, 2, 1):
        if m < teacher_map.shape[1]:
            weight = weight / 2
            total = total + weight
            gap = average_cells(teacher_map, [m]) - average_cells(student_map, [m])
            value = value + weight * np.mean(gap**2, axis=(1, 2))
    return value / total


def reviewkd(weights, teacher_maps, student_maps):
    """From lists of maps, fine to coarse, or vectors at their ends: (B,)."""
    value, mix = 0.0, None
    for i in reversed(range(len(teacher_maps))):
        of = {k.removeprefix(f"stage{i}/"): v for k, v in weights.items() if f"stage{i}/" in k}
        teacher_map, student_map = (
            x[i][:, None, None] if x[i].ndim == 2 else x[i] for x in (teacher_maps, student_maps)
        )
        own = convolve_same(student_map, of["narrow/kernel"])
        own = batch_norm(own, of["narrow_bn/gamma"], of["narrow_bn/beta"])
        if mix is not None:
            mix = resize(mix, *own.shape[1:3])
            both = np.concatenate([own, mix], axis=-1)
            attention = convolve_same(both, of["attention/kernel"]) + of["attention/bias"]
            attention = 1 / (1 + np.exp(-attention))
            own = own * attention[..., :1] + mix * attention[..., 1:]
        mix = resize(own, *teacher_map.shape[1:3])
        out = convolve_same(mix, of["widen/kernel"])
        out = batch_norm(out, of["widen_bn/gamma"], of["widen_bn/beta"])
        value = value + hierarchical_distance(teacher_map, out)
    return value


def embed_similarities(weights, name, maps):
    """SemCKD's small network of the rows of the similarities: (B, N // 4)."""
    flat = maps.reshape(len(maps), -1)
    hidden = flat @ flat.T @ weights[f"{name}/hidden/kernel"] + weights[f"{name}/hidden/bias"]
    out = np.maximum(hidden, 0) @ weights[f"{name}/out/kernel"] + weights[f"{name}/out/bias"]
    return out / np.linalg.norm(out, axis=1, keepdims=True)


def regress_stage(weights, name, maps):
    for step in ("1", "2"):
        maps = convolve_same(maps, weights[f"{name}/conv{step}/kernel"])
        maps = batch_norm(maps, weights[f"{name}/bn{step}/gamma"], weights[f"{name}/bn{step}/beta"])
        maps = np.maximum(maps, 0)
    return convolve_same(maps, weights[f"{name}/conv3/kernel"])


def semckd(weights, teacher_maps, student_maps):
    """From lists of maps of a batch that is full: (B,)."""
    keys = [embed_similarities(weights, f"key{j}", x) for j, x in enumerate(teacher_maps)]
    value = np.zeros(len(teacher_maps[0]))
    for i, student_map in enumerate(student_maps):
        query = embed_similarities(weights, f"query{i}", student_map)
        attention = np.exp([np.sum(query * key, axis=1) for key in keys])
        attention = attention / attention.sum(0)
        for j, teacher_map in enumerate(teacher_maps):
            size = np.minimum(student_map.shape[1:3], teacher_map.shape[1:3])
            out = regress_stage(weights, f"regressor{i}_{j}", average_bins(student_map, *size))
            gap = out - average_bins(teacher_map, *size)
            value += attention[j] * np.mean(gap**2, axis=(1, 2, 3)) / len(student_maps)
    return value
