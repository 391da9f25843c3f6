"""A small shop with a cache.

    make run                                                in memory
    make run REDIS_URL=redis://localhost:6379/0             in Redis

Open http://127.0.0.1:8000/ for the addresses to try.
"""

from __future__ import annotations

import asyncio
import os
from decimal import Decimal
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException
from fastapi.responses import PlainTextResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel

from fast_cache import CacheBackend, CacheDep, HTTPOptions, InMemoryBackend, RedisBackend, cache


class Item(BaseModel):
    id: int
    name: str
    price: Decimal


class User(BaseModel):
    id: int
    name: str


class Account(BaseModel):
    user: User
    orders: list[int]


class Report(BaseModel):
    computed: int
    """How often the slow work was done since the shop opened."""
    items: int
    worth: Decimal


# What a database would hold.
ITEMS = {
    1: Item(id=1, name="Kettle", price=Decimal("34.90")),
    2: Item(id=2, name="Teapot", price=Decimal("52.00")),
    3: Item(id=3, name="Cup", price=Decimal("8.50")),
}
USERS = {"ada-token": User(id=1, name="Ada"), "bob-token": User(id=2, name="Bob")}
ORDERS = {1: [1001, 1004], 2: [1002]}

# How often the sources behind the cache were asked, for whoever wants to see it work.
ASKED = {"items": 0, "accounts": 0, "stock": 0, "rates": 0, "reports": 0}


def backend() -> CacheBackend:
    """Redis where REDIS_URL is set, this process's memory otherwise."""
    url = os.environ.get("REDIS_URL")
    return RedisBackend(url, namespace="shop") if url else InMemoryBackend()


app = FastAPI(title="A small shop")
cache.init_app(app, backend=backend(), default_expire=300, http=HTTPOptions(cache_groups=True))


@app.get("/")
def addresses() -> dict[str, str]:
    return {
        "GET /items": "all items; ?cheaper_than=20&limit=2 to choose",
        "GET /items/1": "one item, cached for a minute",
        "PUT /items/1": "change it: the cached copy goes at once",
        "GET /me": "your account, cached for each user: Authorization: Bearer ada-token (or bob-token)",
        "GET /staff/stock": "what there is of each, the same for all who are let in; Cache-Groups tells its tag",
        "GET /rates/EUR": "a rate, kept by hand",
        "GET /report": "takes a second the first time, and none afterwards: Cache-Status says why",
        "GET /greeting": "one for each language: Accept-Language: it",
        "POST /search": 'what has one of these words in its name: ["kettle"]',
        "GET /routes": "where each of these is answered from, and what its key contains",
        "GET /asked": "how often the sources behind the cache were asked",
        "GET /docs": "all of this in a browser",
    }


@app.get("/items/{item_id}")
@cache.cached(expire=60)
async def read_item(item_id: int) -> Item:
    ASKED["items"] += 1
    if item_id not in ITEMS:
        raise HTTPException(404, "no such item")
    return ITEMS[item_id]


@app.get("/items")
@cache.cached(expire="5s")  # changes show up within five seconds
def list_items(cheaper_than: Decimal | None = None, limit: int = 10) -> list[Item]:
    found = [item for item in ITEMS.values() if cheaper_than is None or item.price < cheaper_than]
    return found[:limit]


@app.put("/items/{item_id}", dependencies=[cache.invalidating(tags="stock")])  # once it has succeeded
async def update_item(item_id: int, name: str, price: Decimal) -> Item:
    ITEMS[item_id] = Item(id=item_id, name=name, price=price)
    await read_item.invalidate(item_id)
    return ITEMS[item_id]


async def current_user(credentials: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> User:
    user = USERS.get(credentials.credentials)
    if user is None:
        raise HTTPException(401, "unknown token")
    return user


@app.get("/me")
@cache.cached(expire="10m")
async def read_account(user: Annotated[User, Depends(current_user)]) -> Account:
    # The user is a parameter, so it is part of the key: nobody is served another's account.
    ASKED["accounts"] += 1
    return Account(user=user, orders=ORDERS[user.id])


staff = APIRouter(prefix="/staff", dependencies=[Depends(current_user)])


@staff.get("/stock")
@cache.cached(expire="10m", stale_while_revalidate="1h", shared=True, tags="stock")
async def read_stock() -> dict[str, int]:
    # Shared by those whom the guard of the router lets in, which is asked each time. After ten minutes it is stale: it
    # is still answered at once, and computed anew behind that.
    ASKED["stock"] += 1
    return {item.name: 10 * item.id for item in ITEMS.values()}


app.include_router(staff)


@app.get("/rates/{currency}")
async def read_rate(currency: str, store: CacheDep) -> dict[str, str]:
    key = f"rate:{currency}"
    rate = await store.aget(key)
    if rate is None:
        ASKED["rates"] += 1
        rate = "1.0842"
        await store.aset(key, rate, expire="5m")
    return {"currency": currency, "rate": rate}


@app.get("/report")
@cache.cached  # as long as init_app said: five minutes
async def read_report() -> Report:
    ASKED["reports"] += 1
    await asyncio.sleep(1)  # the slow query
    return Report(computed=ASKED["reports"], items=len(ITEMS), worth=sum((i.price for i in ITEMS.values()), Decimal(0)))


@app.get("/greeting")
@cache.cached(expire="1h", public=True, vary_on="Accept-Language")
async def greet(accept_language: Annotated[str, Header()] = "en") -> str:
    return "Buongiorno!" if accept_language.startswith("it") else "Good day!"


@app.post("/search")
@cache.cached(expire="1m", methods="POST")  # changes nothing: the body is part of the key
async def search(words: list[str]) -> list[Item]:
    return [item for item in ITEMS.values() if any(word.lower() in item.name.lower() for word in words)]


@app.get("/routes", response_class=PlainTextResponse)
def explain_routes() -> str:
    return str(cache.explain(app))


@app.get("/asked")
def read_asked() -> dict[str, int]:
    return ASKED
