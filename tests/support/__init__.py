"""Real servers for the tests: Redis in every deployment, a uvicorn, and a proxy that makes the network misbehave."""
