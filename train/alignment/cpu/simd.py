"""Vectors of 16 numbers inside numba code, so that a cell of 16 problems is one instruction for sure.

numba's loops are made into SIMD by LLVM only where it can prove that no two arrays overlap; the alignment
kernels read and write neighbouring rows of one buffer, where it cannot, and fall back to one number at a time
(measured: 8 times slower). Here the vector is a type of its own: `load` and `store` move it, `+ - * /`,
`least`, `most` and a few bit tricks work on it, and LLVM maps it to what the machine has (one AVX-512
register, two of AVX2, four of NEON).

`F32` and `F64` are the two types. All functions here are for numba code only.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.cgutils import get_or_insert_function
from numba.core.typing import signature
from numba.core.typing.templates import ConcreteTemplate, infer_global
from numba.extending import intrinsic, lower_builtin, models, register_model

LANES = 16
# fused multiply-add, any sign of zero and reciprocals are fine; no other order: `nearest` relies on that
FAST = ("contract", "nsz", "arcp")


class Vector(types.Type):
    """Sixteen numbers of one LLVM floating type."""

    def __init__(self, name: str, llvm: Any, integer: int, mantissa: int) -> None:
        self.element = llvm
        self.llvm = ir.VectorType(llvm, LANES)
        self.integer = ir.VectorType(ir.IntType(integer), LANES)
        self.mantissa = mantissa
        super().__init__(name=f"stepclip.{name}x{LANES}")


F32 = Vector("float32", ir.FloatType(), 32, 23)
F64 = Vector("float64", ir.DoubleType(), 64, 52)
_CODES = ir.VectorType(ir.IntType(8), LANES)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, kind.llvm)


def _arithmetic(operation: Any, instruction: str) -> None:
    @infer_global(operation)
    class _Typing(ConcreteTemplate):
        cases = [signature(F32, F32, F32), signature(F64, F64, F64)]  # noqa: RUF012 (numba's own form)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, instruction)(*args, flags=FAST)

    for kind in (F32, F64):
        lower_builtin(operation, kind, kind)(lower)


for _operation, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _arithmetic(_operation, _instruction)


def _constant(kind: Any, value: float) -> Any:
    return ir.Constant(kind, [value] * LANES)


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any, vector: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


def _vector_of(scalar: Any) -> Vector:
    return F64 if scalar == types.float64 else F32


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """array[index : index + 16] of a flat array, as a vector of its type; the index is not checked."""
    kind = _vector_of(array.dtype)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        where = _address(context, builder, sig.args[0], args[0], args[1], kind.llvm)
        return builder.load(where, align=array.dtype.bitwidth // 8)

    return kind(array, types.intp), generate


@intrinsic
def load64(typing: Any, array: Any, index: Any) -> Any:
    """The same, as doubles whatever the array holds."""
    kind = _vector_of(array.dtype)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        where = _address(context, builder, sig.args[0], args[0], args[1], kind.llvm)
        read = builder.load(where, align=array.dtype.bitwidth // 8)
        return read if kind is F64 else builder.fpext(read, F64.llvm)

    return F64(array, types.intp), generate


@intrinsic
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """array[index : index + 16] = value."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        where = _address(context, builder, sig.args[0], args[0], args[1], value.llvm)
        builder.store(args[2], where, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), generate


@intrinsic
def splat(typing: Any, number: Any) -> Any:
    """The number in all lanes: a float32 makes an F32, a float64 an F64."""
    kind = _vector_of(number)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        empty = ir.Constant(kind.llvm, ir.Undefined)
        first = builder.insert_element(empty, args[0], ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(
            first, empty, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        )

    return kind(number), generate


def _select(predicate: str) -> Any:
    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(predicate, *args), *args)

    return generate


@intrinsic
def most(typing: Any, a: Any, b: Any) -> Any:
    """Lane by lane, the larger."""
    return a(a, b), _select(">")


@intrinsic
def least(typing: Any, a: Any, b: Any) -> Any:
    """Lane by lane, the smaller."""
    return a(a, b), _select("<")


@intrinsic
def size(typing: Any, x: Any) -> Any:
    """|x|: the sign bit cleared."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = builder.bitcast(args[0], x.integer)
        width = x.integer.element.width
        return builder.bitcast(builder.and_(bits, _constant(x.integer, (1 << (width - 1)) - 1)), x.llvm)

    return x(x), generate


@intrinsic
def nearest(typing: Any, x: Any) -> Any:
    """The nearest whole number, for |x| below 2^22 (F32): adding 1.5 * 2^mantissa leaves no room for a
    fraction."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        magic = _constant(x.llvm, 1.5 * 2.0**x.mantissa)
        return builder.fsub(builder.fadd(args[0], magic), magic)

    return x(x), generate


@intrinsic
def product_less(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b - c, rounded once."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        name = f"llvm.fma.v{LANES}f{a.integer.element.width}"
        fma = get_or_insert_function(builder.module, ir.FunctionType(a.llvm, [a.llvm] * 3), name)
        return builder.call(fma, [args[0], args[1], builder.fneg(args[2])])

    return a(a, a, a), generate


@intrinsic
def power_of_two(typing: Any, x: Any) -> Any:
    """2^x of whole F32 numbers from -126 to 127: the number put in the place of the exponent."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        placed = builder.fadd(args[0], _constant(F32.llvm, 1.5 * 2.0**23 + 127))
        bits = builder.shl(builder.bitcast(placed, F32.integer), _constant(F32.integer, 23))
        return builder.bitcast(bits, F32.llvm)

    return F32(F32), generate


@intrinsic
def exponent(typing: Any, x: Any) -> Any:
    """floor(log2 x) of positive normal F32 numbers."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = builder.lshr(builder.bitcast(args[0], F32.integer), _constant(F32.integer, 23))
        return builder.sitofp(builder.sub(bits, _constant(F32.integer, 127)), F32.llvm)

    return F32(F32), generate


@intrinsic
def mantissa(typing: Any, x: Any) -> Any:
    """x / 2^exponent(x), in [1, 2), of positive normal F32 numbers."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = builder.and_(builder.bitcast(args[0], F32.integer), _constant(F32.integer, 0x7FFFFF))
        return builder.bitcast(builder.or_(bits, _constant(F32.integer, 0x3F800000)), F32.llvm)

    return F32(F32), generate


@intrinsic
def transpose(typing: Any, source: Any, start: Any, step: Any, target: Any, place: Any, stride: Any) -> Any:
    """A 16 x 16 tile turned: target[place + i * stride + j] = source[start + j * step + i]. Each line of
    memory is read and written once, whole, however the strides collide in the cache."""
    kind = _vector_of(source.dtype)
    bytes_ = source.dtype.bitwidth // 8

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        numbers = [ir.Constant(args[1].type, i) for i in range(LANES)]
        rows = []
        for n in numbers:
            at = builder.add(args[1], builder.mul(n, args[2]))
            rows.append(
                builder.load(_address(context, builder, sig.args[0], args[0], at, kind.llvm), align=bytes_)
            )
        for d in (1, 2, 4, 8):  # exchange the off-diagonal blocks of size d
            low = [j if not j & d else LANES + j - d for j in range(LANES)]
            high = [j + d if not j & d else LANES + j for j in range(LANES)]
            masks = [ir.Constant(ir.VectorType(ir.IntType(32), LANES), m) for m in (low, high)]
            for i in range(LANES):
                if not i & d:
                    a, b = rows[i], rows[i + d]
                    rows[i], rows[i + d] = (builder.shuffle_vector(a, b, m) for m in masks)
        for n, row in zip(numbers, rows, strict=True):
            at = builder.add(args[4], builder.mul(n, args[5]))
            builder.store(row, _address(context, builder, sig.args[3], args[3], at, kind.llvm), align=bytes_)
        return context.get_dummy_value()

    index = types.intp
    return types.void(source, index, index, target, index, index), generate


@intrinsic
def store_first_least(typing: Any, codes: Any, index: Any, a: Any, b: Any, c: Any) -> Any:
    """codes[index : index + 16] = 0 where a is least, 1 where b, 2 where c; the first of equals."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _, _, first, second, third = args
        number = [_constant(_CODES, code) for code in (0, 1, 2)]
        later = builder.select(builder.fcmp_ordered("<=", second, third), number[1], number[2])
        beats = builder.and_(
            builder.fcmp_ordered("<=", first, second), builder.fcmp_ordered("<=", first, third)
        )
        code = builder.select(beats, number[0], later)
        builder.store(code, _address(context, builder, sig.args[0], args[0], args[1], _CODES), align=1)
        return context.get_dummy_value()

    return types.void(codes, types.intp, a, b, c), generate


@intrinsic
def store_origin(typing: Any, origins: Any, index: Any, before: Any, a: Any, b: Any, number: Any) -> Any:
    """origins[index : index + 16] (int16) = number where a > b, else what stands at `before`."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.VectorType(ir.IntType(16), LANES)
        empty = ir.Constant(kind, ir.Undefined)
        one = builder.insert_element(
            empty, builder.trunc(args[5], ir.IntType(16)), ir.Constant(ir.IntType(32), 0)
        )
        new = builder.shuffle_vector(
            one, empty, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        )
        there, here = (_address(context, builder, sig.args[0], args[0], args[i], kind) for i in (2, 1))
        chosen = builder.select(
            builder.fcmp_ordered(">", args[3], args[4]), new, builder.load(there, align=2)
        )
        builder.store(chosen, here, align=2)
        return context.get_dummy_value()

    return types.void(origins, types.intp, types.intp, a, b, types.intp), generate


@intrinsic
def store_above(typing: Any, codes: Any, index: Any, a: Any, b: Any) -> Any:
    """codes[index : index + 16] = 1 where a > b, else 0."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        above = builder.zext(builder.fcmp_ordered(">", args[2], args[3]), _CODES)
        builder.store(above, _address(context, builder, sig.args[0], args[0], args[1], _CODES), align=1)
        return context.get_dummy_value()

    return types.void(codes, types.intp, a, b), generate


def _polynomial() -> tuple[np.float32, ...]:
    """2^x on [-1/2, 1/2], degree 5, least relative error (1.7e-7)."""
    x = np.linspace(-0.5, 0.5, 4001)
    fit = np.polynomial.chebyshev.Chebyshev.fit(x, np.exp2(x), 5, domain=[-0.5, 0.5], w=np.exp2(-x))
    return tuple(np.float32(c) for c in fit.convert(kind=np.polynomial.Polynomial).coef)


EXP2 = _polynomial()
