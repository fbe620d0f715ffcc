"""Experiments: functions that return one. `skald configs` lists them; the function `default` needs no variant."""
