"""A master dies under load, and its replica takes over without what the master confirmed last.

No request fails, and nothing stale is served by the process that invalidated it: it tells the new master again.
"""

from __future__ import annotations

import pytest

from tests.faults.shop import TIMEOUT, Mode, Shop, in_both_modes
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_sentinel import RedisSentinel


@pytest.mark.parametrize("lossy", [False, True], ids=["killed", "cut off and killed"])
@in_both_modes
def test_the_master_of_a_sentinel_set_dies(mode: Mode, lossy: bool) -> None:
    with RedisSentinel(down_after=1.0) as sentinel, Shop(sentinel.url, mode, timeout=TIMEOUT) as shop:
        shop.until_cached()
        shop.go_on()
        if lossy:
            sentinel.master().cut_replicas()
        shop.change_all()
        sentinel.fail_over(lossy=lossy)
        shop.until_back()
        shop.go_on()


@pytest.mark.parametrize("lossy", [False, True], ids=["killed", "cut off and killed"])
@in_both_modes
def test_a_master_of_a_cluster_dies(mode: Mode, lossy: bool) -> None:
    with RedisCluster(node_timeout=1.0) as cluster, Shop(cluster.url, mode, timeout=TIMEOUT) as shop:
        shop.until_cached()
        shop.go_on()
        master = cluster.masters[0]
        if lossy:
            master.cut_replicas()
        shop.change_all()
        cluster.fail_over(master, lossy=lossy)
        shop.until_back()
        shop.go_on()
