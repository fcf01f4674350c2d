"""WeakSVR (CVPR 2023) and SVIP (CVPR 2022): videos against paragraphs, frames against sentences."""
