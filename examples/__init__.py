"""Programs that run, and are run by the tests."""
