"""What this machine lends: facts, paths, records on disk, child processes, errors."""
