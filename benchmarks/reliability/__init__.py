"""What kills and hostile answers do to the suite; nothing imports this room."""
