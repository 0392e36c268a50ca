"""Freezing a module: the copy that is traced, in evaluation mode, with its effective weights and without surprises.

Training a network and certifying it are different programs. Batch norm, dropout and spectral normalisation change as
they run; a forward hook or an own ``__call__`` runs code that tracing does not see. `frozen` returns a copy in which
reparametrisations are replaced by the weights they produce, and refuses what it cannot freeze. The module it is given
is never modified.

A module may say itself what it is after training: where it has a method ``materialised()``, the plain module that this
returns takes its place (`certify.layers`).
"""

from __future__ import annotations

import copy
import warnings

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from certify.errors import InputError, NoRuleError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
    from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

FLOATS = (torch.float32, torch.float64)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def frozen(module: nn.Module) -> nn.Module:
    """Return a copy of ``module`` on the CPU, in evaluation mode, with plain weights.

    Parametrisations (`torch.nn.utils.parametrizations`) and the older weight and spectral norms are evaluated in
    evaluation mode and replaced by the weights they produce.

    Raises:
        NoRuleError: If a module has hooks, an own ``__call__``, or is quantised.
        InputError: If a weight is not finite, or not of dtype float32 or float64.

    Example:
        >>> layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
        >>> sorted(name for name, _ in frozen(layer).named_parameters())
        ['bias', 'weight']
    """
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        raise NoRuleError("expected autocast to be off: it changes the arithmetic; leave the autocast context")
    for path, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if is_lazy(tensor):
            raise InputError(f"{path}: expected a weight with a shape, got a lazy one; run the module once first")
        _refuse_form(tensor, path)  # before copying, which some of these forms refuse in their own words
    fixed = materialised(_copied(module).cpu().eval().requires_grad_(False))
    for path, part in fixed.named_modules():
        _bake(part)
        _refuse_hidden_code(part, path or "the model")
    for path, tensor in [*fixed.named_parameters(), *fixed.named_buffers()]:
        _refuse_tensor(tensor, path)
    return fixed


def _copied(module: nn.Module) -> nn.Module:
    """Copy a module; the older weight norm leaves computed tensors on it, which `copy.deepcopy` refuses."""
    attributes = (value for part in module.modules() for value in vars(part).values())
    computed = [value for value in attributes if isinstance(value, torch.Tensor) and not value.is_leaf]
    return copy.deepcopy(module, {id(tensor): tensor.detach().clone() for tensor in computed})


def materialised(module: nn.Module) -> nn.Module:
    """Return the module with every part that has a method ``materialised`` replaced by what it returns, in place.

    Example:
        >>> class Doubled(nn.Linear):
        ...     def materialised(self) -> nn.Module:
        ...         plain = nn.Linear(self.in_features, self.out_features, bias=False)
        ...         plain.weight = nn.Parameter(2.0 * self.weight.detach())
        ...         return plain
        >>> materialised(nn.Sequential(Doubled(2, 3), nn.ReLU()))
        Sequential(
          (0): Linear(in_features=2, out_features=3, bias=False)
          (1): ReLU()
        )
    """
    if callable(own := getattr(module, "materialised", None)):
        plain: nn.Module = own()
        return plain.eval().requires_grad_(False)
    for name, part in list(module.named_children()):
        setattr(module, name, materialised(part))
    return module


def _bake(part: nn.Module) -> None:
    if parametrize.is_parametrized(part):
        effective = {name: getattr(part, name).detach().clone() for name in part.parametrizations}  # type: ignore[union-attr]
        # Not torch's remove_parametrizations: it edits the class, which a copy shares with the caller's module.
        part.__class__ = type(part).__bases__[0]
        del part.parametrizations
        for name, tensor in effective.items():
            part.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
    for hook in list(part._forward_pre_hooks.values()):
        if isinstance(hook, WeightNorm):
            remove_weight_norm(part, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(part, hook.name)


def _refuse_hidden_code(part: nn.Module, path: str) -> None:
    if type(part).__call__ is not nn.Module.__call__:
        raise NoRuleError(f"{path}: expected the plain call of nn.Module, got an own __call__; move it into forward")
    if any(getattr(part, hooks) for hooks in HOOKS):
        raise NoRuleError(f"{path}: expected no hooks, got one; remove it, or move its work into forward")
    if type(part).__module__.startswith(("torch.ao.nn.quantized", "torch.nn.quantized")):
        raise NoRuleError(f"{path}: quantised modules have no rule; certify the float model")


def _refuse_form(tensor: torch.Tensor, path: str) -> None:
    if tensor.is_nested or tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized:
        form = "a nested tensor" if tensor.is_nested else f"{tensor.layout}, {tensor.dtype} on {tensor.device}"
        raise InputError(f"{path}: expected a dense tensor with data, got {form}; make it dense")


def _refuse_tensor(tensor: torch.Tensor, path: str) -> None:
    _refuse_form(tensor, path)
    if not tensor.is_floating_point() and not tensor.is_complex():
        return  # counters and masks
    if tensor.dtype not in FLOATS:
        raise InputError(f"{path}: expected dtype float32 or float64, got {tensor.dtype}; call module.float() first")
    if not bool(torch.isfinite(tensor).all()):
        raise InputError(f"{path}: expected finite values, got NaN or infinity")
