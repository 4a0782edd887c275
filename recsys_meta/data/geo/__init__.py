"""Cities and local times derived from coordinates."""
