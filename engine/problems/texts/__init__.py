"""Language models: texts of several sources, their tokens, and models of ``transformers``.

The packages ``transformers``, ``peft`` and ``tokenizers`` are an extra and are imported when a
recipe needs them.
"""
