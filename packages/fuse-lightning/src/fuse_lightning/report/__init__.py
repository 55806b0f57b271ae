"""A page of results for every run, as one file that needs no network: `RunReport`."""
