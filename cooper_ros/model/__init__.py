"""The COOPER network: pure PyTorch modules and arithmetic, no files and no devices chosen."""
