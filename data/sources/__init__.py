"""Where documents come from: files and data sets of many formats, read as documents."""
