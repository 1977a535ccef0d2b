"""What noisy labels do to the layers of a network (arXiv 2402.16164): two twins, layer by layer."""
