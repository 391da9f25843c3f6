"""What a server says that forbids a command, and what it says that forbids none."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import NoPermissionError, ResponseError

from fast_cache.backends.redis.driver import forbids

SCRIPTING = {"EVAL", "EVALSHA"}


@pytest.mark.parametrize(
    "said",
    [
        ResponseError("NOPERM this user has no permissions to run the 'evalsha' command or its subcommand"),  # 6.2
        ResponseError("NOPERM this user has no permissions to run the 'eval' command"),  # 7.0
        ResponseError("NOPERM User hosted has no permissions to run the 'evalsha' command"),  # 7.2
        ResponseError("ERR unknown command `EVALSHA`, with args beginning with: `5f`, `1`, `k`, "),  # 6.2
        ResponseError("ERR unknown command 'EVALSHA', with args beginning with: '5f' '1' 'k' "),  # 7
        ResponseError("ERR unknown command 'eval'"),
        NoPermissionError("this user has no permissions to run the 'eval' command"),  # as the driver reads them
        ResponseError("unknown command 'EVAL', with args beginning with: 'return 1' '0' "),
    ],
)
def test_a_refusal(said: Any) -> None:
    assert forbids(said, SCRIPTING)
    assert not forbids(said, {"WATCH"})


@pytest.mark.parametrize(
    "said",
    [
        ResponseError("LOADING Redis is loading the dataset in memory"),
        ResponseError("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'."),
        ResponseError("READONLY You can't write against a read only replica."),
        ResponseError("OOM command not allowed when used memory > 'maxmemory'."),
        ResponseError("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."),
        ResponseError("NOSCRIPT No matching script. Please use EVAL."),
        ResponseError("NOAUTH Authentication required."),
        ResponseError("NOPERM this user has no permissions to access one of the keys used as arguments"),
        ResponseError("NOPERM ACL failure in script: User hosted has no permissions to run the 'xadd' command"),
        ResponseError("ERR Error running script (call to f_5f): @user_script:3: Unknown Redis command called from Lua"),
        ResponseError("ERR unknown command 'LPOS', with args beginning with: 'EVAL' 'EVALSHA' "),
        ResponseError("EXECABORT Transaction discarded because of previous errors."),
        b"ERR unknown command 'EVAL'",
        None,
        1,
    ],
)
def test_no_refusal(said: Any) -> None:
    assert not forbids(said, SCRIPTING)
