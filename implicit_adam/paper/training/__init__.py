"""Full-batch training: many small networks in one sweep, or one large one at a time, resumable."""
