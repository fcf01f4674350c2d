"""CARL (CVPR 2022): an embedding of every frame, learned from two views of each video; TCC and TCN beside."""
