"""The ``bus`` command: talk to the bus of this node from a prompt or a script."""
