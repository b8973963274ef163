"""Derivatives of loss, update, statistics and metaparameters, compared with finite differences."""
