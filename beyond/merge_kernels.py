"""How a server adds up what federated workers learned."""

import numpy as np

from tabular.kernels import kernel


@kernel
def effective_rates(rate, visits):
    """What n updates at `rate` amount to together, 1 - (1 - rate)**n, by n up to the most visits."""
    most = 0
    for n in visits:
        most = max(most, n)
    return -np.expm1(np.arange(min(most, 38 / rate) + 1.0) * np.log1p(-rate))  # from 38 / rate on, 1 to the last bit


@kernel
def add_report(old_values, targets, counts, pairs, values, visits, local_rate):
    """Add visits * (a worker's mean target - old value): what its visits changed, over their effective rate."""
    rates = effective_rates(local_rate, visits)
    for i in range(len(pairs)):
        change = values[i] - old_values[pairs[i]]
        if change != 0.0:
            targets[pairs[i]] += visits[i] * change / rates[min(visits[i], len(rates) - 1)]
        counts[pairs[i]] += visits[i]


@kernel
def merge(values, targets, counts, learning_rate):
    """The retention-matched merge, in place: keep of the old values what one core would after as many visits.

    Q = Q0 + (1 - (1 - alpha)**N) * sum of (n_m / N) * (Q_m - Q0) / (1 - (1 - a)**n_m). Scaling the local step
    follows federated Q-learning (Khodadadian et al. 2022; Woo, Joshi and Chi 2023); the rule was derived here.
    """
    rates = effective_rates(learning_rate, counts)
    for pair in range(len(values)):
        n = counts[pair]
        if n > 0:
            values[pair] += rates[min(n, len(rates) - 1)] * targets[pair] / n
