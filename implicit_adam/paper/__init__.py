"""One figure or claim of the paper a file: a frozen config and a pure `run(config) -> arrays`."""
