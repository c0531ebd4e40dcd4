"""Other ways to hold a federated data set: a part on each device, or none at all.

Both take the place of `Clients.examples`, so that rounds stay the same functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Int, PyTree

from ppml_lab import arguments, base, checks, trees


class ByShard(NamedTuple):
    """Examples by device: each device holds those of its own clients; see `shard`.

    Attributes:
      rows: Leaves `[devices * n, ...]`, n on each device, with room for the examples
        of the device that has the most.
      begins: For each device, the number of examples of the devices before it.
    """

    rows: PyTree[Array]
    begins: Int[Array, " devices"]


class Generated(NamedTuple):
    """Examples that are generated when a client trains, and never stored; see
    `generated`.

    Attributes:
      make: `(client) -> examples`, leaves `[largest size, ...]`; a smaller client has
        the first rows.
    """

    make: jax.tree_util.Partial


@arguments.checked
def shard(clients: base.Clients, sharding: NamedSharding) -> base.Clients:
    """Shards clients over devices: each client's examples lie on one device only.

    Of n clients on s devices, device j owns the `ceil(n / s)` from `j * ceil(n / s)`
    on.

    Args:
      clients: The clients, on the host or on any device.
      sharding: A sharding along one axis of its mesh. If the mesh spans several hosts,
        all of them call this function with the same clients.
    """
    (axis,) = sharding.spec
    num_devices = sharding.mesh.shape[axis]
    offsets = np.asarray(clients.offsets)
    bounds = [
        offsets[np.array(owned_range(device, num_devices, len(offsets) - 1))]
        for device in range(num_devices)
    ]
    num_rows = max(end - begin for begin, end in bounds)

    def spread(leaf: Any) -> Array:
        rows = np.asarray(leaf)

        def block(index: Any) -> np.ndarray:
            begin, end = bounds[(index[0].start or 0) // num_rows]
            block = np.zeros((num_rows, *rows.shape[1:]), rows.dtype)
            block[: end - begin] = rows[begin:end]
            return block

        shape = (num_devices * num_rows, *rows.shape[1:])
        return jax.make_array_from_callback(shape, sharding, block)

    everywhere = NamedSharding(sharding.mesh, PartitionSpec())
    begins = np.array([begin for begin, _ in bounds], np.int32)
    return base.Clients(
        ByShard(
            jax.tree.map(spread, clients.examples), trees.place(begins, everywhere)
        ),
        trees.place(offsets, everywhere),
        trees.place(clients.held_out, everywhere),
    )


@arguments.checked
def generated(make: Callable[..., PyTree], sizes: Any, *arguments: Any) -> base.Clients:
    """Clients whose examples are generated when they train: populations of any size.

    Args:
      make: Pure, `(*arguments, client) -> examples`, leaves `[largest size, ...]`.
      sizes: `[clients]`, the number of examples of each client; at least 1.
      *arguments: Arrays, such as a key.

    Raises:
      ValueError: For sizes that are not integers `[clients]`, a client without
        examples, 2^31 examples or more together, or leaves of `make` shorter than the
        largest size.
    """
    sizes = np.asarray(sizes)
    if sizes.ndim != 1 or not sizes.size or sizes.dtype.kind not in "iu":
        raise ValueError(
            f"sizes must be one integer per client, [clients], got {sizes.dtype}"
            f"{list(sizes.shape)}"
        )
    offsets = np.concatenate([[0], np.cumsum(sizes.astype(np.int64))])
    checks.at_least("sizes", int(np.min(sizes)), 1)
    if offsets[-1] >= 2**31:
        raise ValueError(
            f"sizes add up to {offsets[-1]} examples, which 32-bit offsets can't "
            "count; give fewer than 2^31"
        )
    one = jax.eval_shape(make, *arguments, jnp.int32(0))
    for path, leaf in jax.tree_util.tree_leaves_with_path(one):
        if not leaf.shape or leaf.shape[0] < sizes.max():
            raise ValueError(
                f"make gives examples{jax.tree_util.keystr(path)} of shape "
                f"{list(leaf.shape)}, but the largest of sizes is {sizes.max()}; give "
                "every leaf the largest size as its leading axis"
            )
    return base.Clients(
        Generated(jax.tree_util.Partial(make, *arguments)),
        jnp.asarray(offsets, jnp.int32),
    )


def owned_range(device: Any, num_devices: int, num_clients: int) -> tuple[Any, Any]:
    """The first client whose examples `device` holds, and the client after the last."""
    share = -(-num_clients // num_devices)
    bounds = device * share, (device + 1) * share
    if checks.is_traced(device):
        first, end = (jnp.minimum(bound, num_clients) for bound in bounds)
        return first, end
    first, end = (min(int(bound), num_clients) for bound in bounds)
    return first, end


def owned(clients: base.Clients, device: Array, num_devices: int) -> base.Clients:
    """The clients as `device` sees them: offsets of its own clients point into its
    block.

    Call it where each device has its own block; clients that are not sharded are
    returned unchanged.

    Raises:
      ValueError: If the blocks were cut for another number of devices.
    """
    if not isinstance(clients.examples, ByShard):
        return clients
    rows, begins = clients.examples
    if begins.shape[0] != num_devices:
        raise ValueError(
            f"examples are sharded over {begins.shape[0]} devices, but the mesh has "
            f"{num_devices}; shard the examples over the mesh"
        )
    return clients._replace(examples=rows, offsets=clients.offsets - begins[device])


def share_of_rows(
    clients: base.Clients, device: Array, num_devices: int
) -> tuple[Any, Any, int]:
    """The slice of its `owned` clients' rows that `device` evaluates, so that all
    devices together cover every row once: first, end, and the largest length.

    Raises:
      ValueError: For examples that are not stored.
    """
    if isinstance(clients.examples, Generated):
        raise ValueError(
            "generated examples exist only while their client trains, so that no "
            "evaluation covers them; evaluate on a test set"
        )
    total = jax.tree.leaves(clients.examples)[0].shape[0]
    if not isinstance(clients.examples, ByShard):
        share = -(-total // num_devices)
        return device * share, jnp.minimum((device + 1) * share, total), share
    num_clients = clients.offsets.shape[0] - 1
    first, end = owned_range(device, num_devices, num_clients)
    return jnp.int32(0), clients.offsets[end] - clients.offsets[first], total


def made(clients: base.Clients, client: Any) -> PyTree:
    """The examples of a client if they are `Generated`, else `()`."""
    if not isinstance(clients.examples, Generated):
        return ()
    return clients.examples.make(client)


def sizes(clients: base.Clients, which: Any) -> Int[Array, "*n"]:
    """The number of examples that these clients train on: all but those held out."""
    sizes = clients.offsets[which + 1] - clients.offsets[which]
    return sizes if clients.held_out is None else sizes - clients.held_out[which]


def num_judged(clients: base.Clients) -> Int[Array, " clients"]:
    """The number of rows that judge each client: the held-out rows if clients hold some
    out, else all of its rows.
    """
    if clients.held_out is None:
        return clients.offsets[1:] - clients.offsets[:-1]
    return clients.held_out


def client_view(clients: base.Clients, client: Any, own: PyTree) -> base.ClientView:
    """The view of one client, given its examples as `made` returns them.

    Raises:
      ValueError: For examples by shard that are not `owned`.
    """
    if isinstance(clients.examples, ByShard):
        raise ValueError(
            "examples are sharded: a client's examples lie only on its own device; "
            "pass the clients as they were before sharding"
        )
    start, size = clients.offsets[client], sizes(clients, client)
    client = jnp.asarray(client)
    if isinstance(clients.examples, Generated):
        return base.ClientView(own, jnp.zeros_like(start), size, client)
    return base.ClientView(clients.examples, start, size, client)
