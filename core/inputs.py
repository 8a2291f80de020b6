"""What every network asks of the tensors it is called with, and the one line that says what does not fit.

Shapes only: looking at values would wait for the device.
"""

from torch import Tensor

from utils.errors import UserError


def check_pair(left: Tensor, right: Tensor, multiple: int) -> None:
    """Twice the same (B, 3, H, W), H and W multiples of `multiple`; `UserError` with the nearest sizes otherwise."""
    height, width = left.shape[-2:]
    if left.shape != right.shape or left.dim() != 4 or left.shape[1] != 3:
        raise UserError(f"model input: left {tuple(left.shape)}, right {tuple(right.shape)}; expected twice the same (B, 3, H, W)")
    if height % multiple or width % multiple or not height or not width:
        down = [max(multiple, side // multiple * multiple) for side in (width, height)]
        up = [-(-max(side, 1) // multiple) * multiple for side in (width, height)]
        raise UserError(
            f"model input: {width} x {height} (width x height) is no multiple of {multiple}; "
            f"nearest sizes that are: {down[0]} x {down[1]}, {up[0]} x {up[1]}"
        )


def check_batch_statistics(left: Tensor, coarsest: int) -> None:
    """`UserError` for one image of one coarsest pixel, `coarsest` pixels wide: batch norm has no variance of a single value."""
    batch, _, height, width = left.shape
    if batch * -(-height // coarsest) * -(-width // coarsest) == 1:
        raise UserError(f"model input: one image of {width} x {height} leaves batch norm a single value per channel; use larger crops")


def check_start(init: Tensor | None, left: Tensor, stride: int, channels: tuple[int, ...] = (1,)) -> None:
    """A starting disparity on the working grid, a `stride`th of the image; `UserError` for any other shape."""
    if init is None:
        return
    batch, _, height, width = left.shape
    expected = [(batch, count, height // stride, width // stride) for count in channels]
    if tuple(init.shape) not in expected:
        part = {4: "a quarter", 8: "an eighth"}.get(stride, f"1/{stride}")
        raise UserError(f"model input: init has shape {tuple(init.shape)}; expected {' or '.join(map(str, expected))}, {part} of the image")


def check_iters(iters: int | None, usual: int, least: int = 1) -> int:
    """`iters`, or `usual` when absent; `UserError` for fewer than `least`."""
    if iters is None:
        return usual
    if iters < least:
        raise UserError(f"model input: iters is {iters}; at least {least} refinement iteration{'s are' if least > 1 else ' is'} needed")
    return iters
