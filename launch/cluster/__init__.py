"""One run as several processes, on one machine or many: which of them this is, and joining the others."""
