"""The quantity parser against a plain model: a number is put together from parts whose value is known, and must come out again."""

from decimal import Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_api.quantity import MAX, MIB, InvalidQuantity, format_bytes, mebibytes, parse, parse_bytes, parse_milli

SUFFIXES = {
    "": Fraction(1),
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    **{letter: Fraction(1000) ** power for power, letter in enumerate("kMGTPE", 1)},
    **{f"{letter}i": Fraction(1024) ** power for power, letter in enumerate("KMGTPE", 1)},
}
digits = st.text("0123456789", max_size=12)
exponents = st.integers(-30, 30).map(lambda power: (f"e{power}", Fraction(10) ** power))


@st.composite
def quantities(draw: st.DrawFn) -> tuple[str, Fraction]:
    """A text of the published grammar, and what it stands for."""
    whole, part, point = draw(digits), draw(digits), draw(st.sampled_from(["", "."]))
    number = whole + point + (part if point else "")
    if not any(letter.isdigit() for letter in number):
        number = "0" + number
    suffix, factor = draw(st.one_of(st.sampled_from(sorted(SUFFIXES.items())), exponents))
    with localcontext(prec=60):
        value = Fraction(Decimal(number)) * factor
    return draw(st.sampled_from(["", "+"])) + number + suffix, value


@given(quantities())
def test_a_quantity_stands_for_its_number_times_its_suffix(given_quantity: tuple[str, Fraction]) -> None:
    text, value = given_quantity
    if value > MAX:
        with pytest.raises(InvalidQuantity, match="at most"):
            parse(text)
    else:
        assert parse(text) == value


@given(quantities())
def test_units_are_whole_and_never_fewer_than_asked_for(given_quantity: tuple[str, Fraction]) -> None:
    text, value = given_quantity
    if value > MAX:
        return
    assert value <= parse_bytes(text) < value + 1
    assert value * 1000 <= parse_milli(text) < value * 1000 + 1
    assert value <= mebibytes(text) * MIB < value + MIB


@given(quantities())
def test_below_zero_is_refused_and_minus_zero_is_zero(given_quantity: tuple[str, Fraction]) -> None:
    text, value = given_quantity
    negative = "-" + text.removeprefix("+")
    if value:
        with pytest.raises(InvalidQuantity):
            parse(negative)
    else:
        assert parse(negative) == 0


@given(st.one_of(st.text(max_size=80), st.text("0123456789.+-eEinumkKMGTP _", max_size=20)))
def test_any_text_is_a_number_in_range_or_refused_with_what_must_be_true(text: str) -> None:
    try:
        number = parse(text)
    except InvalidQuantity as refusal:
        number, said = None, str(refusal)
    assert "must" in said if number is None else 0 <= number <= MAX


@given(st.integers(0, MAX))
def test_the_canonical_form_reads_back(number: int) -> None:
    assert parse_bytes(format_bytes(number)) == number


@given(st.integers(1, 1023), st.integers(0, 5))
def test_the_canonical_form_has_the_largest_suffix_that_leaves_a_whole_number(number: int, power: int) -> None:
    assert format_bytes(number * 1024**power) == f"{number}{['', 'Ki', 'Mi', 'Gi', 'Ti', 'Pi'][power]}"


@pytest.mark.parametrize(
    "text", ["", " ", ".", "+", "-.", "NaN", "Infinity", "inf", "1_000", " 1", "1 ", "1\n", "1e", "1e3Ki", "1ki", "1K", "1mi", "1e1.5"]
)
def test_what_the_grammar_does_not_have_is_refused(text: str) -> None:
    with pytest.raises(InvalidQuantity, match="must be a Kubernetes quantity"):
        parse(text)


@pytest.mark.parametrize("text", ["1e101", "1e-101", "0e99999999999", "٣Gi", "１", "8Ei", "1" * 65])
def test_what_no_memory_has_is_refused_at_once(text: str) -> None:
    with pytest.raises(InvalidQuantity, match="must"):
        parse(text)


@pytest.mark.parametrize("number", [-1, MAX + 1])
def test_only_what_can_be_parsed_is_written(number: int) -> None:
    with pytest.raises(InvalidQuantity, match="must be at least 0"):
        format_bytes(number)
