"""Reading ahead: in order, with errors in their places, and never more than asked for."""

import threading

import pytest

from detclip2.data.io.read_ahead import read_ahead
from detclip2.utils.errors import UserError


def test_results_are_in_order_and_errors_in_their_places():
    def read(number):
        if number % 7 == 3:
            raise UserError(str(number))
        return -number

    results = list(read_ahead(range(50), read, 4, 8))
    assert [item for item, _ in results] == [*range(50)]
    for item, result in results:
        assert str(result) == str(item) if item % 7 == 3 else result == -item


def test_it_reads_while_the_caller_works():
    # The caller waits for the next reading before it asks for it: without threads it would hang.
    started = [threading.Event() for _ in range(6)]
    for number, _ in read_ahead(range(6), lambda n: started[n].set(), 2, 3):
        assert number == 5 or started[number + 1].wait(30)


def test_no_more_is_read_than_may_be_in_memory():
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    for number, _ in read_ahead(items(), lambda n: n, 2, 5):
        assert len(taken) <= number + 5


def test_another_error_ends_it():
    def read(number):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(read_ahead(range(3), read, 2, 2))


def test_a_caller_that_stops_ends_the_threads():
    stream = read_ahead(range(10**9), lambda n: n, 2, 4)
    next(stream)
    stream.close()
    assert list(read_ahead([], lambda n: n, 2, 4)) == []
