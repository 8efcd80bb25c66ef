"""The suite around the methods: data, profiles, runs, results and reports; ``cli`` is its top."""
