"""One figure or claim a file: a frozen config and a pure `run(config) -> arrays`."""
