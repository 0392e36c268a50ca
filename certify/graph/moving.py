"""From ATen operators that move numbers to the vocabulary: reshapes, slices, concatenation, pads, identities.

One entry per operator. A slice or an index into the batch is refused here; what a reshape does to the batch is checked
by `certify.graph.apart`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from certify.graph.site import Result, Site, Translation, family


def _pad(mode: str | None) -> Translation:
    def translate(site: Site) -> Result:
        given = [int(size) for size in site.arguments.get("pad", site.arguments.get("padding"))]
        pairs = [[given[i], given[i + 1]] for i in range(0, len(given), 2)][::-1]
        chosen = site.arguments["mode"] if mode is None else mode
        value = site.arguments.get("value") or 0.0
        attributes = {"padding": pairs, "mode": chosen, "value": float(value)}
        return site.emit("pad", [site.value("self").name], attributes)

    return translate


def _reshape(site: Site) -> Result:
    return site.emit("reshape", [site.value("self").name], {"shape": list(site.shapes[0])})


def _expand(site: Site) -> Result:
    return site.emit("expand", [site.operand("self")], {"shape": list(site.shapes[0])})


def _permuted(site: Site, order: Sequence[int]) -> Result:
    return site.emit("permute", [site.value("self").name], {"dims": list(order)})


def _permute(site: Site) -> Result:
    rank = len(site.value("self").shape)
    return _permuted(site, [int(dim) % rank for dim in site.arguments["dims"]])


def _transpose(site: Site) -> Result:
    rank = len(site.value("self").shape)
    order = list(range(rank))
    a, b = (int(site.arguments[name]) % rank for name in ("dim0", "dim1"))
    order[a], order[b] = order[b], order[a]
    return _permuted(site, order)


def _reverse_last_two(site: Site) -> Result:
    order = list(range(len(site.value("self").shape)))
    order[-2:] = order[:-3:-1]
    return _permuted(site, order)


def _move_dims(site: Site) -> Result:
    rank = len(site.value("self").shape)
    source, destination = ([int(dim) % rank for dim in site.arguments[name]] for name in ("source", "destination"))
    order = [dim for dim in range(rank) if dim not in source]
    for target, origin in sorted(zip(destination, source, strict=True)):
        order.insert(target, origin)
    return _permuted(site, order)


def _sliced(site: Site, dim: int, start: int, stop: int, *, step: int = 1, suffix: str = "") -> str:
    x = site.value("self")
    size = x.shape[dim]
    if (start, stop, step) == (0, size, 1):
        return x.name
    if size < 0:
        raise site.refuse("takes a part of the batch")
    attributes = {"dim": dim, "start": start, "stop": stop, "step": step}
    return site.emit("slice", [x.name], attributes, suffix=suffix)


def _slice(site: Site) -> Result:
    dim = site.dim()
    size = site.value("self").shape[dim]
    start, stop, step = (site.arguments[name] for name in ("start", "end", "step"))
    if size < 0:
        if start in (None, 0) and stop in (None, 2**63 - 1) and step == 1:
            return site.value("self").name
        raise site.refuse("takes a part of the batch")
    first, last, _ = slice(start, stop, step).indices(size)
    return _sliced(site, dim, first, max(first, last), step=int(step))


def _narrow(site: Site) -> Result:
    start = int(site.arguments["start"])
    return _sliced(site, site.dim(), start, start + int(site.arguments["length"]))


def _select(site: Site) -> Result:
    dim = site.dim()
    size = site.value("self").shape[dim]
    if size < 0:
        raise site.refuse("takes a part of the batch")
    index = int(site.arguments["index"]) % size
    part = _sliced(site, dim, index, index + 1, suffix="_slice")
    return site.emit("reshape", [part], {"shape": list(site.shapes[0])})


def _split(site: Site) -> Result:
    """Every operator that cuts a dimension into consecutive parts: their sizes are those of the results."""
    dim = site.dim()
    names, start = [], 0
    for position, shape in enumerate(site.shapes):
        names.append(_sliced(site, dim, start, start + shape[dim], suffix=f"_{position}"))
        start += shape[dim]
    return tuple(names)


def _unbind(site: Site) -> Result:
    dim, names = site.dim(), []
    for position, shape in enumerate(site.shapes):
        part = _sliced(site, dim, position, position + 1, suffix=f"_slice_{position}")
        names.append(site.emit("reshape", [part], {"shape": list(shape)}, suffix=f"_{position}"))
    return tuple(names)


def _concat(site: Site) -> Result:
    parts = [site.named(part, f"_{i}") for i, part in enumerate(site.arguments["tensors"])]
    return site.emit("concat", parts, {"dim": int(site.arguments["dim"]) % len(site.shapes[0])})


def _stack(site: Site) -> Result:
    dim = int(site.arguments["dim"]) % len(site.shapes[0])
    shape = list(site.shapes[0])
    shape[dim] = 1
    parts = []
    for i, part in enumerate(site.arguments["tensors"]):
        name = site.named(part, f"_part_{i}")
        parts.append(site.emit("reshape", [name], {"shape": shape}, suffix=f"_unsqueeze_{i}"))
    return site.emit("concat", parts, {"dim": dim})


def _flip(site: Site) -> Result:
    rank = len(site.value("self").shape)
    return site.emit("flip", [site.value("self").name], {"dims": [int(d) % rank for d in site.arguments["dims"]]})


def _roll(site: Site) -> Result:
    rank = len(site.value("self").shape)
    dims = [int(d) % rank for d in site.arguments["dims"]]
    if not dims:
        raise site.refuse("rolls over the batch; name the dimensions")
    attributes = {"shifts": [int(s) for s in site.arguments["shifts"]], "dims": dims}
    return site.emit("roll", [site.value("self").name], attributes)


def _pixel_shuffle(site: Site) -> Result:
    n, c, h, w = site.value("self").shape
    r = int(site.arguments["upscale_factor"])
    return _shuffled(site, [n, c // r**2, r, r, h, w], [0, 1, 4, 2, 5, 3])


def _pixel_unshuffle(site: Site) -> Result:
    n, c, h, w = site.value("self").shape
    r = int(site.arguments["downscale_factor"])
    return _shuffled(site, [n, c, h // r, r, w // r, r], [0, 1, 3, 5, 2, 4])


def _channel_shuffle(site: Site) -> Result:
    n, c, *spatial = site.value("self").shape
    groups = int(site.arguments["groups"])
    return _shuffled(site, [n, groups, c // groups, *spatial], [0, 2, 1, *range(3, 3 + len(spatial))])


def _shuffled(site: Site, split: Sequence[int], order: Sequence[int]) -> Result:
    apart = site.emit("reshape", [site.value("self").name], {"shape": list(split)}, suffix="_split")
    moved = site.emit("permute", [apart], {"dims": list(order)}, suffix="_permute")
    return site.emit("reshape", [moved], {"shape": list(site.shapes[0])})


def _upsample_nearest(site: Site) -> Result:
    before, after = site.value("input" if "input" in site.arguments else "self").shape[2:], site.shapes[0][2:]
    if any(b % a for a, b in zip(before, after, strict=True)):
        raise site.refuse("nearest upsampling by a factor that is not an integer has no rule")
    scale = [b // a for a, b in zip(before, after, strict=True)]
    name = site.value("input" if "input" in site.arguments else "self").name
    return site.emit("upsample_nearest", [name], {"scale": scale})


def _identity(site: Site) -> Result:
    if site.arguments.get("train", False):
        raise site.refuse("is random in training mode")
    argument = "self" if "self" in site.arguments else "input"
    return site.value(argument).name


MOVING: Mapping[str, Translation] = MappingProxyType(
    {
        **family("pad", ".default", _pad(None)),
        **family("constant_pad_nd", ".default", _pad("constant")),
        **family("reflection_pad", "1d.default 2d.default 3d.default", _pad("reflect")),
        **family("replication_pad", "1d.default 2d.default 3d.default", _pad("replicate")),
        **family("", "view.default reshape.default _unsafe_view.default view_as.default reshape_as.default", _reshape),
        **family("", "flatten.using_ints unflatten.int unsqueeze.default", _reshape),
        **family("squeeze", ".default .dim .dims", _reshape),
        **family("expand", ".default", _expand),
        **family("expand_as", ".default", _expand),
        **family("permute", ".default", _permute),
        **family("", "transpose.int swapaxes.default swapdims.default", _transpose),
        **family("", "t.default mT.default numpy_T.default", _reverse_last_two),
        **family("", "movedim.intlist movedim.int", _move_dims),
        **family("slice", ".Tensor", _slice),
        **family("narrow", ".default", _narrow),
        **family("select", ".int", _select),
        **family("split", ".Tensor .sizes", _split),
        **family("", "split_with_sizes.default chunk.default tensor_split.sections tensor_split.indices", _split),
        **family("unbind", ".int", _unbind),
        **family("", "cat.default concat.default", _concat),
        **family("stack", ".default", _stack),
        **family("flip", ".default", _flip),
        **family("roll", ".default", _roll),
        **family("pixel_shuffle", ".default", _pixel_shuffle),
        **family("pixel_unshuffle", ".default", _pixel_unshuffle),
        **family("channel_shuffle", ".default", _channel_shuffle),
        **family("upsample_nearest", "1d.default 2d.default 3d.default 1d.vec 2d.vec 3d.vec", _upsample_nearest),
        **family("dropout", ".default _.default", _identity),
        **family("feature_dropout", ".default _.default", _identity),
        **family("alpha_dropout", ".default _.default", _identity),
        **family("", "contiguous.default clone.default detach.default alias.default", _identity),
        **family("lift_fresh_copy", ".default", _identity),
        **family("to", ".dtype .device .dtype_layout", _identity),  # another dtype is refused while tracing
        **family("_to_copy", ".default", _identity),
    }
)
"""ATen operator to translation."""

ALIASES = frozenset(
    name
    for name, translation in MOVING.items()
    if translation
    in (
        *(_reshape, _expand, _permute, _transpose, _reverse_last_two, _move_dims, _slice, _narrow, _select),
        *(_split, _unbind, _identity),
    )
)
"""Operators whose result may share memory with their input: an in-place write to either is seen by the other."""
