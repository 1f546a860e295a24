"""What drafting methods remember, compiled. Mostly an index over token sequences: which contexts were seen, what followed them,
and how often. No torch.

`trie` holds the data structure, `index` one index, `library` indexes of many namespaces, `beliefs` how far to trust what
is found, `growth` the trees that follow from it; `step` is what is called for every token, `views` how it is called cheaply.
`successors` is apart, what a target held likely after a token; `recycled` holds it.
"""

# How evidence becomes probabilities: all of it, each with the share it has earned; or the longest match alone. They stand
# here because this module is light: those below import a compiler.
BLEND, LONGEST_MATCH = 0, 1
