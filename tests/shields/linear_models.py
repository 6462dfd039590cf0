"""Linear models that the tests of sets and of the predictive filter share."""

import numpy as np
from scipy.linalg import expm

from saferl.shields.mpsc import LinearModel

DT = 0.1


def double_integrator(w_max=(1e-3, 5e-3)):
    """A mass on a line with |x| <= 1, |v| <= 2."""
    return LinearModel.with_box([[1, DT], [0, 1]], [[DT**2 / 2], [DT]], w_max, low=[-1, -2], high=[1, 2])


def cart_pole(track=2.0):
    """A cart-pole around upright: cart 1 kg, pole 0.1 kg, half-length 0.5 m, steps of 1/15 s, held inputs."""
    cart, pole, length, gravity, dt = 1.0, 0.1, 0.5, 9.81, 1.0 / 15.0
    total = cart + pole
    inertia = length * (4.0 / 3.0 - pole / total)
    a, b = np.zeros((4, 4)), np.zeros((4, 1))
    a[0, 1] = a[2, 3] = 1.0
    a[3, 2], b[3, 0] = gravity / inertia, -1.0 / (total * inertia)
    a[1, 2], b[1, 0] = -pole * length / total * a[3, 2], 1.0 / total - pole * length / total * b[3, 0]
    held = expm(np.block([[a, b], [np.zeros((1, 5))]]) * dt)
    high = np.array([track, 3.0, 0.3, 2.0])
    return LinearModel.with_box(held[:4, :4], held[:4, 4:], [1e-3, 1e-2, 5e-4, 5e-3], low=-high, high=high)
