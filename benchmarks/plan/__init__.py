"""What a study will take and whether this machine can run it, said before anything is run. May be
used by the runner and the command line; it asks profiles and data, and runs nothing."""
