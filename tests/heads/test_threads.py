"""Work in threads: results in order, no more begun than asked for, errors and early ends."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch
from svdp.heads.threads import in_order, single_thread


def test_results_come_in_order_whatever_finishes_first():
    def slow_if_even(n: int) -> int:
        time.sleep(0.02 * (n % 2 == 0))
        return n * n

    assert list(in_order(slow_if_even, range(9), workers=3)) == [n * n for n in range(9)]


def test_no_more_is_begun_than_workers_and_one_ahead():
    begun = []

    def items() -> Iterator[int]:
        for n in range(100):
            begun.append(n)
            yield n

    results = in_order(lambda n: n, items(), workers=2, ahead=1)
    for taken in range(1, 6):
        next(results)
        assert len(begun) <= taken + 3
    results.close()
    assert len(begun) <= 9


def test_an_error_comes_in_its_place_and_ends_the_rest():
    def fail_at_two(n: int) -> int:
        if n == 2:
            raise ValueError("two")
        return n

    results = in_order(fail_at_two, range(50), workers=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)
    assert list(results) == []


def test_workers_have_one_thread_of_pytorch_each_and_the_caller_keeps_its_own():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        seen = list(in_order(lambda _: (torch.get_num_threads(), threading.get_ident()), range(8), workers=2))
        assert {count for count, _ in seen} == {1}
        assert threading.get_ident() not in {ident for _, ident in seen}
        assert torch.get_num_threads() == 2
        with single_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
