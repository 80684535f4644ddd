"""The figures, tables and claims of the paper, one per file: a frozen config and `run(config, advance)`."""
