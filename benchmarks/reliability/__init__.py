"""What kills, full disks and hostile answers do to a study; nothing imports this room."""
