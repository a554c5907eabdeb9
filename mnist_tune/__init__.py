"""mnist-tune: the best learning rate and beta tonight, for a small CNN on MNIST."""
