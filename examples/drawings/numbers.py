"""What the figures of two students and their teacher show, as numbers."""

import math

import numpy as np
from scipy import special, stats
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors

NUM_NEIGHBORS = 5
_PERPLEXITY = 30.0


def correlate_classes(logits):
    """Return the correlations (K, K) of the classes' logits (N, K) over images.

    A class whose logit is the same for all images correlates with none: 0.
    """
    centred = logits - np.mean(logits, axis=0, dtype="float64")
    lengths = np.linalg.norm(centred, axis=0)
    directions = np.divide(centred, lengths, out=np.zeros_like(centred), where=lengths > 0)
    return directions.T @ directions


def average_pairs(differences):
    """Return the mean of a symmetric matrix (K, K) over the pairs of different classes."""
    return float(np.mean(differences[np.triu_indices(len(differences), 1)]))


def measure_separability(embedding, labels):
    """Return how far the classes lie apart in an embedding (n, C), n above 5, labels (n,).

    Returns:
        dict of `silhouette`, the mean silhouette score with Euclidean distances, from -1 to 1, NaN
        without two classes of which one has two images, and `knn_accuracy`, in percent, of the
        vote of the 5 nearest other images; of classes with the same votes that of the nearer ones.
    """
    silhouette = math.nan
    if 1 < len(np.unique(labels)) < len(labels):
        silhouette = float(silhouette_score(embedding, labels))
    search = NearestNeighbors(n_neighbors=NUM_NEIGHBORS).fit(embedding)
    nearest = search.kneighbors(return_distance=False)  # without the image itself
    votes = np.zeros((len(labels), np.max(labels) + 1))
    # Nearer ones weigh a little more: together less than one vote.
    weights = 1.0 + 0.01 * np.arange(NUM_NEIGHBORS, 0, -1)
    np.add.at(votes, (np.arange(len(labels))[:, None], labels[nearest]), weights)
    return {
        "silhouette": silhouette,
        "knn_accuracy": 100.0 * float(np.mean(np.argmax(votes, axis=1) == labels)),
    }


def project(embedding):
    """Return points in a plane (n, 2), by t-SNE with a fixed seed, of an embedding (n, C)."""
    perplexity = min(_PERPLEXITY, (len(embedding) - 1) / 3)
    return TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(embedding)


def compare_students(labels, plain, decoupled):
    """Count the images that only one of two students gets right.

    Args:
        labels: (N,).
        plain, decoupled: their logits (N, K).

    Returns:
        dict of `rescued` and `lost`, the images that only the second and only the first gets
        right, and `p` of McNemar's exact test; and the indices of the rescued images, first those
        where the second gives the true class the most probability beyond the first.
    """
    right = [np.argmax(logits, axis=1) == labels for logits in (plain, decoupled)]
    rescued, lost = np.flatnonzero(~right[0] & right[1]), np.sum(right[0] & ~right[1])
    gains = find_probabilities(decoupled, labels) - find_probabilities(plain, labels)
    numbers = {"rescued": len(rescued), "lost": int(lost), "p": 1.0}
    if len(rescued) + lost:
        numbers["p"] = float(stats.binomtest(len(rescued), int(len(rescued) + lost)).pvalue)
    return numbers, rescued[np.argsort(-gains[rescued], kind="stable")]


def find_probabilities(logits, classes):
    """Return the probabilities (N,) that logits (N, K) give to classes (N,)."""
    probabilities = special.softmax(np.asarray(logits, "float64"), axis=1)
    return np.take_along_axis(probabilities, classes[:, None], axis=1)[:, 0]


def choose_ambiguous(labels, classes, complementary, count):
    """Return the indices of the images with the largest share of complementary cells.

    Of half of them the whole image is predicted right, of half of them wrong, if there are such:
    the two kinds of ambiguity. Of images with the same share those go first whose cells predict
    more classes.

    Args:
        labels: (N,).
        classes, complementary: of cells (N, M), the whole image first, as `judge_cells` gives them.
        count: how many.

    Returns:
        At most `count` indices, those that are predicted right first.
    """
    shares = np.mean(complementary[:, 1:], axis=1)
    variety = np.array([len(set(x)) for x in classes.tolist()])
    order = np.lexsort((-variety, -shares))
    right = (classes[:, 0] == labels)[order]
    half = max(count // 2, count - int(np.sum(~right)))
    first = order[right][:half]
    return np.concatenate([first, order[~right][: count - len(first)]])


def count_classes(classes):
    """Return the classes of cells (M,) and how many predict each, the most frequent first."""
    found, counts = np.unique(classes, return_counts=True)
    return [(int(found[i]), int(counts[i])) for i in np.argsort(-counts, kind="stable")]
