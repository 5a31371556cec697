"""A search without training: trials answered by a surrogate of real ones, on a cluster whose clock is simulated.

table.py      the committed table of real trials (`trial_table.py` makes it)
features.py   a recipe and its plan as numbers
surrogate.py  the accuracy of a recipe after each epoch, learnt from the table
quality.py    how well it knows recipes that it has not seen
trial.py      a trial's reports, in the order and at the epochs that a real one makes them
cluster.py    workers, failures and preemptions on a simulated clock
world.py      space, budgets and trials that a simulated search lives in
memory.py     the coordinator's store, in memory
ours.py       autoslim's own coordinator, proposer and scheduler on that cluster
real.py       the same world with trials that are really trained
peer.py       a peer as the cluster sees it
peers.py      what others do, on the same cluster
score.py      hypervolume and best accuracy over epochs and time
"""
