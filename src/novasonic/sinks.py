"""Where a player's speech goes, other than to a device."""
