"""The command line: `aiosctl` for people, with one module per group of commands."""
