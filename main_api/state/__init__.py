"""What is kept from one request to the next, in this process or shared; what is kept is decided elsewhere."""
