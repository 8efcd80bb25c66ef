"""How fast it is, case by case; nothing imports this room."""
