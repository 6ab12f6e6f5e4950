"""AWS: settings, clients, metadata, tags. The only place that makes botocore clients."""
