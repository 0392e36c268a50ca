"""Which files are models, and what to do with the others: pickles are refused with the lines that convert them."""

from __future__ import annotations

from pathlib import Path

from certify.errors import InputError

SUPPORTED = ".safetensors"
PICKLES = frozenset({".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"})

CONVERSION = """\
expected a {supported} file, got {name!r}: a pickle can run code when it is read, so it is not opened. Convert it \
where you trust it, next to the code of the network:

    import certify, torch
    module = ...  # your network
    module.load_state_dict(torch.load({name!r}, weights_only=True))
    certify.save(module, "model.safetensors", input_shape=(3, 32, 32))  # the shape of one input"""

OTHERS = {
    ".pt2": "exported programs are not read; load the network in Python and call certify.save(module, ...)",
    ".onnx": "ONNX files are not read; load the network in Python and call certify.save(module, ...)",
    ".py": "that is code; write the file with: certify export {name}:FACTORY -o model.safetensors",
}


def refuse_other_formats(path: str | Path) -> None:
    """Refuse every path that is not named like a safetensors file, with what to do instead.

    Raises:
        InputError: If the suffix is any other, or the path is a folder.

    Example:
        >>> refuse_other_formats("model.safetensors")
        >>> refuse_other_formats("model.onnx")
        Traceback (most recent call last):
        certify.errors.InputError: expected a .safetensors file, got 'model.onnx': ONNX files are not read; ...
    """
    name, suffix = Path(path).name, Path(path).suffix.lower()
    if Path(path).is_dir():
        raise InputError(f"expected a {SUPPORTED} file, got the folder {str(path)!r}; name the file in it")
    if suffix in PICKLES:
        raise InputError(CONVERSION.format(supported=SUPPORTED, name=name))
    if suffix != SUPPORTED:
        advice = OTHERS.get(suffix, "write it with certify.save(module, ...) or certify export").format(name=name)
        raise InputError(f"expected a {SUPPORTED} file, got {name!r}: {advice}")
