"""The auxiliary service: holds the AWS clients and answers the gateway with buckets and parameters."""
