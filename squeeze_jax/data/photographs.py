"""Real images where the user gave none."""

import numpy as np


def photographs() -> list[np.ndarray]:
    """Returns the two photographs bundled with scikit-learn, uint8 RGB [427, 640, 3]."""
    import sklearn.datasets

    return list(sklearn.datasets.load_sample_images().images)
