"""Everything a person or a cluster starts. Nothing imports launch but scripts and notebooks (launch.api)."""
