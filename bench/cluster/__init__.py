"""One plan over many hosts by Dask distributed: an existing engine schedules, ours measures.

The unit is a block: all targets of a group once, on one host, so that what is paired stays on one host. Its
key is made of its content (plan hash, group, block); a block that is recorded is never recorded again.
"""
