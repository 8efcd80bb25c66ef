"""The tables of the report: accuracy, and what runs and checks have stored."""
