"""The network: functions of parameters and tokens. Knows no files, no data and no training."""
