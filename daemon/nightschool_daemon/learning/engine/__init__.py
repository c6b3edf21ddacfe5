"""The packed learning engine: trains on the very blocks that Ollama serves.

The base's weights stay memory-mapped in their GGUF blocks and are de-quantised one matrix at a time, in the
forward and in the backward pass; what is trained is small and lies beside them. The forward pass follows
llama.cpp's graphs, not those of transformers: it is the served model that has to learn.
"""
