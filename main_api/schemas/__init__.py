"""What comes in, checked; what goes out, as documented."""
