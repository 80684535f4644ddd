"""Full-batch training, of many small networks in one sweep or of one large network, resumable."""
