"""FedProx's synthetic federated classification data."""

from __future__ import annotations

import itertools

import numpy as np

from ppml_lab import arguments, checks
from ppml_lab.data.dataset import Dataset, make_dataset

_NUM_INPUTS = 60
_NUM_CLASSES = 10
_TRAIN_FRACTION = 0.9
# Beyond these, float32 cannot resolve inputs of spread 1 around their client's centre,
# and no draw of sizes comes near its mean.
_MOST_VARIANCE = 1e12
_MOST_SIZE_SIGMA = 10.0
_MOST_SIZE = 1e9


@arguments.checked
def synthetic(
    seed: int,
    num_clients: int,
    alpha: float,
    beta: float,
    *,
    mean_size: float = 453.4,
    min_size: int = 50,
    size_sigma: float = 2.0,
) -> Dataset:
    """FedProx's Synthetic(alpha, beta): each client labels its inputs with its own
    model.

    Client k draws u_k ~ N(0, alpha) and B_k ~ N(0, beta), a model W_k, b_k with entries
    from N(u_k, 1), and a centre v_k with entries from N(B_k, 1). Its inputs are
    x ~ N(v_k, diag(j^-1.2)), 60 of them; the label is argmax(W_k x + b_k), one of 10.
    Even alpha = beta = 0 is not IID: models and centres still differ.

    **What alpha does not do:** u_k moves all ten logits of a client by the same amount,
    so the argmax, and hence the data, do not depend on alpha (up to ties in float32).
    This also holds in the paper and its code; only beta changes the data.

    alpha and beta are variances, as N(0, alpha) in the paper; the reference code takes
    them for standard deviations, which agrees at 0 and 1 but not at 0.5. Sizes are by
    default the reference code's 50 + LogNormal(4, 2) (the paper says "power law").

    Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith. Federated Optimization in Heterogeneous
    Networks. MLSys 2020.

    Args:
      seed: The same seed gives the same data.
      num_clients: Number of clients (30 in the paper).
      alpha: Variance of the mean of the clients' model entries.
      beta: Variance of the mean of the clients' input centres.
      mean_size: Expected examples per client, train and test together.
      min_size: Fewest examples of a client.
      size_sigma: Standard deviation of the logarithm of a size's excess over
        `min_size`; 0 gives every client `mean_size` examples.

    Returns:
      A data set with `x` `[n, 60]` and users 0..num_clients-1. Of each client's
      examples 10% (rounded up) are test, but at least one is train.

    Raises:
      ValueError: For a variance that is negative or above 1e12, `size_sigma` above
        10, `mean_size` below `min_size`, or no test example.
    """
    checks.at_least("seed", seed, 0)
    checks.at_least("num_clients", num_clients, 1)
    checks.at_least("min_size", min_size, 1)
    for name, value, most in [
        ("alpha", alpha, _MOST_VARIANCE),
        ("beta", beta, _MOST_VARIANCE),
        ("size_sigma", size_sigma, _MOST_SIZE_SIGMA),
    ]:
        checks.non_negative(name, value)
        if value > most:
            raise ValueError(f"{name} must be at most {most:g}, got {value:g}")
    checks.within("mean_size", mean_size, 1, _MOST_SIZE)
    if not min_size <= mean_size:
        raise ValueError(
            f"mean_size must be finite and at least min_size = {min_size}, got "
            f"{mean_size}"
        )
    rng = np.random.default_rng(seed)
    sizes = _sizes(rng, num_clients, mean_size, min_size, size_sigma)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    users = np.repeat(np.arange(num_clients), sizes)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    model_means = np.float32(alpha**0.5) * normal(num_clients)
    weights = model_means[:, None, None] + normal(
        num_clients, _NUM_INPUTS, _NUM_CLASSES
    )
    biases = model_means[:, None] + normal(num_clients, _NUM_CLASSES)
    centre_means = np.float32(beta**0.5) * normal(num_clients)
    centres = centre_means[:, None] + normal(num_clients, _NUM_INPUTS)
    scales = np.arange(1, _NUM_INPUTS + 1, dtype=np.float32) ** np.float32(-0.6)
    x = centres[users] + scales * normal(len(users), _NUM_INPUTS)

    y = np.concatenate(
        [
            (x[start:stop] @ weights[k] + biases[k]).argmax(axis=1)
            for k, (start, stop) in enumerate(itertools.pairwise(offsets))
        ]
    )

    # A client's rows are exchangeable, so its last ones serve as test.
    num_train = np.maximum(1, (_TRAIN_FRACTION * sizes).astype(int))
    train = np.arange(len(users)) < (offsets[:-1] + num_train)[users]
    return make_dataset(
        f"synthetic({alpha:g}, {beta:g})",
        (x[train], y[train]),
        (x[~train], y[~train]),
        _NUM_CLASSES,
        train_users=users[train],
        test_users=users[~train],
    )


def _sizes(
    rng: np.random.Generator,
    num_clients: int,
    mean_size: float,
    min_size: int,
    size_sigma: float,
) -> np.ndarray:
    log_excess = size_sigma * rng.standard_normal(num_clients) - size_sigma**2 / 2
    return min_size + ((mean_size - min_size) * np.exp(log_excess)).astype(np.int64)
