"""What watches the loop, a file each: called with (run, event) for every event of train/events.py."""
