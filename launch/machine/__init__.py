"""What is known of a machine and set on it: its devices, its compiler's options, what a config leaves to be chosen."""
