"""What `make run` needs and production does not: an emulated AWS, demonstration data, a starter."""
