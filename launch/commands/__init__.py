"""The commands of `skald`, a file each: `main(arguments)` does the work and returns the exit status (launch/cli.py)."""
