"""The application of :mod:`tests.faults.shop` as a server runs it, in a process of its own.

What it is comes from the environment: ``FAULTS_REDIS``, ``FAULTS_MODE``, ``FAULTS_TRUTH``, ``FAULTS_TIERS``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

from tests.faults.shop import TIMEOUT, Mode, Shop, Way
from tests.faults.truth import Truth

shop = Shop(
    os.environ["FAULTS_REDIS"],
    cast(Mode, os.environ["FAULTS_MODE"]),
    truth=Truth(Path(os.environ["FAULTS_TRUTH"])),
    tiers=int(os.environ["FAULTS_TIERS"]),
    timeout=TIMEOUT,
)
app = shop.app


@app.get("/state")
async def read_state() -> dict[str, Any]:
    return {"away": shop.away, "owes": shop.owes, "sure": shop.sure, "asked": shop.asked.total()}


if os.environ["FAULTS_MODE"] == "sync":

    @app.get("/{way}/{item}")
    def read_by_thread(way: Way, item: int) -> int:
        return int(shop.functions[way](item))

    @app.put("/items/{item}")
    def change_by_thread(item: int) -> int:
        return shop.change_by_thread(item)

else:

    @app.get("/{way}/{item}")
    async def read_by_task(way: Way, item: int) -> int:
        return int(await shop.functions[way](item))

    @app.put("/items/{item}")
    async def change_by_task(item: int) -> int:
        return await shop.change_by_task(item)
