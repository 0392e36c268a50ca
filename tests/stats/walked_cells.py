"""Cells of deterministic splitting, found by walking from a pixel to the next cut, one level at a time."""

LEVELS = 255


def walked_cell(pixel, shift, offset, number):
    """The integers that no cut of the shift separates from a pixel: walked to from it, one level at a time."""

    def is_cut(above):  # between above - 1 and above
        return (above - 1 - shift - offset) % number == 0

    low = high = pixel
    while not is_cut(low):
        low -= 1
    while not is_cut(high + 1):
        high += 1
    return low, high


def seen(pixels, shift, offsets, number):
    """What the network sees, from the walked cells: 510 times their midpoint."""
    cells = [walked_cell(pixel, shift, offset, number) for pixel, offset in zip(pixels, offsets, strict=True)]
    return tuple(low + high for low, high in cells)
