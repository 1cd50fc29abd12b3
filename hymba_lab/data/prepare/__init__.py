"""Text of any size to shards of tokens: `hymba-lab tokenize`.

`schema` is the file, `inputs` cuts the text into units of work, `documents` reads them one
document after another, `unit` makes the shards of one unit in a process of its own, `duplicates`
finds texts that came before, `finish` joins the validation parts and writes the index, `run` leads.
"""
