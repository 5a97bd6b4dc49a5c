"""The telling: a results file in; pages, tables, a notebook out. Everything here is a pure function of
samples."""
