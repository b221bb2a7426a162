"""Models and tokenizers. `source`: what a name means (no torch); `device`: where and in which precision; `load`: both loaded."""
