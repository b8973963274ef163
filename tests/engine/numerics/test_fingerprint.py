"""Fingerprints see every change of bits, and nothing else."""

import struct

import pytest
import torch
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ReplayMismatchError
from engine.numerics.fingerprint import (
    check_same_bits,
    fingerprint,
    first_difference,
    state_fingerprint,
)

ROW = 1 << 16  # words; a hash works in stripes and blocks that are much smaller


def random_words(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-(2**31), 2**31, (count,), generator=generator).to(torch.int32)


def with_word(words, index, value):
    changed = words.clone()
    changed[index] = value
    return changed


def swapped(words, one, other):
    changed = words.clone()
    changed[[one, other]] = words[[other, one]]
    return changed


def test_fingerprint_names_the_bits_of_a_tensor():
    """Equal bits have equal names, whatever the memory they lie in; 32 hex digits."""
    tensor = torch.arange(6, dtype=torch.float64)

    assert fingerprint(tensor) == fingerprint(torch.arange(12.0, dtype=torch.float64)[:6])
    assert fingerprint(tensor) == fingerprint(torch.stack([tensor, tensor]).T[:, 0])
    assert len(bytes.fromhex(fingerprint(tensor))) == 16


def test_fingerprint_is_what_its_docstring_says():
    """Bytes packed one number at a time, and the hash of all of them at once."""
    values = [1.5, -0.0, 3e38, 7.0]
    packed = struct.pack("<4f", *values)

    found = fingerprint(torch.tensor(values).view(2, 2))

    assert found == xxhash.xxh3_128_hexdigest(b"torch.float32 (2, 2) " + packed)


def test_fingerprint_stays_what_it_was():
    """Stored marks hold fingerprints, so another definition would call every old row damaged."""
    small = torch.arange(5, dtype=torch.float32)
    large = torch.arange(3 * ROW + 7, dtype=torch.int32).view(torch.float32)

    assert fingerprint(small) == "bbfa4628aded61307cd31ab52c4a9f5e"
    assert fingerprint(large) == "f94032b8153037e5dab2cbefc3daf033"


@given(st.integers(1, 300), st.integers(0, 2**32), st.data())
def test_fingerprint_sees_a_single_flipped_bit(count, seed, data):
    """The smallest accident of memory, disk or network."""
    words = random_words(count, seed)
    index = data.draw(st.integers(0, count - 1))
    bit = data.draw(st.integers(0, 31))

    flipped = with_word(words, index, words[index] ^ torch.tensor(1).bitwise_left_shift(bit).int())

    assert fingerprint(flipped.view(torch.float32)) != fingerprint(words.view(torch.float32))


@given(st.integers(2, 300), st.integers(0, 2**32), st.data())
def test_fingerprint_sees_a_swap(count, seed, data):
    """A plain sum would not see that two numbers changed places."""
    words = random_words(count, seed)
    one = data.draw(st.integers(0, count - 1))
    other = data.draw(st.integers(0, count - 1).filter(lambda index: words[index] != words[one]))

    assert fingerprint(swapped(words, one, other)) != fingerprint(words)


@pytest.mark.parametrize(("one", "other"), [(0, ROW), (5, 2 * ROW + 5), (ROW - 1, ROW)])
def test_fingerprint_sees_a_swap_between_blocks(one, other):
    """Sums of blocks are combined by place, so a word may not move from one to the next."""
    words = random_words(2 * ROW + 10)

    assert fingerprint(swapped(words, one, other)) != fingerprint(words)


@pytest.mark.parametrize("kept", [0, 1, ROW - 1, ROW, ROW + 1])
def test_fingerprint_sees_truncation_of_zeros(kept):
    """Zeros add nothing to a sum; the length is part of the fingerprint for this."""
    zeros = torch.zeros(ROW + 2)

    assert fingerprint(zeros[:kept]) != fingerprint(zeros)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(torch.zeros(3), -torch.zeros(3), id="minus zero"),
        pytest.param(torch.zeros(4), torch.zeros(2, dtype=torch.float64), id="dtype"),
        pytest.param(torch.zeros(4), torch.zeros(2, 2), id="shape"),
        pytest.param(
            torch.tensor([0x7FC00000], dtype=torch.int32).view(torch.float32),
            torch.tensor([0x7FC00001], dtype=torch.int32).view(torch.float32),
            id="NaN payload",
        ),
        pytest.param(
            torch.ones(3, dtype=torch.uint8), torch.ones(2, dtype=torch.uint8), id="bytes"
        ),
    ],
)
def test_fingerprint_tells_apart_what_compares_equal(one, other):
    """Values that compare equal, or not at all, are different bits."""
    assert fingerprint(one) != fingerprint(other)


def test_state_fingerprint_names_each_vector():
    """So that an error can say which vector is damaged."""
    state = {"params": torch.ones(3), "exp_avg": torch.zeros(3)}

    assert state_fingerprint(state) == {
        "params": fingerprint(torch.ones(3)),
        "exp_avg": fingerprint(torch.zeros(3)),
    }


def test_first_difference_is_an_element_not_a_byte():
    """The index goes into an error message, where a reader looks for the parameter."""
    vector = torch.zeros(5, dtype=torch.float64)

    assert first_difference(vector, with_word(vector, 3, -0.0)) == 3
    assert first_difference(vector, vector.clone()) is None


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        pytest.param({"m": torch.zeros(2)}, "vectors", id="names"),
        pytest.param({"params": torch.zeros(3)}, r"\(3,\)", id="shape"),
        pytest.param({"params": torch.zeros(2, dtype=torch.float64)}, "float64", id="dtype"),
        pytest.param({"params": torch.tensor([0.0, -0.0])}, "element 1.*0x80000000", id="bits"),
    ],
)
def test_check_same_bits_names_what_differs(state, reason):
    """A replay that drifts is stopped where it is first seen, with the place."""
    with pytest.raises(ReplayMismatchError, match=reason):
        check_same_bits("Row 3", {"params": torch.zeros(2)}, state)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fingerprint_is_the_same_on_the_device_and_on_the_host():
    """A state is fingerprinted where it is trained and checked where it is loaded."""
    words = random_words(200 * ROW + 3)

    assert fingerprint(words.cuda()) == fingerprint(words)


def coo(rows, columns, values):
    return torch.sparse_coo_tensor(torch.tensor([rows, columns]), torch.tensor(values), (2, 2))


@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (coo([0], [1], [1.0]).to_sparse_csr(), coo([1], [0], [1.0]).to_sparse_csc()),
        (coo([0, 1], [1, 0], [1.0, 2.0]), coo([1, 0], [0, 1], [2.0, 1.0])),
        (coo([0, 0], [1, 1], [1.0, 2.0]), coo([0, 0], [1, 1], [1.0, 2.0]).coalesce()),
        (torch.ones(4, 4).to_sparse(1), torch.ones(4, 4).to_sparse(2)),
        (torch.ones(2, 2), torch.ones(2, 2).to_sparse()),
    ],
    ids=["a matrix and its transpose", "another order", "twice in a place", "rows", "dense"],
)
def test_sparse_tensors_of_other_bits_have_other_names(one, other):
    """The rows of a matrix in one layout are the columns of its transpose in the other."""
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) == fingerprint(one.clone())


def test_conjugate_has_the_name_of_the_numbers_that_it_stands_for():
    """It is a note on the bits of another tensor until somebody reads it."""
    tensor = torch.complex(torch.arange(3.0), torch.ones(3))
    conjugate, negative = tensor.conj(), tensor.conj().imag

    assert conjugate.is_conj()
    assert negative.is_neg()
    assert fingerprint(conjugate) == fingerprint(torch.complex(torch.arange(3.0), -torch.ones(3)))
    assert fingerprint(negative) == fingerprint(-torch.ones(3))
