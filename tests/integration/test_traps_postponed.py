"""Annotations that are text: `from __future__ import annotations`, and classes that come later in the file."""

from __future__ import annotations

from typing import Annotated

import pytest
from fastapi import Depends, FastAPI, Request, Response
from fastapi.testclient import TestClient
from pydantic import BaseModel

from fast_cache import Cache, CacheBackend, InMemoryBackend, NotKeyed, RedisBackend

store = Cache()
loads: list[object] = []
app = FastAPI()


class User(BaseModel):
    name: str


class Part(BaseModel):
    name: str


class Item(BaseModel):
    id: int
    parts: list[Part]


def current_user(request: Request) -> User:
    return User(name=request.headers["x-user"])


@app.get("/items/{item_id}")
@store.cached(expire=60)
async def read_item(item_id: int, trace: Annotated[str, NotKeyed] = "") -> Item:
    loads.append(item_id)
    return Item(id=item_id, parts=[Part(name="lid")])


@app.get("/me")
@store.cached
async def read_me(user: Annotated[User, Depends(current_user)], response: Response) -> dict[str, Item | None]:
    loads.append(user.name)
    return {user.name: None}


@store.cached
def find(item_id: int) -> Later | None:
    loads.append("find")
    return Later(id=item_id, parts=[])


class Later(BaseModel):
    id: int
    parts: list[Part]


@pytest.mark.parametrize("kind", ["memory", "redis"])
def test_annotations_may_be_text_and_name_what_comes_later(kind: str, redis_url: str) -> None:
    loads.clear()
    backend: CacheBackend = InMemoryBackend() if kind == "memory" else RedisBackend(redis_url, namespace="postponed")
    store.init_app(app, backend)
    with TestClient(app) as client:
        for trace in ("a", "b"):
            answer = client.get("/items/7", params={"trace": trace})
            assert answer.json() == {"id": 7, "parts": [{"name": "lid"}]}
        assert loads == [7]
        for name in ("ada", "grace"):
            assert client.get("/me", headers={"x-user": name}).json() == {name: None}
        found = [find(1), find(1)]
    assert found == [Later(id=1, parts=[])] * 2
    assert type(found[1]) is Later
    assert loads.count("find") == 1
