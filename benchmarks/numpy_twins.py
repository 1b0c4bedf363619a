"""The same training steps written by hand in NumPy, as fast as NumPy lets them be: every output is preallocated.

They are the opponents in the targets, so nothing is computed twice and nothing is allocated; the tests beside them check that
they compute the same numbers.
"""

from __future__ import annotations

import numpy as np


class TrainStep:
    """One hidden ReLU layer, mean squared error, SGD: loss, gradients and update of one batch."""

    def __init__(self, weights: list[np.ndarray], rows: int, rate: float) -> None:
        self.w1, self.b1, self.w2, self.b2 = (w.copy() for w in weights)
        inputs, hidden = self.w1.shape
        outputs = self.w2.shape[1]
        f = np.float32
        self.rate, self.scale = f(rate), f(2.0 / (rows * outputs))
        self.count = rows * outputs
        self.h, self.gh = np.empty((rows, hidden), f), np.empty((rows, hidden), f)
        self.active = np.empty((rows, hidden), bool)
        self.y, self.square = np.empty((rows, outputs), f), np.empty((rows, outputs), f)
        self.gw1, self.gb1 = np.empty((inputs, hidden), f), np.empty(hidden, f)
        self.gw2, self.gb2 = np.empty((hidden, outputs), f), np.empty(outputs, f)

    def __call__(self, x: np.ndarray, t: np.ndarray) -> np.float32:
        h, y, gh = self.h, self.y, self.gh
        np.matmul(x, self.w1, out=h)
        np.add(h, self.b1, out=h)
        np.greater(h, 0, out=self.active)
        np.maximum(h, 0, out=h)
        np.matmul(h, self.w2, out=y)
        np.add(y, self.b2, out=y)
        np.subtract(y, t, out=y)
        np.multiply(y, y, out=self.square)
        loss = self.square.sum() / self.count
        np.multiply(y, self.scale, out=y)  # now the gradient of the output
        np.matmul(h.T, y, out=self.gw2)
        np.add.reduce(y, axis=0, out=self.gb2)
        np.matmul(y, self.w2.T, out=gh)
        np.multiply(gh, self.active, out=gh)
        np.matmul(x.T, gh, out=self.gw1)
        np.add.reduce(gh, axis=0, out=self.gb1)
        for w, g in ((self.w1, self.gw1), (self.b1, self.gb1), (self.w2, self.gw2), (self.b2, self.gb2)):
            np.multiply(g, self.rate, out=g)
            np.subtract(w, g, out=w)
        return loss
