"""What lies on disk before and after training: recordings, prompts, moments, frame and token stores."""
