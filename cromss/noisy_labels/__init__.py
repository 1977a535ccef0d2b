"""The science of noisy labels as pure functions of tensors: smoothing, confidence, selection."""
