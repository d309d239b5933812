"""AWS: the only place that speaks boto3. Stores read, one typed table translates what goes wrong."""
