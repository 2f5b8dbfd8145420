"""A conversation as a stereo recording."""
