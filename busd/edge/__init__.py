"""Where bytes and identities come in: listeners, transports, and the pump between them and the bus."""
