"""The speed of this machine, alone or in turn with a peer's (launch/commands/bench.py), and reference loss curves."""
