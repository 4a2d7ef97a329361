"""Data parallelism: the one module that maps functions over devices.

One convention holds for all functions. A replicated tree has a leading axis of local devices,
[devices, ...]; a batch axis B is cut into [devices, B / devices]; callers on the host see neither.
One device takes the same path as many, and one process the same as several: every process is given
whole batches and computes the part of its own devices.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Key

from hyper_meta.core import processes
from hyper_meta.core.errors import UserError

AXIS = "devices"
MAPS, MOST_MAPS = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")
_observers: list[Callable] = []


@contextlib.contextmanager
def observed(note_fn: Callable[[Callable, Any, tuple], None]) -> Iterator[None]:
    """Calls note_fn for every compiled call inside the context.

    Args:
      note_fn: called with (fn, in_axes, args): the function of one device, the axes of its
        arguments that it is mapped over, and the arguments.
    """
    _observers.append(note_fn)
    try:
        yield
    finally:
        _observers.remove(note_fn)


def _mapped(fn: Callable, in_axes: Any, **options: Any) -> Callable:
    compiled = jax.pmap(fn, AXIS, in_axes=in_axes, **options)

    def call(*args):
        for note_fn in _observers:
            note_fn(fn, in_axes, args)
        return compiled(*args)

    return call


def free_programs() -> None:
    """Frees all compiled programs where they fill half of a process's memory maps.

    Linux ends a process without a message where it has more maps than vm.max_map_count. A freed
    program is compiled again at its next call, or read from the compilation cache. Does nothing on
    other systems.
    """
    with contextlib.suppress(OSError):
        with MAPS.open("rb") as file:
            count = sum(1 for _ in file)
        if count > int(MOST_MAPS.read_text()) / 2:
            jax.clear_caches()


def device() -> Any:
    """The first local device; all local devices are of one kind."""
    return jax.local_devices()[0]


def replicate(tree: Any) -> Any:
    """Copies every leaf [...] to each local device; returns leaves [devices, ...]."""
    devices = jax.local_devices()
    mesh = jax.sharding.Mesh(np.array(devices), (AXIS,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))

    def copy(leaf):
        leaf = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
        copies = [jax.device_put(leaf[None], device) for device in devices]
        shape = (len(devices), *leaf.shape)
        return jax.make_array_from_single_device_arrays(shape, sharding, copies)

    return jax.tree.map(copy, tree)


def first(tree: Any) -> Any:
    """The inverse of `replicate`: numpy leaves [...], copied from the first local device."""

    def take(leaf):
        return np.array(leaf.addressable_shards[0].data).reshape(leaf.shape[1:])

    return jax.tree.map(take, tree)


def num_devices() -> int:
    """The number of devices of all processes; a batch must be a multiple of it."""
    return jax.device_count()


def shard(tree: Any, *, axis: int = 0, local: bool = False) -> Any:
    """This process's part of host arrays whose batch axis is cut over the devices.

    Args:
      tree: leaves [..., B, ...] with B at position axis.
      axis: position of B.
      local: whether this process has a batch of its own, for its own devices.

    Returns:
      Leaves [local devices, ..., B / devices, ...].

    Raises:
      UserError: B does not divide over the devices.
    """
    num_local = jax.local_device_count()
    num_devices = num_local if local else jax.device_count()
    first_device = 0 if local else jax.process_index() * num_local

    def cut(leaf):
        leaf = np.asarray(leaf)
        size = leaf.shape[axis]
        if size % num_devices:
            raise UserError(
                f"a batch of {size} does not divide over {num_devices} devices: "
                f"choose a batch size that is a multiple of {num_devices}"
            )
        parts = (num_devices, size // num_devices)
        leaf = leaf.reshape(*leaf.shape[:axis], *parts, *leaf.shape[axis + 1 :])
        return np.moveaxis(leaf, axis, 0)[first_device : first_device + num_local]

    return jax.tree.map(cut, tree)


def fill_rows(tree: Any, size: int) -> Any:
    """Leaves [n, ...] of host arrays, n from 1 to size, as numpy [size, ...]: the first row stands
    for those that are missing."""

    def fill(leaf):
        leaf = np.asarray(leaf)
        return np.concatenate([leaf, leaf[:1].repeat(size - len(leaf), axis=0)])

    return jax.tree.map(fill, tree)


def fill_devices(tree: Any) -> Any:
    """`fill_rows` to the next multiple of the devices of all processes."""
    num_rows = len(jax.tree.leaves(tree)[0])
    return fill_rows(tree, -(-num_rows // num_devices()) * num_devices())


def example_keys(key: Key[jax.Array, ""], num_local: int) -> Key[jax.Array, " n"]:
    """The keys of this device's examples, one for each.

    To be called inside a mapped function. Noise drawn from these keys does not depend on how many
    devices share the batch.

    Args:
      key: a PRNG key, the same on every device.
      num_local: the number of examples of this device, B / devices.

    Returns:
      Keys [num_local].
    """
    index = lax.axis_index(AXIS) * num_local + jnp.arange(num_local)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, index)


def all_gather(tree: Any) -> Any:
    """Leaves [B, ...] on every device, joined from the leaves [B / devices, ...] of all devices.

    To be called inside a mapped function. Differentiable: the sum of its gradients over devices,
    which global_mean takes, is the gradient of the sum of all devices' losses.
    """
    return jax.tree.map(lambda leaf: lax.all_gather(leaf, AXIS, tiled=True), tree)


def global_mean(loss: tuple, grads: Any) -> tuple[Any, dict]:
    """The gradient of the mean loss over the batches of all devices, and the metrics.

    Accurate for any masks: numerators, denominators and gradients are summed over devices in one
    reduction and divided afterwards. To be called inside a step of compile_chunk, on the result of
    jax.value_and_grad(loss_fn, has_aux=True)(params).

    Args:
      loss: (sum, (count, metrics)): the loss summed over this device's valid examples (scalar),
        their number (scalar), and a dict from a metric's name to its own (sum, count).
      grads: the gradients of that sum, a pytree like the parameters.

    Returns:
      The gradients of the mean, and the metrics: name -> (sum, count), float32 scalars over all
      devices, with the loss under "loss". With no valid example anywhere the gradients are zero.
    """
    total, (count, metrics) = loss
    metrics = {"loss": (total, count), **metrics}
    metrics = jax.tree.map(lambda value: jnp.asarray(value, jnp.float32), metrics)
    grads, metrics = lax.psum((grads, metrics), AXIS)
    count = metrics["loss"][1]
    scale = jnp.where(count > 0, 1 / jnp.where(count > 0, count, 1), 0)
    return jax.tree.map(lambda grad: (grad * scale).astype(grad.dtype), grads), metrics


def compile_chunk(step: Callable) -> Callable:
    """The compiled function that makes S training steps: a scan over steps, mapped over devices.

    Args:
      step: pure function of one device, (state, data, x, key) -> (state, metrics). It raises
        state.step by one. x is the (shared, sharded) data of the step: shared leaves [...],
        sharded leaves [B / devices, ...]. key is folded from state.step and equal on all devices.
        metrics maps a name to (sum, count) over all devices, as global_mean returns it.

    Returns:
      A function (state, data, xs, key) -> (state, metrics). state and data are replicated, and
      state is donated: the caller must not use it again. xs is (shared, sharded) of host arrays,
      leaves [S, ...] and [S, B, ...]. key is the PRNG key of the whole run. metrics are sums over
      the S steps, still replicated.
    """

    def chunk(state, data, shared, sharded, key):
        def body(state, x):
            return step(state, data, x, jax.random.fold_in(key, state.step))

        state, metrics = lax.scan(body, state, (shared, sharded))
        return state, jax.tree.map(lambda value: value.sum(axis=0), metrics)

    mapped = _mapped(chunk, (0, 0, None, 0, None), donate_argnums=0)

    def run(state, data, xs, key):
        shared, sharded = xs
        return mapped(state, data, shared, shard(sharded, axis=1), key)

    return run


def compile_update(fn: Callable) -> Callable:
    """The compiled fn(state, value) -> state, for a replicated, donated state and a host value."""
    return _mapped(fn, (0, None), donate_argnums=0)


def compile_map(fn: Callable, *, local: bool = False) -> Callable:
    """The compiled evaluation of a function that treats each example by itself.

    Args:
      fn: pure function of one device, (params, data, x) -> out, with leaves [B / devices, ...] in x
        and in out.
      local: whether each process calls it alone, for its own devices. If not, all processes call
        it with the same x.

    Returns:
      A function (params, data, x) -> out. params and data are replicated, x has host leaves [B,
      ...] whose B the caller pads to a multiple of the devices, out has numpy leaves [B, ...].
    """
    mapped = _mapped(fn, 0, devices=jax.local_devices() if local else None)

    def run(params, data, x):
        out = jax.device_get(mapped(params, data, shard(x, local=local)))
        out = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), out)
        return out if local else processes.gather_rows(out)

    return run
