"""The sections of the page, a file each: a function of the runs that returns its markup."""
