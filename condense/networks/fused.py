"""What lies between two convolutions of a ConvNet as one Triton kernel, its gradient as another.

From the output x of a convolution, [N, ch, H, W], they compute

    y         = relu(instance_norm(x))
    pooled    = the mean of y over windows of 2 x 2 pixels, as by `AvgPool2d(2)`
    attention = the sum over channels of y ** power

and never write y. A program of a kernel takes a few channels of one image, its share. It adds up
the attention of the share, and PyTorch then adds up the shares.

How often memory is passed over, in reads or writes of a map x of 128 channels, 32 px and bfloat16:

    forward   x is written by the convolution (1) and read (1), `pooled` is written (0.25), and the
              attention of four shares is written and read (0.125): 2.4 in all
    backward  x is read (1), the gradient of `pooled` is read (0.25), and the gradient of x is
              written (1): 2.3, and 4.6 together with the forward pass

Smaller maps have fewer shares, and layers without attention none: 2.25 and 4.5. A map above 32 px
does not fit into the registers of a program. It is taken in tiles, and after the statistics x is
read again, which is 1 more in each direction unless the cache still has it. A share at 64 px is 128
KB, so it should.
"""

from typing import Any

import torch
import triton
from torch import Tensor
from torch.library import triton_op, wrap_triton
from triton import language as tl

_FORWARD_VALUES, _BACKWARD_VALUES = 2**15, 2**14
"""How many values of x a program holds. The backward pass holds as many gradients besides."""
_WARPS = 16
"""The most warps of a program: 512 threads of 128 registers each, with 64 values in them."""


@triton.jit
def _place(window, corner: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """Row and column of one corner (0 to 3) of windows, and whether it is on the map."""
    across: tl.constexpr = (WIDTH + 1) // 2
    row = window // across * 2 + corner // 2
    column = window % across * 2 + corner % 2
    return row, column, (row < HEIGHT) & (column < WIDTH)


@triton.jit
def _corner(
    x, window, known, other, x_row, x_column,
    corner: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The values at one corner of windows; `other` beyond the map and beyond the channels."""
    row, column, inside = _place(window, corner, HEIGHT, WIDTH)
    return tl.load(x + row * x_row + column * x_column, mask=inside & known, other=other)


@triton.jit
def _corners(
    x, window, known, centre, x_row, x_column,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The values at the four corners of windows, less `centre`; 0 beyond the map."""
    a = _corner(x, window, known, centre, x_row, x_column, 0, HEIGHT, WIDTH)
    b = _corner(x, window, known, centre, x_row, x_column, 1, HEIGHT, WIDTH)
    c = _corner(x, window, known, centre, x_row, x_column, 2, HEIGHT, WIDTH)
    d = _corner(x, window, known, centre, x_row, x_column, 3, HEIGHT, WIDTH)
    centre = centre.to(WIDE)
    return a.to(WIDE) - centre, b.to(WIDE) - centre, c.to(WIDE) - centre, d.to(WIDE) - centre


@triton.jit
def _relu(z):
    return tl.where(z < 0, 0.0, z)  # unlike a maximum, this keeps NaN


@triton.jit
def _raised(y, power: tl.constexpr):
    """y ** power for y >= 0. At 0 it is 0, for negative powers too, but 1 for power 0."""
    if power == 0:
        result = tl.full(y.shape, 1.0, y.dtype)
    elif power == 1:
        result = y
    elif power == 2:
        result = y * y
    elif power == 3:
        result = y * y * y
    elif power == 4:
        square = y * y
        result = square * square
    else:
        result = tl.where(y == 0, 0.0, tl.exp2(power * tl.log2(tl.where(y == 0, 1.0, y))))
    return result


@triton.jit
def _attend(
    attention, y, window,
    corner: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, POWER: tl.constexpr,
):  # fmt: skip
    """Store this share's attention at one corner of windows."""
    row, column, inside = _place(window, corner, HEIGHT, WIDTH)
    summed = tl.sum(_raised(y, POWER), axis=1, keep_dims=True)
    tl.store(attention + row * WIDTH + column, summed, mask=inside)


@triton.jit
def _forward(
    x, weight, bias, pooled, attention, means, scales,
    x_image, x_channel, x_row, x_column, p_image, p_channel, p_row, p_column,
    CHANNELS: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
    EPS: tl.constexpr, POWER: tl.constexpr, SHARE: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """`pooled`, and this share of `attention` [N, shares, H, W] unless the power is 0.

    For the backward pass also the mean of x and 1 / its standard deviation, [N, ch].
    """
    WIDE: tl.constexpr = means.dtype.element_ty
    WINDOWS: tl.constexpr = ((HEIGHT + 1) // 2) * ((WIDTH + 1) // 2)
    TILES: tl.constexpr = (WINDOWS + TILE - 1) // TILE
    image, share = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channel = share * SHARE + tl.arange(0, SHARE)[None, :]
    known = channel < CHANNELS
    x += image * x_image + channel * x_channel
    pooled += image * p_image + channel * p_channel
    attention += (image * tl.num_programs(1) + share) * (HEIGHT * WIDTH)
    of_tile = tl.arange(0, TILE)[:, None]

    # Sums relative to the first pixel, so that nothing cancels where the mean is large.
    first = tl.load(x, mask=known, other=0.0)
    a, b, c, d = _corners(x, of_tile, known, first, x_row, x_column, HEIGHT, WIDTH, WIDE)
    total = tl.sum(a + b + c + d, axis=0, keep_dims=True)
    squares = tl.sum(a * a + b * b + c * c + d * d, axis=0, keep_dims=True)
    for tile in range(1, TILES):
        window = tile * TILE + of_tile
        a, b, c, d = _corners(x, window, known, first, x_row, x_column, HEIGHT, WIDTH, WIDE)
        total += tl.sum(a + b + c + d, axis=0, keep_dims=True)
        squares += tl.sum(a * a + b * b + c * c + d * d, axis=0, keep_dims=True)
    mean = total / (HEIGHT * WIDTH)
    scale = 1 / tl.sqrt(tl.maximum(squares / (HEIGHT * WIDTH) - mean * mean, 0.0) + EPS)
    at = image * CHANNELS + channel
    tl.store(means + at, first.to(WIDE) + mean, mask=known)
    tl.store(scales + at, scale, mask=known)

    # An unknown channel has weight and bias 0, so that it adds nothing to the attention.
    slope = scale * tl.load(weight + channel, mask=known, other=0.0).to(WIDE)
    shift = tl.load(bias + channel, mask=known, other=0.0).to(WIDE) - mean * slope
    for tile in range(TILES):
        window = tile * TILE + of_tile
        if TILES > 1:
            a, b, c, d = _corners(x, window, known, first, x_row, x_column, HEIGHT, WIDTH, WIDE)
        y0, y1 = _relu(a * slope + shift), _relu(b * slope + shift)
        y2, y3 = _relu(c * slope + shift), _relu(d * slope + shift)
        row, column, _ = _place(window, 0, HEIGHT, WIDTH)
        whole = (row + 1 < HEIGHT) & (column + 1 < WIDTH)
        to = pooled + row // 2 * p_row + column // 2 * p_column
        mean_of_four = ((y0 + y1 + y2 + y3) / 4).to(pooled.dtype.element_ty)
        tl.store(to, mean_of_four, mask=whole & known)
        if POWER > 0:
            _attend(attention, y0, window, 0, HEIGHT, WIDTH, POWER)
            _attend(attention, y1, window, 1, HEIGHT, WIDTH, POWER)
            _attend(attention, y2, window, 2, HEIGHT, WIDTH, POWER)
            _attend(attention, y3, window, 3, HEIGHT, WIDTH, POWER)


@triton.jit
def _gradient(
    x, slope, bias, d_mean, d_attention, window,
    corner: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, POWER: tl.constexpr,
):  # fmt: skip
    """The gradient of z = slope * x + bias at one corner of windows, with x less its mean.

    That of y = relu(z) is `d_mean` by the pooled map. The result is 0 beyond the map.
    """
    z = slope * x + bias
    gradient = d_mean
    if POWER > 0:
        row, column, inside = _place(window, corner, HEIGHT, WIDTH)
        of_sum = tl.load(d_attention + row * WIDTH + column, mask=inside, other=0.0)
        gradient += of_sum * POWER * _raised(_relu(z), POWER - 1)
    return tl.where(z <= 0, 0.0, gradient)


@triton.jit
def _gradients(
    a, b, c, d, slope, bias, d_pooled, d_attention, window, known, p_row, p_column,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, POWER: tl.constexpr,
):  # fmt: skip
    """The gradients of z at the four corners of windows; a to d are x there, less its mean."""
    row, column, _ = _place(window, 0, HEIGHT, WIDTH)
    whole = (row + 1 < HEIGHT) & (column + 1 < WIDTH)
    at = d_pooled + row // 2 * p_row + column // 2 * p_column
    d_mean = tl.load(at, mask=whole & known, other=0.0).to(slope.dtype) / 4
    return (
        _gradient(a, slope, bias, d_mean, d_attention, window, 0, HEIGHT, WIDTH, POWER),
        _gradient(b, slope, bias, d_mean, d_attention, window, 1, HEIGHT, WIDTH, POWER),
        _gradient(c, slope, bias, d_mean, d_attention, window, 2, HEIGHT, WIDTH, POWER),
        _gradient(d, slope, bias, d_mean, d_attention, window, 3, HEIGHT, WIDTH, POWER),
    )


@triton.jit
def _store(
    d_x, value, window, known, x_row, x_column,
    corner: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Store the values of one corner of windows."""
    row, column, inside = _place(window, corner, HEIGHT, WIDTH)
    at = d_x + row * x_row + column * x_column
    tl.store(at, value.to(d_x.dtype.element_ty), mask=inside & known)


@triton.jit
def _backward(
    x, weight, bias, means, scales, d_pooled, d_attention, d_x, d_weight, d_bias,
    x_image, x_channel, x_row, x_column, p_image, p_channel, p_row, p_column,
    CHANNELS: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
    POWER: tl.constexpr, SHARE: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """The gradient of x, in its layout, and each image's of weight and bias, [N, ch]."""
    WIDE: tl.constexpr = means.dtype.element_ty
    WINDOWS: tl.constexpr = ((HEIGHT + 1) // 2) * ((WIDTH + 1) // 2)
    TILES: tl.constexpr = (WINDOWS + TILE - 1) // TILE
    image, share = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channel = share * SHARE + tl.arange(0, SHARE)[None, :]
    known = channel < CHANNELS
    x += image * x_image + channel * x_channel
    d_x += image * x_image + channel * x_channel
    d_pooled += image * p_image + channel * p_channel
    d_attention += image * (HEIGHT * WIDTH)
    of_tile = tl.arange(0, TILE)[:, None]

    at = image * CHANNELS + channel
    mean = tl.load(means + at, mask=known, other=0.0)
    scale = tl.load(scales + at, mask=known, other=0.0)
    slope = scale * tl.load(weight + channel, mask=known, other=0.0).to(WIDE)
    shift = tl.load(bias + channel, mask=known, other=0.0).to(WIDE)
    a, b, c, d = _corners(x, of_tile, known, mean, x_row, x_column, HEIGHT, WIDTH, WIDE)
    da, db, dc, dd = _gradients(
        a, b, c, d, slope, shift, d_pooled, d_attention, of_tile, known, p_row, p_column,
        HEIGHT, WIDTH, POWER,
    )  # fmt: skip
    total = tl.sum(da + db + dc + dd, axis=0, keep_dims=True)
    along = tl.sum(da * a + db * b + dc * c + dd * d, axis=0, keep_dims=True)
    for tile in range(1, TILES):
        window = tile * TILE + of_tile
        a, b, c, d = _corners(x, window, known, mean, x_row, x_column, HEIGHT, WIDTH, WIDE)
        da, db, dc, dd = _gradients(
            a, b, c, d, slope, shift, d_pooled, d_attention, window, known, p_row, p_column,
            HEIGHT, WIDTH, POWER,
        )  # fmt: skip
        total += tl.sum(da + db + dc + dd, axis=0, keep_dims=True)
        along += tl.sum(da * a + db * b + dc * c + dd * d, axis=0, keep_dims=True)
    tl.store(d_bias + at, total, mask=known)
    tl.store(d_weight + at, along * scale, mask=known)

    # What the mean and the variance of x, which depend on every pixel, take from the gradient.
    by_mean = total / (HEIGHT * WIDTH)
    by_scale = along * scale * scale / (HEIGHT * WIDTH)
    for tile in range(TILES):
        window = tile * TILE + of_tile
        if TILES > 1:
            a, b, c, d = _corners(x, window, known, mean, x_row, x_column, HEIGHT, WIDTH, WIDE)
            da, db, dc, dd = _gradients(
                a, b, c, d, slope, shift, d_pooled, d_attention, window, known, p_row, p_column,
                HEIGHT, WIDTH, POWER,
            )  # fmt: skip
        da, db = slope * (da - by_mean - a * by_scale), slope * (db - by_mean - b * by_scale)
        dc, dd = slope * (dc - by_mean - c * by_scale), slope * (dd - by_mean - d * by_scale)
        _store(d_x, da, window, known, x_row, x_column, 0, HEIGHT, WIDTH)
        _store(d_x, db, window, known, x_row, x_column, 1, HEIGHT, WIDTH)
        _store(d_x, dc, window, known, x_row, x_column, 2, HEIGHT, WIDTH)
        _store(d_x, dd, window, known, x_row, x_column, 3, HEIGHT, WIDTH)


def _launch(channels: int, height: int, width: int, values: int) -> tuple[int, int, int]:
    """SHARE, TILE and the number of warps of a program that may hold so many `values` of x at once.

    It takes all windows of a map if it can do so with at least 16 channels, which are 32 bytes side
    by side in memory, and otherwise goes through them in tiles.
    """
    windows = triton.next_power_of_2(triton.cdiv(height, 2) * triton.cdiv(width, 2))
    share = min(triton.next_power_of_2(channels), max(16, values // (4 * windows)))
    tile = values // (4 * share)
    tile = windows if tile >= windows else tile // 2  # two passes need more registers
    warps = max(1, _WARPS * share * tile * 4 // values)
    return share, tile, warps


@triton_op("condense::norm_relu_pool", mutates_args={})
def _block(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, power: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`pooled` and `attention`, and for the gradients the statistics of x, both [N, ch]."""
    images, channels, height, width = x.shape
    share, tile, warps = _launch(channels, height, width, _FORWARD_VALUES)
    shares = triton.cdiv(channels, share)
    wide = torch.promote_types(x.dtype, torch.float32)
    pooled = torch.empty_like(x[:, :, : height // 2, : width // 2])
    attention = x.new_empty((images, shares if power else 0, height, width), dtype=wide)
    means, scales = (x.new_empty((images, channels), dtype=wide) for _ in range(2))
    wrap_triton(_forward)[(images, shares)](
        x, weight, bias, pooled, attention, means, scales, *x.stride(), *pooled.stride(),
        channels, height, width, eps, power, share, tile, num_warps=warps,
    )  # fmt: skip
    return pooled, attention.sum(1), means, scales


@triton_op("condense::norm_relu_pool_backward", mutates_args={})
def _block_backward(
    x: Tensor, weight: Tensor, bias: Tensor, means: Tensor, scales: Tensor,
    d_pooled: Tensor, d_attention: Tensor, power: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of x, weight and bias."""
    images, channels, height, width = x.shape
    share, tile, warps = _launch(channels, height, width, _BACKWARD_VALUES)
    shares = triton.cdiv(channels, share)
    d_x, d_weight, d_bias = torch.empty_like(x), torch.empty_like(means), torch.empty_like(means)
    wrap_triton(_backward)[(images, shares)](
        x, weight, bias, means, scales, d_pooled, d_attention.contiguous(), d_x, d_weight, d_bias,
        *x.stride(), *d_pooled.stride(),
        channels, height, width, power, share, tile, num_warps=warps,
    )  # fmt: skip
    return d_x, d_weight.sum(0).to(weight.dtype), d_bias.sum(0).to(bias.dtype)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, _, ctx.power = inputs
    ctx.save_for_backward(x, weight, bias, *output[2:])


def _differentiate(
    ctx: Any, d_pooled: Tensor, d_attention: Tensor, *_: Tensor
) -> tuple[Tensor | None, ...]:
    gradients = _block_backward(*ctx.saved_tensors, d_pooled, d_attention, ctx.power)
    return *gradients, None, None


_block.register_autograd(_differentiate, setup_context=_keep)


def norm_relu_pool(
    x: Tensor, weight: Tensor, bias: Tensor, *, eps: float, power: float
) -> tuple[Tensor, Tensor]:
    """`pooled`, in the type and the layout of x, and `attention`, float32 [N, H, W].

    Parameters
    ----------
    x: the output of a convolution, [N, ch, H, W], of at least 2 x 2 pixels, dense in any layout.
        An odd last row or column counts for the norm and the attention and is not pooled.
    weight, bias: those of the instance norm, [ch].
    eps: what the norm adds to the variance.
    power: the exponent of the attention, above 0; or 0 if it is not wanted, and then it is 0.

    Sums are taken in float32, in float64 if x is. The gradients cannot be differentiated again.
    Kernels run on a GPU; this example asks for the shapes alone.

    >>> x = torch.empty(2, 8, 6, 6, device="meta")
    >>> scale = torch.empty(8, device="meta")
    >>> pooled, attention = norm_relu_pool(x, scale, scale, eps=1e-5, power=4.0)
    >>> pooled.shape, attention.shape
    (torch.Size([2, 8, 3, 3]), torch.Size([2, 6, 6]))
    """
    pooled, attention, _, _ = _block(x, weight, bias, eps, power)
    return pooled, attention
