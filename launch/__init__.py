"""Everything a person or a cluster starts. Nothing imports launch but scripts and notebooks (launch.api)."""

VERSION = "0.4.0"  # pyproject.toml reads it here
