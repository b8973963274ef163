"""The commands of ``mgd``, by what they are about. They import torch and Prefect themselves."""
