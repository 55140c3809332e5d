"""What the tests use of `keras_sdd.heads` beside the public `expose_spatial_logits`.

The one place that imports it, so that the tests do not hang on where the library keeps it.
"""

from keras_sdd.heads import check_classifier, class_logits, expose_cells

__all__ = ["check_classifier", "class_logits", "expose_cells"]
