"""Where the instances of a service are found, and what is done while nobody knows."""
