"""The forms in which a checkpoint goes out: a file for each.

own_code.py           transformers, with one file of code: what its config.json says; one_file.py makes the file of hub_model/
vilt_layout.py        ViltModel of transformers
dual_encoder.py       VisionTextDualEncoderModel of transformers
sentence_vectors.py   SentenceTransformer
"""
