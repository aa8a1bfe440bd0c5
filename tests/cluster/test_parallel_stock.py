"""The Python client on the stock controller and engines: what test_parallel.py has of that which depends on them."""

from __future__ import annotations

import pytest
import test_parallel
from parallel_cluster import stock  # noqa: F401
from peers import SOON_S

# The tests are the same functions, on another cluster.
test_calls_on_every_kind_of_view = test_parallel.test_calls_on_every_kind_of_view
test_maps = test_parallel.test_maps
test_balanced_maps = test_parallel.test_balanced_maps
test_namespaces = test_parallel.test_namespaces
test_arrays_go_both_ways = test_parallel.test_arrays_go_both_ways_without_being_copied_twice
test_output_is_captured = test_parallel.test_output_is_captured
test_errors_say_where = test_parallel.test_errors_say_where
test_metadata = test_parallel.test_metadata
test_nothing_is_kept_of_what_has_ended = test_parallel.test_nothing_is_kept_of_what_has_ended
test_awaiting = test_parallel.test_awaiting
test_executor = test_parallel.test_executor
test_decorators = test_parallel.test_decorators
test_dependencies = test_parallel.test_dependencies
test_aborting = test_parallel.test_aborting
test_targets = test_parallel.test_targets


@pytest.fixture
def rc(stock):  # noqa: F811
    client = stock.client()
    client.clear(block=True)
    yield client
    client.close()


def test_picklers_are_switched_on_both_sides(rc):
    pytest.importorskip("cloudpickle")
    captured = 5
    rc[:].use_cloudpickle().get(SOON_S)
    try:
        assert rc[:].apply_sync(lambda x: x + captured, 1) == [6, 6]
        rc[:].push({"a": captured}, block=True)
        assert rc[0]["a"] == 5 and rc.load_balanced_view().map_sync(lambda x: x * captured, range(3)) == [0, 5, 10]
    finally:
        rc[:].use_pickle().get(SOON_S)


def test_the_controller_is_asked(stock, rc):  # noqa: F811
    ar = rc.load_balanced_view().apply_async(pow, 2, 5)
    assert ar.get(SOON_S) == 32
    [msg_id] = ar.msg_ids
    test_parallel.wait_for(lambda: msg_id in rc.hub_history())
    with stock.client() as other:
        test_parallel.wait_for(lambda: other.result_status(msg_id)["completed"])
        assert other.get_result(msg_id).get(SOON_S) == 32
    [record] = rc.db_query({"msg_id": msg_id}, keys=["submitted", "result_buffers"])
    assert record["submitted"].tzinfo is not None and len(record["result_buffers"]) == 1
    assert set(rc.queue_status()) == {"unassigned", *rc.ids}
    assert rc.resubmit(msg_id).get(SOON_S) == [32]
    test_parallel.wait_for(lambda: rc.purge_hub_results("all") or rc.hub_history() == [])  # it hears of results late

