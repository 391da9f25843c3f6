"""Real servers for the tests: a Redis of our own, and a uvicorn of our own."""
