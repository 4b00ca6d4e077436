"""The table of errors of the split schemes, from the model of the tensor core (docs/numerics.md).

Numbers are the bias of C_ii relative to C_ii over 2^17 rows of standard normal columns. The mean over columns of a
bias has a standard error, over the columns, that the tolerances are made of.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensor_core_model as model

ROWS = 2**17
COLUMNS = 16
NARROW = {"bf16": model.to_bfloat16, "fp16": model.to_float16, "tf32": model.to_tf32}
X6 = model.SCHEMES["bf16x6"].products


@functools.cache
def gradients():
    return np.random.default_rng(0).standard_normal((ROWS, COLUMNS)).astype(np.float32)


@functools.cache
def diagonal(kind, products, promote, *, low_order_first=True, extra_bits=model.HOPPER_EXTRA_BITS):
    """Mean over columns of (C_ii as computed - C_ii) / C_ii, and its standard error."""
    y = gradients()
    planes = model.split(y, 1 + max(a for a, _ in products), NARROW[kind])
    exact = (y.astype(np.float64) ** 2).sum(axis=0)
    if products == ((0, 0),):
        exact = (planes[0] ** 2).sum(axis=0)  # gradients that are 16-bit already
    got = model.accumulate(
        planes,
        planes,
        products,
        promote=promote,
        low_order_first=low_order_first,
        extra_bits=extra_bits,
        instruction_rows=8 if kind == "tf32" else 16,
    )
    error = (got - exact) / exact
    return error.mean(), error.std(ddof=1) / np.sqrt(COLUMNS)


def bias(*args, **kwargs):
    return diagonal(*args, **kwargs)[0]


def float32_chain():
    """The diagonal by one fused multiply-add after another in float32, as a SIMT kernel without slabs would."""
    y = gradients().astype(np.float64)
    total = np.zeros(COLUMNS)
    for row in y * y:
        total = (total + row).astype(np.float32).astype(np.float64)
    return (total / (y * y).sum(axis=0) - 1).mean()


# Published with the design, to one or two digits: promotion every 128 rows.
TABLE = {
    "bf16x6": ("bf16", X6, 128, -1.9e-7),
    "fp16x3": ("fp16", model.X3, 128, -4.7e-7),
    "3xTF32": ("tf32", model.X3, 128, -5.8e-7),
    "bf16x3": ("bf16", model.X3, 128, -3.0e-6),
}


# docs/numerics.md: what the kernels' own intervals give.
DOCUMENTED = {
    ("bf16x6", "mma"): -6.1e-8,
    ("bf16x6", "wgmma"): -8.6e-8,
    ("fp16x3", "mma"): -2.1e-7,
    ("fp16x3", "wgmma"): -2.1e-7,
    ("bf16x3", "mma"): -2.8e-6,
    ("bf16", "mma"): -1.8e-7,
    ("fp16", "wgmma"): -4.4e-7,
}


@pytest.mark.parametrize(("name", "kernel"), DOCUMENTED)
def test_the_documented_biases_of_the_kernels(name, kernel):
    scheme = model.SCHEMES[name]
    expected = DOCUMENTED[name, kernel]
    got = bias("fp16" if scheme.half else "bf16", scheme.products, scheme.promote[kernel])
    assert abs(got - expected) <= 0.06 * 10 ** np.floor(np.log10(-expected))


@pytest.mark.parametrize("name", TABLE)
def test_the_table_of_biases(name):
    kind, products, promote, expected = TABLE[name]
    mean, error = diagonal(kind, products, promote)
    # Half a unit of the second digit, three standard errors, and 7% because the reference's data are unknown.
    assert abs(mean - expected) <= 0.05 * 10 ** np.floor(np.log10(-expected)) + 3 * error + 0.07 * -expected


def test_one_accumulator_for_all_rows_is_biased():
    mean, _ = diagonal("bf16", ((0, 0),), None)
    assert -6.5e-4 <= mean <= -5.5e-4


def test_a_float32_chain_without_tensor_cores():
    assert -2.5e-5 <= float32_chain() <= -1.5e-5


def test_nine_products_gain_nothing_over_six():
    six, error = diagonal("bf16", X6, 128)
    nine = bias("bf16", model.X9, 128)
    assert abs(nine - six) <= 3 * error
    # What is left out, products of planes 1 and 2, is smaller than the bias by a factor of ten and more.
    planes = model.split(gradients(), 3, model.to_bfloat16)
    left_out = (2 * planes[1] * planes[2] + planes[2] ** 2).sum(axis=0) / (planes[0] ** 2).sum(axis=0)
    assert np.abs(left_out).max() < 0.1 * abs(six)


@pytest.mark.parametrize(("kind", "products"), [("bf16", X6), ("fp16", model.X3), ("tf32", model.X3)])
def test_low_order_products_go_first(kind, products):
    first = bias(kind, products, 128)
    mixed = bias(kind, products, 128, low_order_first=False)
    last = bias(kind, products[::-1], 128)
    assert abs(first) < 0.8 * abs(mixed)
    assert abs(mixed) < abs(last)


def test_promotion_is_worth_its_additions():
    biases = [abs(bias("bf16", X6, rows)) for rows in (32, 64, 128, 256, 1024)]
    assert biases == sorted(biases)
    assert biases[-1] > 10 * biases[0]


def test_extra_bits_of_the_alignment_matter_to_float16_most():
    """On a chip that keeps none (Volta) fp16x3 promoted every 128 rows would miss 1e-6."""
    assert abs(bias("fp16", model.X3, 128, extra_bits=0)) > 1e-6
    assert abs(bias("bf16", X6, 128, extra_bits=0)) < 5e-7


# What is promised for the kernels as they are: max |dC_ij| / sqrt(C_ii C_jj).
PROMISED = {"bf16": 5e-7, "fp16": 5e-7, "bf16x3": 5e-6, "bf16x6": 5e-7, "fp16x3": 1e-6}


@pytest.mark.parametrize("kernel", ["mma", "wgmma"])
@pytest.mark.parametrize("name", PROMISED)
def test_the_intervals_of_the_kernels_keep_the_promise(name, kernel):
    scheme = model.SCHEMES[name]
    kind = "fp16" if scheme.half else "bf16"
    mean, _ = diagonal(kind, scheme.products, scheme.promote[kernel])
    assert abs(mean) <= PROMISED[name]


@pytest.mark.parametrize("kernel", ["mma", "wgmma"])
@pytest.mark.parametrize("name", ["bf16x6", "fp16x3"])
@pytest.mark.parametrize("columns", ["normal", "mean 100", "log-normal"])
def test_whole_matrices_on_other_columns(name, kernel, columns):
    rng = np.random.default_rng(3)
    normal = rng.standard_normal((4096, 6))
    y = {"normal": normal, "mean 100": normal + 100, "log-normal": np.exp(2 * normal)}[columns].astype(
        np.float32
    )
    exponents = None
    if model.SCHEMES[name].half:
        e = model.column_exponents(y)
        exponents = (e, e)
    got = model.update(y, y, name, kernel, exponents=exponents)
    exact = y.astype(np.float64).T @ y.astype(np.float64)
    scale = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
    assert (np.abs(got - exact) / scale).max() <= PROMISED[name]


def test_scaling_columns_by_powers_of_two_is_exact_and_needed():
    y = (gradients()[:2048, :6] * 2.0 ** np.array([-30, -12, 0, 5, 20, 40])).astype(np.float32)
    e = model.column_exponents(y)
    got = model.update(y, y, "fp16x3", "mma", exponents=(e, e))
    shifted = np.ldexp(y, -7).astype(np.float32)
    again = model.update(shifted, shifted, "fp16x3", "mma", exponents=(e + 7, e + 7))
    assert (np.ldexp(again, 14) == got).all()
    with np.errstate(all="ignore"):
        plain = model.update(y, y, "fp16x3", "mma")
    assert not np.isfinite(plain[5, 5])  # 2^40 is beyond float16
    assert plain[0, 0] == 0  # 2^-30 is below it


def test_exact_right_operand_with_a_split_left_one():
    """bfloat16 X: rows times a weight in two or three planes, against X as it is."""
    rng = np.random.default_rng(5)
    x = model.to_bfloat16(rng.standard_normal((4096, 5))).astype(np.float32)
    weighted = (rng.standard_normal((4096, 1)).astype(np.float32) * x).astype(np.float32)
    exact = weighted.astype(np.float64).T @ x.astype(np.float64)
    scale = np.sqrt(np.outer((weighted.astype(np.float64) ** 2).sum(0), (x.astype(np.float64) ** 2).sum(0)))
    for name, bound in (("bf16_left2", 5e-6), ("bf16_left3", 5e-7)):
        got = model.update(weighted, x, name, "mma")
        assert (np.abs(got - exact) / scale).max() <= bound


def test_the_tables_are_complete():
    for scheme in model.SCHEMES.values():
        assert scheme.products[-1] == (0, 0)
        assert len(set(scheme.products)) == len(scheme.products)
        assert max(a for a, _ in scheme.products) == scheme.left_planes - 1
        assert max(b for _, b in scheme.products) == scheme.right_planes - 1
        orders = [a + b for a, b in scheme.products]
        assert orders == sorted(orders, reverse=True)
        for rows in scheme.promote.values():
            assert rows % model.INSTRUCTION_ROWS == 0
            assert model.FLUSH_ROWS % rows == 0


def test_one_instruction_cuts_toward_zero():
    sixteen = np.zeros(16)
    one = np.array([1.0])
    sixteen[0] = 2.0**-26  # below the two extra bits of an accumulator of 1: lost, whatever the sign
    ones = np.ones(16)
    assert model.multiply_add(one, sixteen, ones) == 1
    assert model.multiply_add(one, -sixteen, ones) == 1
    sixteen[:4] = 2.0**-25  # four quarters of a last place survive to the sum
    assert model.multiply_add(one, sixteen, ones) == 1 + 2.0**-23
    assert model.multiply_add(one, -sixteen, ones) == 1 - 2.0**-23
    assert model.multiply_add(one, 3 * sixteen / 4, ones) == 1
