"""The gateway: what curl, browsers and the load balancer reach."""
